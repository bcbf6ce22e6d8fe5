"""The report on a model of a user's own images: how good it is, and where its errors are.

Shapes: B test images.
"""

import shlex
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor

from models.checkpoint import Checkpoint
from models.predictions.prediction import interpret
from training.data.foreign import KINDS, make_foreign_images
from training.data.image_folders import LISTED, ImageFolder
from training.data.image_tree import show
from training.denormals import flush_denormals
from training.evaluation.baseline import Baseline, PlainNetwork, measure_baseline
from training.evaluation.evaluation import evaluate_split
from training.evaluation.metrics import ClassificationMetrics, ClassMetrics
from training.evaluation.summaries import FEW, Share, estimate_share, measure_share

FILE = "report.json"
FOREIGN_IMAGES, FOREIGN_SEED = 100, 12
"""Made-up foreign images of each kind, and the seed of all. They are not those that the calibration chose scores by."""

LEAST_DISPUTE = 0.001
"""Mutual information in nats below which networks count as agreeing."""


@dataclass(frozen=True)
class Confusion:
    """Test images of one class that are mistaken for another."""

    label: str
    answer: str
    images: int


@dataclass(frozen=True)
class DisputedImage:
    """A test image that the networks disagree on."""

    path: str
    label: str
    answer: str
    mutual_information: float
    """In nats."""


@dataclass(frozen=True)
class ImagesReport:
    """The report at the end of `hyperdraw-train images` and `import`, and the contents of `report.json`."""

    checkpoint: str
    version: str
    dataset: str
    images: dict[str, dict[str, int]]
    """Numbers of images by class and split."""
    folds: int | None
    """Number of folds of the training images that calibrated the model, if no images were held out for that."""
    unreadable: dict[str, str]
    left_out: dict[str, tuple[str, ...]]
    """Files that are not images, or lie outside the classes' folders, by kind."""
    contradictory: dict[str, str]
    copies: dict[str, str]
    networks: int
    single_accuracy: Share
    """Mean accuracy of single networks."""
    accuracy: Share
    """Accuracy of the ensemble of all networks; the metrics of classes are its too."""
    majority_accuracy: float
    """Accuracy of always answering the most frequent class."""
    balanced_accuracy: float
    """Mean recall of the classes."""
    classes: tuple[ClassMetrics, ...]
    nll: float
    """NLL of the ensemble of all networks at its temperature; the ECE is its too."""
    ece: float
    confusions: tuple[Confusion, ...]
    disputed: tuple[DisputedImage, ...]
    false_alarm_rate: float
    """False alarm rate that flags were calibrated for."""
    false_alarms: dict[str, Share]
    """Measured false alarms on the test images, by flag."""
    foreign: dict[str, Share]
    """Share of made-up foreign images that are flagged as out of distribution, by kind."""
    baseline: Baseline | None
    """A simpler model on the same features, if there is a backbone."""
    plain_network: PlainNetwork | None
    """A single network that was trained on the same images, if there is no backbone."""
    cautions: tuple[str, ...]
    """Reasons why these metrics may promise too much."""
    commands: tuple[str, ...]
    """Commands that serve the model and request a prediction."""


