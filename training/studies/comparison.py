"""A comparison of checkpoints on equal terms: one table over methods and seeds, with paired intervals.

Shapes: M networks, B inputs, K classes.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Literal

import torch
from pydantic.dataclasses import dataclass
from scipy.stats import t as student_t
from torch import Tensor

from models.checkpoint import Checkpoint, CheckpointError, dump_json, load_checkpoint, write_file
from models.predictions.detection import apply_temperature
from models.tasks.classification import Classification
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
from training.evaluation.measures import measure_accuracy, measure_auroc, measure_ece, measure_nll, ood_missed_at_5_id
from training.evaluation.summaries import Spread
from training.progress import track
from training.studies.figures import draw_curves

RESAMPLES = 1000
ROUNDING = 1e-6
"""Of an NLL, in nats: an ensemble is worth itself, though its figure and its curve are summed in other ways."""

SUBSETS = 20
"""Random ensembles of each size from the pool of separately trained networks."""


@dataclass(frozen=True)
class Interval:
    """A difference between methods, and where that of other inputs and trainings lies, with a confidence of 95 %.

    Where a method has one training, it is that of this training, whatever another one would be like.
    """

    difference: float
    low: float
    high: float


@dataclass(frozen=True)
class Equivalent:
    """How many separately trained networks have a method's NLL, each at its temperature (Ashukha et al., ICLR 2020)."""

    reference: str
    """The method that trains them."""
    networks: float
    """Interpolated, from 1 to as many as there are."""
    sign: Literal["=", "<", ">"]
    """`<` where one network has a smaller NLL already, `>` where all of them together still have a larger one."""


@dataclass(frozen=True)
class Row:
    """One method: figures are means and standard deviations over seeds."""

    method: str
    seeds: tuple[int, ...]
    networks: int
    """Of an ensemble."""
    figures: dict[str, Spread]
    differences: dict[str, Interval]
    """From the first method."""
    equivalents: tuple[Equivalent, ...]
    curves: dict[str, dict[int, float]]
    """Figures by the number of networks, means over seeds."""


@dataclass(frozen=True)
class Comparison:
    """What `comparison.json` holds."""

    dataset: str
    test_inputs: int
    versions: dict[str, str]
    """Of the checkpoints, by method and seed."""
    rows: tuple[Row, ...]
    references: dict[str, list[float]]
    """NLL of 1, 2, … separately trained networks, by the method that trains them."""


Figure = Callable[[Evidence, Tensor, Mapping[str, Tensor]], float]
"""From evidence, labels [B], and the inputs of each set that count."""


@flush_denormals()
def compare_directories(
    directories: Sequence[Path],
    out: Path,
    data: Path,
    device: torch.device,
    folders: Collection[Path],
    report: Callable[[str], None],
) -> None:
    """Compares checkpoints of one dataset; writes comparison.json, its table README.md and its figure to `out`.

    What `evaluate` left with a checkpoint is taken; one that was not evaluated on all of these sets is evaluated now.

    Raises:
        CheckpointError: if a checkpoint cannot be loaded or compared.
        DatasetError: if data is missing or damaged.
    """
    checkpoints = [load_checkpoint(directory, device) for directory in directories]
    name, versions = checkpoints[0].config.training.dataset, {}
    for directory, checkpoint in zip(directories, checkpoints, strict=True):
        training = checkpoint.config.training
        if training.dataset != name:
            raise CheckpointError(directory, f"is for {training.dataset}, but the first one for {name}")
        if not isinstance(checkpoint.config.task, Classification):
            raise CheckpointError(directory, "is no classifier; there are no class probabilities to compare")
        if checkpoint.calibration is None:
            raise CheckpointError(directory / "calibration.json", "is missing, so there is no temperature")
        label = f"{name_method(training)}, seed {training.seed}"
        if label in versions:
            raise CheckpointError(directory, f"is {label}, like another one; each must be another method or seed")
        versions[label] = checkpoint.version
    config = checkpoints[0].config
    dataset = load_training_data(config, data)
    outliers = load_outliers(name, data, folders, config.input)
    assert isinstance(dataset, Dataset)
    evidences = [
        _find_evidence(directory, checkpoint, dataset, outliers, report)
        for directory, checkpoint in zip(directories, checkpoints, strict=True)
    ]
    report("comparing")
    comparison = compare(evidences, versions, name, dataset, list(outliers))
    out.mkdir(parents=True, exist_ok=True)
    write_file(out / "comparison.json", dump_json(comparison))
    write_file(out / "README.md", describe(comparison).encode())
    panels = {name: {row.method: row.curves[name] for row in comparison.rows} for name in comparison.rows[0].curves}
    draw_curves(out / "comparison.svg", panels)


