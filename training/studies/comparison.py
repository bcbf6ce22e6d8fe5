"""A comparison of checkpoints on equal terms: one table of methods over seeds, with paired intervals.

Shapes: M networks, B inputs, K classes.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Literal

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor

from models.checkpoint import Checkpoint, load_checkpoint
from models.checkpoint_files import CheckpointError, dump_json, write_file
from models.predictions.detection import apply_temperature
from models.tasks.probabilities import average_logits
from training.data.dataset import Dataset
from training.data.datasets import load_training_data
from training.data.outlier_sets import load_outliers
from training.denormals import flush_denormals
from training.evaluation.calibration import fit_temperature
from training.evaluation.evaluation import evaluate_sets
from training.evaluation.evidence import (
    Evidence,
    gather_evidence,
    load_evidence,
    name_method,
    save_evidence,
    trace_origin,
)
from training.evaluation.measures import measure_nll
from training.evaluation.summaries import Spread
from training.progress import announce, track
from training.studies.comparison_metrics import Metric, count_decimals, is_share, list_metrics
from training.studies.figures import draw_curves

RESAMPLES = 1000
ROUNDING = 1e-6
"""Rounding of an NLL in nats: an ensemble's metric and its curve are summed in different orders."""

SUBSETS = 20
"""Number of random ensembles of each size from the pool of separately trained networks."""


@dataclass(frozen=True)
class Interval:
    """A difference between methods, with its 95 % confidence interval over inputs and trainings.

    If a method has only one training, the interval holds for that training alone.
    """

    difference: float
    low: float
    high: float


@dataclass(frozen=True)
class Equivalent:
    """The number of separately trained networks with the NLL of a method, both at their temperatures (Ashukha et al.,
    ICLR 2020).
    """

    reference: str
    """The method that trains them."""
    networks: float
    """Interpolated; from 1 to the size of the pool."""
    sign: Literal["=", "<", ">"]
    """`<` if a single network already has a smaller NLL, `>` if all of them together still have a larger one."""


@dataclass(frozen=True)
class Row:
    """Metrics of one method."""

    method: str
    seeds: tuple[int, ...]
    networks: int
    """Size of an ensemble."""
    figures: dict[str, Spread]
    """Metrics by name: means and standard deviations over seeds."""
    differences: dict[str, Interval]
    """Differences from the first method, by metric."""
    equivalents: tuple[Equivalent, ...]
    curves: dict[str, dict[int, float]]
    """Metrics by the number of networks, means over seeds."""


@dataclass(frozen=True)
class Comparison:
    """The contents of `comparison.json`."""

    dataset: str
    test_inputs: int
    versions: dict[str, str]
    """Versions of the checkpoints, by method and seed."""
    rows: tuple[Row, ...]
    references: dict[str, list[float]]
    """NLL of 1, 2, … separately trained networks, by the method that trains them."""


@flush_denormals()
def compare_directories(
    directories: Sequence[Path],
    out: Path,
    data: Path,
    device: torch.device,
    folders: Collection[Path],
) -> None:
    """Compares checkpoints of one dataset; writes comparison.json, its table README.md and its figure to `out`.

    Evidence that `evaluate` left with a checkpoint is used. A checkpoint without evidence on all sets is evaluated.

    Raises:
        CheckpointError: if a checkpoint cannot be loaded or compared.
        DatasetError: if data is missing or damaged.
    """
    checkpoints = [load_checkpoint(directory, device) for directory in directories]
    name, versions = checkpoints[0].config.training.dataset, {}
    for directory, checkpoint in zip(directories, checkpoints, strict=True):
        training = checkpoint.config.training
        if training.dataset != name:
            raise CheckpointError(directory, f"was trained on {training.dataset}, but the first checkpoint on {name}")
        if not checkpoint.config.task.has_classes:
            raise CheckpointError(directory, "is not a classifier; it has no class probabilities to compare")
        if checkpoint.calibration is None:
            raise CheckpointError(directory / "calibration.json", "is missing; calibrate the checkpoint first")
        label = f"{name_method(training)}, seed {training.seed}"
        if label in versions:
            raise CheckpointError(
                directory, f"is {label}, like another checkpoint; each must have another method or seed"
            )
        versions[label] = checkpoint.version
    config = checkpoints[0].config
    dataset = load_training_data(config, data)
    outliers = load_outliers(name, data, folders, config.input)
    assert isinstance(dataset, Dataset)
    evidences = [
        _find_evidence(directory, checkpoint, dataset, outliers)
        for directory, checkpoint in zip(directories, checkpoints, strict=True)
    ]
    announce("comparing")
    comparison = compare(evidences, versions, name, dataset, list(outliers))
    out.mkdir(parents=True, exist_ok=True)
    write_file(out / "comparison.json", dump_json(comparison))
    write_file(out / "README.md", format_comparison(comparison).encode())
    panels = {name: {row.method: row.curves[name] for row in comparison.rows} for name in comparison.rows[0].curves}
    draw_curves(out / "comparison.svg", panels)