@flush_denormals()
def make_report(
    out: Path,
    folder: Path,
    images: ImageFolder,
    checkpoint: Checkpoint,
    metrics: ClassificationMetrics,
    plain: PlainNetwork | None = None,
) -> ImagesReport:
    """Makes the report of a checkpoint that was just trained, calibrated and evaluated.

    Args:
        out: directory of the checkpoint.
        folder: folder of the images.
        images: the images that were read from it.
        checkpoint: the checkpoint in `out`.
        metrics: its metrics on the test split.
        plain: the plain network to compare with, if one was trained.
    """
    test, calibration = images.dataset.test, checkpoint.calibration
    assert calibration is not None
    assert metrics.majority_accuracy is not None
    assert metrics.balanced_accuracy is not None
    classes = list(images.count())
    prediction = interpret(checkpoint.config.task, evaluate_split(checkpoint, test.inputs))
    answers = prediction.probabilities.argmax(-1)
    pairs = zip(test.labels.tolist(), answers.tolist(), strict=True)
    wrong = Counter((classes[label], classes[answer]) for label, answer in pairs if label != answer)
    information = prediction.score("mutual_information")
    disputed = tuple(
        DisputedImage(
            path=show(folder / images.paths["test"][index]),
            label=classes[test.labels[index]],
            answer=classes[answers[index]],
            mutual_information=float(information[index]),
        )
        for index in torch.argsort(information, descending=True, stable=True)[:LISTED].tolist()
        if information[index] > LEAST_DISPUTE
    )
    rate = calibration.default_rate
    foreign = measure_foreign(checkpoint, test.inputs)
    printable = [path for path in images.paths["test"] if show(path) == str(path)]
    path = shlex.quote(show(folder / (printable or images.paths["test"])[0]))
    name = shlex.quote(checkpoint.name)
    return ImagesReport(
        checkpoint=str(out),
        version=checkpoint.version,
        dataset=images.name,
        images={name: {str(split): n for split, n in counts.items()} for name, counts in images.count().items()},
        folds=images.dataset.folds,
        unreadable=dict(images.unreadable),
        left_out={kind: tuple(paths) for kind, paths in images.left_out.items()},
        contradictory=dict(images.contradictory),
        copies=dict(images.copies),
        networks=metrics.networks,
        single_accuracy=estimate_share(metrics.single.accuracy_mean, len(test)),
        accuracy=estimate_share(metrics.whole.accuracy, len(test)),
        majority_accuracy=metrics.majority_accuracy,
        balanced_accuracy=metrics.balanced_accuracy,
        classes=metrics.classes,
        nll=metrics.whole.tempered.nll,
        ece=metrics.whole.tempered.ece,
        confusions=tuple(Confusion(*pair, count) for pair, count in wrong.most_common(LISTED)),
        disputed=disputed,
        false_alarm_rate=rate,
        false_alarms={f.flag: estimate_share(f.flagged, len(test)) for f in metrics.flags if f.rate == rate},
        foreign=foreign,
        baseline=measure_baseline(images.dataset) if images.dataset.backbone and len(images.dataset.train) else None,
        plain_network=plain,
        cautions=(*list_cautions(metrics), *list_unseen(foreign)),
        commands=(f"hyperdraw-serve --checkpoints {shlex.quote(str(out))}", f"hyperdraw predict {path} --model {name}"),
    )


def measure_foreign(checkpoint: Checkpoint, images: Tensor) -> dict[str, Share]:
    """Share of foreign images, made of these, that are flagged as out of distribution, by kind."""
    made = make_foreign_images(images, FOREIGN_IMAGES * len(KINDS), FOREIGN_SEED)
    prediction = interpret(checkpoint.config.task, evaluate_split(checkpoint, made))
    assert checkpoint.calibration is not None
    flagged = checkpoint.calibration.judge(prediction)["out_of_distribution"].flagged
    return {
        kind: estimate_share(measure_share(flagged[number :: len(KINDS)]), FOREIGN_IMAGES)
        for number, kind in enumerate(KINDS)
    }


def list_unseen(foreign: Mapping[str, Share]) -> list[str]:
    """Lists kinds of foreign images of which the flag misses most."""
    unseen = [kind for kind, share in foreign.items() if share.share < 0.5]
    return [f"Most {kind} are not flagged, so other foreign images may not be either." for kind in unseen]


def list_cautions(metrics: ClassificationMetrics) -> list[str]:
    """Lists why metrics may promise too much: classes never recognised, no better than guessing, or few images."""
    cautions = [
        f"{c.name} was never recognised: all of its test images ({c.recall.images}) were answered wrongly."
        for c in metrics.classes
        if c.recall and not c.recall.share
    ]
    cautions += [f"There were no test images of {c.name}." for c in metrics.classes if c.recall is None]
    accuracy = estimate_share(metrics.whole.accuracy, metrics.test_inputs)
    if metrics.majority_accuracy is not None and accuracy.share <= metrics.majority_accuracy:
        cautions.append(
            f"The accuracy is no better than that of always answering the most frequent class, "
            f"{metrics.majority_accuracy:.1%}."
        )
    if accuracy.images < FEW:
        cautions.append(
            f"The accuracy was measured on only {accuracy.images} images; its 95 % confidence interval is "
            f"{accuracy.low:.1%} to {accuracy.high:.1%}."
        )
    return cautions


def describe_images(images: ImageFolder) -> str:
    """A table of the numbers of images of each class in each split."""
    counts = images.count()
    width = max(len("class"), *map(len, counts))
    splits = next(iter(counts.values()))
    lines = [f"{'class':{width}}" + "".join(f"{split:>13}" for split in splits)]
    lines += [f"{name:{width}}" + "".join(f"{n:13,}" for n in own.values()) for name, own in counts.items()]
    return "\n".join([*lines, *describe_folds(images.dataset.folds, len(images.dataset.train), "images")])