def _find_evidence(
    directory: Path,
    checkpoint: Checkpoint,
    dataset: Dataset,
    outliers: Mapping[str, Tensor],
    report: Callable[[str], None],
) -> Evidence:
    origin = trace_origin(checkpoint, dataset, outliers)
    evidence = load_evidence(directory)
    if evidence is None or not evidence.origin.covers(origin):
        report(f"{directory}: evaluating")
        try:
            outputs = evaluate_sets(checkpoint, dataset, outliers)
        except ValueError as error:
            raise CheckpointError(directory, str(error)) from error
        evidence = gather_evidence(checkpoint, dataset, origin, outputs)
        save_evidence(directory, evidence)
    return evidence


def list_figures(outliers: Sequence[str]) -> dict[str, Figure]:
    """Figures by name; NLL and ECE are after temperature."""
    figures: dict[str, Figure] = {
        "accuracy": lambda e, labels, i: measure_accuracy(e.log_probabilities[i["test"]], labels[i["test"]]),
        "NLL": lambda e, labels, i: measure_nll(e.log_probabilities[i["test"]], labels[i["test"]]),
        "ECE": lambda e, labels, i: measure_ece(e.log_probabilities[i["test"]].exp(), labels[i["test"]]),
    }
    for name in outliers:
        figures[f"{name} AUROC"] = _separate(measure_auroc, name)
        figures[f"{name} missed"] = _separate(ood_missed_at_5_id, name)
    return figures


def _separate(measure: Callable[[Tensor, Tensor], float], name: str) -> Figure:
    return lambda e, _, i: measure(e.entropies["test"][i["test"]], e.entropies[name][i[name]])