def _find_evidence(
    directory: Path,
    checkpoint: Checkpoint,
    dataset: Dataset,
    outliers: Mapping[str, Tensor],
) -> Evidence:
    origin = trace_origin(checkpoint, dataset, outliers)
    evidence = load_evidence(directory)
    if evidence is None or not evidence.origin.covers(origin):
        announce(f"{directory}: evaluating")
        try:
            outputs = evaluate_sets(checkpoint, dataset, outliers)
        except ValueError as error:
            raise CheckpointError(directory, str(error)) from error
        evidence = gather_evidence(checkpoint, dataset, origin, outputs)
        save_evidence(directory, evidence)
    return evidence


def compare(
    evidences: Sequence[Evidence],
    versions: Mapping[str, str],
    dataset_name: str,
    dataset: Dataset,
    outliers: Sequence[str],
) -> Comparison:
    """Compares methods, each with one seed or several. Differences are taken from the first method.

    Args:
        evidences: evidence of all checkpoints.
        versions: versions of the checkpoints, by method and seed.
        dataset_name: name of the dataset.
        dataset: the dataset that all were trained on.
        outliers: names of the sets of outliers.
    """
    methods: dict[str, list[Evidence]] = {}
    for evidence in evidences:
        methods.setdefault(evidence.method, []).append(evidence)
    references = {
        method: measure_reference(own, dataset)
        for method, own in methods.items()
        if all(evidence.members for evidence in own)
    }
    first = next(iter(methods.values()))
    metrics = list_metrics(outliers)
    whole = {name: torch.arange(len(first[0].entropies[name])) for name in ("test", *outliers)}
    labels = dataset.test.labels
    rows = []
    for method, own in methods.items():
        values = {
            name: torch.tensor([metric(evidence, labels, whole) for evidence in own]).double()
            for name, metric in metrics.items()
        }
        rows.append(
            Row(
                method=method,
                seeds=tuple(evidence.seed for evidence in own),
                networks=own[0].networks,
                figures={n: Spread(float(v.mean()), float(v.std()) if len(v) > 1 else 0.0) for n, v in values.items()},
                differences={} if own is first else measure_differences(metrics, own, first, labels, whole),
                equivalents=tuple(
                    find_equivalent(reference, curve, float(values["NLL"].mean()))
                    for reference, curve in references.items()
                ),
                curves={
                    name: {size: sum(e.curves[name][size] for e in own) / len(own) for size in own[0].curves[name]}
                    for name in ("NLL", *(f"{name} AUROC" for name in outliers))
                },
            )
        )
    return Comparison(dataset_name, len(labels), dict(versions), tuple(rows), references)


def measure_differences(
    metrics: Mapping[str, Metric],
    own: Sequence[Evidence],
    others: Sequence[Evidence],
    labels: Tensor,
    whole: Mapping[str, Tensor],
) -> dict[str, Interval]:
    """Metrics of a method minus those of another one, both averaged over trainings.

    The standard error comes from a paired bootstrap over inputs, the same for both methods, and over trainings. Of k
    trainings it draws k − 1, because k would vary too little (Rao & Wu, "Resampling Inference With Complex Survey
    Data", 1988). Few trainings also make the error uncertain, so the interval uses Student's t with the degrees of
    freedom of Welch and Satterthwaite.
    """
    generator = torch.Generator().manual_seed(0)

    def measure(metric: Metric, inputs: Mapping[str, Tensor]) -> list[Tensor]:
        return [torch.tensor([metric(e, labels, inputs) for e in part]).double() for part in (own, others)]

    samples: dict[str, list[Tensor]] = {name: [] for name in metrics}
    for _ in track(range(RESAMPLES), "resampling", "sample"):
        inputs = {n: torch.randint(len(i), (len(i),), generator=generator) for n, i in whole.items()}
        drawn = [torch.randint(len(p), (max(1, len(p) - 1),), generator=generator) for p in (own, others)]
        for name, metric in metrics.items():
            ours, theirs = (values[d].mean() for values, d in zip(measure(metric, inputs), drawn, strict=True))
            samples[name].append(ours - theirs)
    from scipy.stats import t as student_t  # takes long to import

    intervals = {}
    for name, metric in metrics.items():
        values = measure(metric, whole)
        difference, variance = float(values[0].mean() - values[1].mean()), float(torch.stack(samples[name]).var())
        uncertain = sum(float(v.var() / len(v)) ** 2 / (len(v) - 1) for v in values if len(v) > 1)
        freedom = variance**2 / uncertain if uncertain else math.inf
        reach = float(student_t.ppf(0.975, freedom)) * math.sqrt(variance)
        intervals[name] = Interval(difference, difference - reach, difference + reach)
    return intervals


