"""The ablation of HyperGAN: a recipe without some of its parts, with several seeds each, in one table."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev

from pydantic.dataclasses import dataclass

from models.checkpoint import load_checkpoint
from models.checkpoint_files import dump_json, write_file
from training.evaluation.metrics import ClassificationMetrics, load_metrics
from training.evaluation.summaries import Spread
from training.progress import track
from training.recipes.recipe import Part, Recipe
from training.recipes.variation import vary
from training.runs.session import Session, check_repeated, train


@dataclass(frozen=True)
class Variant:
    """One row of the table."""

    name: str
    description: str
    without: tuple[Part, ...] = ()
    accuracy_weight: float | None = None
    """λ of gauge-fixed entropy, normalised by layer; None without entropy."""
    moment_matching_weight: float | None = None

    def vary(self, recipe: Recipe) -> Recipe:
        """Makes the variant of a recipe."""
        return vary(
            recipe,
            self.without,
            accuracy_weight=self.accuracy_weight,
            moment_matching_weight=self.moment_matching_weight,
        )


_NO_DISCRIMINATOR = (Part.DISCRIMINATOR,)
VARIANTS = (
    Variant("paper", "mixer and discriminator, as in the paper, with corrections", moment_matching_weight=0.0),
    Variant("no-mixer", "no mixer: independent codes, so no discriminator", (Part.MIXER,)),
    Variant("no-discriminator", "no discriminator: free codes", _NO_DISCRIMINATOR, None, 0.0),
    Variant("moments", "moment matching instead of the discriminator", _NO_DISCRIMINATOR),
    Variant("both", "discriminator and moment matching: the recipe"),
    Variant("both-entropy", "discriminator, moment matching and gauge-fixed entropy", (), 6400.0),
    Variant("entropy", "only gauge-fixed entropy: free codes", _NO_DISCRIMINATOR, 6400.0, 0.0),
)


@dataclass(frozen=True)
class Row:
    """Metrics of a variant over its seeds."""

    variant: Variant
    seeds: tuple[int, ...]
    figures: dict[str, Spread]
    """Metrics by column, over seeds."""


@dataclass(frozen=True)
class Ablation:
    """The contents of `ablation.json`."""

    recipe: str
    steps: int
    rows: tuple[Row, ...]


COLUMNS = {
    "single accuracy": "{:.2%}",
    "ensemble of 100": "{:.2%}",
    "NLL of 100": "{:.4f}",
    "disagreement": "{:.2%}",
    "MI ratio": "{:.1f}",
    "AUROC by PE": "{:.4f}",
    "AUROC by MI": "{:.4f}",
}


def ablate(session: Session, seeds: Sequence[int]) -> bool:
    """Trains every variant of a session's recipe with every seed, each in its own directory below `session.out`.

    Finished runs are kept, and interrupted ones are resumed. The table is made of all finished runs there.

    Returns:
        Whether all runs are finished.

    Raises:
        TrainingError: if a directory holds a run with another command.
    """
    for variant in VARIANTS:
        for seed in _list_finished(session, variant):
            check_repeated(_prepare(session, variant, seed))
    runs = [(seed, variant) for seed in seeds for variant in VARIANTS]  # so that a table exists early
    for seed, variant in track(runs, "ablation", "run"):
        if seed in _list_finished(session, variant):
            continue
        run = _prepare(session, variant, seed)
        if not train(replace(run, resume=run.state_file.exists())):
            return False
        save_table(session)
    save_table(session)
    return True


def _prepare(session: Session, variant: Variant, seed: int) -> Session:
    return replace(session, recipe=variant.vary(session.recipe), out=session.out / variant.name / str(seed), seed=seed)


def _list_finished(session: Session, variant: Variant) -> list[int]:
    return sorted(int(path.parent.name) for path in (session.out / variant.name).glob("*/metrics.json"))


def save_table(session: Session) -> None:
    """Writes ablation.json and its table, README.md, from the finished runs."""
    rows = []
    for variant in VARIANTS:
        if finished := _list_finished(session, variant):
            runs = [_read_metrics(session.out / variant.name / str(seed)) for seed in finished]
            metrics = {
                name: Spread(mean(run[name] for run in runs), stdev(run[name] for run in runs) if len(runs) > 1 else 0)
                for name in COLUMNS
            }
            rows.append(Row(variant, tuple(finished), metrics))
    ablation = Ablation(session.recipe.name, session.steps or session.recipe.steps, tuple(rows))
    write_file(session.out / "ablation.json", dump_json(ablation))
    write_file(session.out / "README.md", _format_table(ablation).encode())


def _read_metrics(directory: Path) -> dict[str, float]:
    metrics = load_metrics(load_checkpoint(directory))
    assert isinstance(metrics, ClassificationMetrics)
    notmnist = next(outliers for outliers in metrics.outliers if outliers.dataset == "notmnist")
    return {
        "single accuracy": metrics.single.accuracy_mean,
        "ensemble of 100": metrics.whole.accuracy,
        "NLL of 100": metrics.whole.plain.nll,
        "disagreement": metrics.disagreement,
        "MI ratio": notmnist.mutual_information / metrics.mutual_information,
        "AUROC by PE": notmnist.scores["predictive_entropy"].auroc,
        "AUROC by MI": notmnist.scores["mutual_information"].auroc,
    }


def _format(spread: Spread, pattern: str, seeds: int) -> str:
    return pattern.format(spread.mean) + (f" ± {pattern.format(spread.std)}" if seeds > 1 else "")


def _format_table(ablation: Ablation) -> str:
    rows = []
    for row in ablation.rows:
        cells = [_format(row.figures[name], f, len(row.seeds)) for name, f in COLUMNS.items()]
        entropy = f", λ = {row.variant.accuracy_weight:g}" if row.variant.accuracy_weight else ""
        rows.append(f"| {row.variant.description}{entropy} | {len(row.seeds)} | {' | '.join(cells)} |")
    header = " | ".join(COLUMNS)
    return f"""# Ablation of {ablation.recipe}

Each run has {ablation.steps:,} steps. Metrics are measured on the test set with 100 sampled networks: mean ± standard deviation
over seeds. MI ratio is the mean mutual information on notMNIST divided by that on the test set, and AUROC is how well
predictive entropy (PE) or mutual information (MI) tells the two apart. Made by `hyperdraw-train ablate`.

| | seeds | {header} |
| --- | --- |{" --- |" * len(COLUMNS)}
{chr(10).join(rows)}
"""