def describe_folds(folds: int | None, count: int, what: str) -> list[str]:
    """A line about the folds of training examples, if there are any."""
    return [] if folds is None else [f"All {count:,} training {what} calibrate too, in {folds} folds."]


def describe_omissions(images: ImageFolder) -> list[str]:
    """A line for each kind of file that was left out."""
    groups: dict[str, list[str]] = {
        "unusable images": list(images.unreadable.values()),
        "contradictory files": [f"{name} equals {other}." for name, other in images.contradictory.items()],
        "copies": [f"{name} equals {other}." for name, other in images.copies.items()],
        **{kind: list(paths) for kind, paths in images.left_out.items()},
    }
    return [
        f"left out {what} ({len(left)}): {' '.join(left[:LISTED])}{' …' if len(left) > LISTED else ''}"
        for what, left in groups.items()
        if left
    ]


def describe_report(report: ImagesReport) -> str:
    """A report as plain text."""
    tested = report.accuracy.images
    width = max(27, *(len(c.name) for c in report.classes))
    recalls = [
        f"  {c.name:{width}} {_format(c.recall)} of {c.recall.images:,}" if c.recall else f"  {c.name}: no test images"
        for c in report.classes
    ]
    confused = [f"  {c.label}, mistaken for {c.answer}: {c.images:,}" for c in report.confusions] or ["  none"]
    trained = sum(own.get("train", 0) for own in report.images.values())
    disputed = [
        f"  {image.mutual_information:.3f} nats  {image.path}  {image.label}"
        + (f", mistaken for {image.answer}" if image.answer != image.label else "")
        for image in report.disputed
    ]
    flags = [f"  {flag:20} {_format(share)}" for flag, share in report.false_alarms.items()]
    return "\n".join(
        [
            *describe_folds(report.folds, trained, "images"),
            f"On {tested:,} test images, with 95 % confidence intervals:",
            f"  accuracy of one network      {_format(report.single_accuracy)}",
            f"  accuracy of an ensemble      {_format(report.accuracy)}",
            f"  always most frequent class   {report.majority_accuracy:6.1%}",
            f"  balanced accuracy            {report.balanced_accuracy:6.1%}",
            f"  NLL {report.nll:.4f}, ECE {report.ece:.4f} of the ensemble at its temperature",
            *describe_baseline(report.baseline),
            *describe_plain_network(report.plain_network),
            f"Recall of each class by an ensemble of {report.networks}:",
            *recalls,
            "Most frequent mistakes:",
            *confused,
            "The networks disagree most on:",
            *(disputed or ["  none"]),
            f"Test images flagged, out of a budget of {report.false_alarm_rate:.0%}:",
            *flags,
            "Foreign images flagged, which were made for this purpose:",
            *(f"  {kind:37}{_format(share)}" for kind, share in report.foreign.items()),
            *(["", "Caution:"] if report.cautions else []),
            *(f"  {caution}" for caution in report.cautions),
            "",
            "Serve the model, and request a prediction:",
            *(f"  {command}" for command in report.commands),
            f"If a service is running with the directory {Path(report.checkpoint).parent}, load the model into it:",
            f"  hyperdraw reload {shlex.quote(Path(report.checkpoint).name)}",
        ]
    )


def describe_baseline(baseline: Baseline | None) -> list[str]:
    """Lines about the simpler model on the same features, if there is one."""
    if baseline is None:
        return []
    return [
        "Logistic regression on the same features:",
        f"  accuracy                     {_format(baseline.accuracy)}",
        f"  NLL {baseline.nll:.4f}, at C = {baseline.strength:.2g}, the best on images that it was not fitted to",
    ]


def describe_plain_network(plain: PlainNetwork | None) -> list[str]:
    """Lines about the plain network, if one was trained."""
    if plain is None:
        return []
    return [
        "A plain network of the same layers, trained alone on the same images:",
        f"  accuracy                     {_format(plain.accuracy)}",
        f"  NLL {plain.nll:.4f} at its temperature; {plain.processor_seconds:.0f} seconds of processor time",
    ]


def _format(share: Share) -> str:
    return f"{share.share:6.1%}  ({share.low:.1%} to {share.high:.1%})"