def compare(
    evidences: Sequence[Evidence],
    versions: Mapping[str, str],
    dataset_name: str,
    dataset: Dataset,
    outliers: Sequence[str],
) -> Comparison:
    """Compares methods, each with one seed or several; the first method is what the others are measured against.

    Args:
        evidences: of all checkpoints.
        versions: of the checkpoints, by method and seed.
        dataset_name: that they are for.
        dataset: likewise.
        outliers: names of the sets that are told from the test set.
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
    figures = list_figures(outliers)
    whole = {name: torch.arange(len(first[0].entropies[name])) for name in ("test", *outliers)}
    labels = dataset.test.labels
    rows = []
    for method, own in methods.items():
        values = {
            name: torch.tensor([figure(evidence, labels, whole) for evidence in own]).double()
            for name, figure in figures.items()
        }
        rows.append(
            Row(
                method=method,
                seeds=tuple(evidence.seed for evidence in own),
                networks=own[0].networks,
                figures={n: Spread(float(v.mean()), float(v.std()) if len(v) > 1 else 0.0) for n, v in values.items()},
                differences={} if own is first else measure_differences(figures, own, first, labels, whole),
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
    figures: Mapping[str, Figure],
    own: Sequence[Evidence],
    others: Sequence[Evidence],
    labels: Tensor,
    whole: Mapping[str, Tensor],
) -> dict[str, Interval]:
    """Figures of a method less those of another one, both averaged over trainings.

    The standard error is that of a paired bootstrap, which draws inputs anew, the same for both methods, and trainings.
    Of k trainings it draws k − 1, as k of so few vary too little (Rao & Wu, "Resampling Inference With Complex Survey
    Data", 1988). The few that there are also make the error uncertain: Student's t for it has the degrees of freedom of
    Welch and Satterthwaite.
    """
    generator = torch.Generator().manual_seed(0)

    def measure(figure: Figure, inputs: Mapping[str, Tensor]) -> list[Tensor]:
        return [torch.tensor([figure(e, labels, inputs) for e in part]).double() for part in (own, others)]

    samples: dict[str, list[Tensor]] = {name: [] for name in figures}
    for _ in track(range(RESAMPLES), "resampling", "sample"):
        inputs = {n: torch.randint(len(i), (len(i),), generator=generator) for n, i in whole.items()}
        drawn = [torch.randint(len(p), (max(1, len(p) - 1),), generator=generator) for p in (own, others)]
        for name, figure in figures.items():
            ours, theirs = (values[d].mean() for values, d in zip(measure(figure, inputs), drawn, strict=True))
            samples[name].append(ours - theirs)
    intervals = {}
    for name, figure in figures.items():
        values = measure(figure, whole)
        difference, variance = float(values[0].mean() - values[1].mean()), float(torch.stack(samples[name]).var())
        uncertain = sum(float(v.var() / len(v)) ** 2 / (len(v) - 1) for v in values if len(v) > 1)
        freedom = variance**2 / uncertain if uncertain else math.inf
        reach = float(student_t.ppf(0.975, freedom)) * math.sqrt(variance)
        intervals[name] = Interval(difference, difference - reach, difference + reach)
    return intervals


def measure_reference(evidences: Sequence[Evidence], dataset: Dataset) -> list[float]:
    """NLL of ensembles of 1, 2, … of all networks of all seeds, each at a temperature fitted on validation inputs.

    Means over random subsets, which overlap much when they are large.
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
    """The number of networks at which a reference's NLL, made to fall monotonously, first is as small as this one."""
    lowest = curve[0]
    if nll >= lowest - ROUNDING:
        return Equivalent(reference, 1.0, sign="<" if nll > lowest + ROUNDING else "=")
    for size, value in enumerate(curve[1:], start=2):
        if value <= nll + ROUNDING:
            return Equivalent(reference, size - max(0.0, nll - value) / (lowest - value), sign="=")
        lowest = min(lowest, value)
    return Equivalent(reference, float(len(curve)), sign=">")


def describe(comparison: Comparison) -> str:
    """A comparison as Markdown."""
    names = list(comparison.rows[0].figures)
    references = list(comparison.references)
    columns = [*names, *(f"worth, in networks of {name}" for name in references)]
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

On the {comparison.test_inputs:,} test images; mean ± standard deviation over seeds. NLL and ECE are after temperature.
AUROC tells other images from test images by predictive entropy; missed is the share of them that is not flagged where
5 % of the test images are. The last columns are deep-ensemble equivalents: how many separately trained networks have
this NLL. Made by `hyperdraw-train compare`.

| | seeds | networks | {" | ".join(columns)} |
| --- | --- | --- |{" --- |" * len(columns)}
{chr(10).join(rows)}

Differences from {first}, seeds averaged, with 95 % intervals from {RESAMPLES:,} paired bootstrap resamples of images
and of trainings.{_name_single(comparison)}

| | {" | ".join(names)} |
| --- |{" --- |" * len(names)}
{chr(10).join(differences)}

![By the number of networks](comparison.svg)
"""


def _name_single(comparison: Comparison) -> str:
    """Which methods have one training, so that nothing is known of another one."""
    single = [row.method for row in comparison.rows if len(row.seeds) == 1]
    if not single:
        return ""
    return (
        f" There is one training of {', '.join(single)}: as to these, an interval holds for that training alone, "
        "whatever another one would be like."
    )


def _is_share(name: str) -> bool:
    return name == "accuracy" or name.endswith("missed")


def _format_spread(name: str, spread: Spread, seeds: int) -> str:
    pattern = "{:.2%}" if _is_share(name) else "{:.4f}"
    return pattern.format(spread.mean) + (f" ± {pattern.format(spread.std)}" if seeds > 1 else "")


def _format_interval(name: str, interval: Interval) -> str:
    scale, pattern = (100, "{:+.2f}") if _is_share(name) else (1, "{:+.4f}")
    numbers = [pattern.format(scale * n) for n in (interval.difference, interval.low, interval.high)]
    return f"{numbers[0]} ({numbers[1]} to {numbers[2]})"