def measure_reference(evidences: Sequence[Evidence], dataset: Dataset) -> list[float]:
    """NLL of ensembles of 1, 2, … networks of all seeds, each at a temperature fitted on validation inputs.

    These are means over random subsets; large subsets overlap much.
    """
    test, validation = (torch.cat([e.members[split] for e in evidences]).double() for split in ("test", "validation"))
    generator = torch.Generator().manual_seed(0)
    curve = []
    for size in track(range(1, len(test) + 1), "ensembles", "size"):
        losses = []
        for _ in range(SUBSETS if size < len(test) else 1):
            chosen = torch.randperm(len(test), generator=generator)[:size]
            temperature = fit_temperature(average_logits(validation[chosen]), dataset.validation.labels)
            tempered = apply_temperature(average_logits(test[chosen]), temperature)
            losses.append(measure_nll(tempered, dataset.test.labels))
        curve.append(sum(losses) / len(losses))
    return curve


def find_equivalent(reference: str, curve: Sequence[float], nll: float) -> Equivalent:
    """The number of networks at which a reference's NLL, made monotonic, first is as small as this one."""
    lowest = curve[0]
    if nll >= lowest - ROUNDING:
        return Equivalent(reference, 1.0, sign="<" if nll > lowest + ROUNDING else "=")
    for size, value in enumerate(curve[1:], start=2):
        if value <= nll + ROUNDING:
            return Equivalent(reference, size - max(0.0, nll - value) / (lowest - value), sign="=")
        lowest = min(lowest, value)
    return Equivalent(reference, float(len(curve)), sign=">")


def format_comparison(comparison: Comparison) -> str:
    """A comparison as Markdown."""
    names = list(comparison.rows[0].figures)
    references = list(comparison.references)
    columns = [*names, *(f"equivalent in networks of {name}" for name in references)]
    rows, differences = [], []
    for row in comparison.rows:
        cells = [_format_spread(name, row.figures[name], len(row.seeds)) for name in names]
        cells += [f"{e.sign} {e.networks:.1f}".removeprefix("= ") for e in row.equivalents]
        rows.append(f"| {row.method} | {len(row.seeds)} | {row.networks} | {' | '.join(cells)} |")
        if row.differences:
            cells = [_format_interval(name, interval) for name, interval in row.differences.items()]
            differences.append(f"| {row.method} | {' | '.join(cells)} |")
    first = comparison.rows[0].method
    return f"""# Comparison on {comparison.dataset}

Metrics are measured on {comparison.test_inputs:,} test images: mean ± standard deviation over seeds. NLL and ECE are
taken at the calibrated temperature. AURC, AUGRC and the coverage at 1 % risk say how well predictive entropy ranks
answers by whether they are wrong. AUROC is how well it tells outliers from test images; missed is the share of outliers
that are not flagged when 5 % of the test images are. `flag` means the score that raises the flag `out_of_distribution`,
instead of the entropy. The last columns are deep-ensemble equivalents: the number of separately trained networks with
the same NLL. Made by `hyperdraw-train compare`.

| | seeds | networks | {" | ".join(columns)} |
| --- | --- | --- |{" --- |" * len(columns)}
{chr(10).join(rows)}

Differences from {first}, averaged over seeds, with 95 % confidence intervals from {RESAMPLES:,} paired bootstrap
resamples of images and trainings.{_name_single(comparison)}

| | {" | ".join(names)} |
| --- |{" --- |" * len(names)}
{chr(10).join(differences)}

![Metrics by the number of networks](comparison.svg)
"""


def _name_single(comparison: Comparison) -> str:
    """Names the methods with a single training, of which intervals say less."""
    single = [row.method for row in comparison.rows if len(row.seeds) == 1]
    if not single:
        return ""
    return (
        f" There is only one training of {', '.join(single)}: for these, an interval says nothing about other "
        "trainings."
    )


def _format_spread(name: str, spread: Spread, seeds: int) -> str:
    pattern = "{:.2%}" if is_share(name) else f"{{:.{count_decimals(name)}f}}"
    return pattern.format(spread.mean) + (f" ± {pattern.format(spread.std)}" if seeds > 1 else "")


def _format_interval(name: str, interval: Interval) -> str:
    scale, pattern = (100, "{:+.2f}") if is_share(name) else (1, f"{{:+.{count_decimals(name)}f}}")
    numbers = [pattern.format(scale * n) for n in (interval.difference, interval.low, interval.high)]
    return f"{numbers[0]} ({numbers[1]} to {numbers[2]})"
