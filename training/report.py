"""What a model of a user's own images is worth, and where to look when it is worth little.

Shapes: B test images.
"""

import math
import shlex
from collections import Counter
from pathlib import Path

import torch
from pydantic.dataclasses import dataclass

from models.checkpoint import Checkpoint
from models.prediction import interpret
from training.denormals import flush_denormals
from training.evaluation import ClassificationMetrics, evaluate_split
from training.image_folders import LISTED, ImageFolder
from training.image_tree import show

FILE = "report.json"
LEAST_DISPUTE = 0.001
"""Nats of mutual information below which networks agree."""

NORMAL_QUANTILE = 1.959964
"""Of 97.5 %."""


@dataclass(frozen=True)
class Share:
    """A share of the test images, and where the share of all such images lies, with a confidence of 95 %."""

    share: float
    low: float
    high: float


@dataclass(frozen=True)
class Confusion:
    """Test images of one class that are taken for another."""

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
class Report:
    """What `hyperdraw-train images` ends with."""

    checkpoint: str
    version: str
    dataset: str
    images: dict[str, dict[str, int]]
    """By class and split."""
    unreadable: dict[str, str]
    left_out: dict[str, tuple[str, ...]]
    """Files that are no images, or lie outside the classes' folders, by what they are."""
    contradictory: dict[str, str]
    copies: dict[str, str]
    networks: int
    single_accuracy: Share
    """Mean over networks."""
    accuracy: Share
    """Of all networks together."""
    nll: float
    """Of all networks together, at their temperature; so is the next."""
    ece: float
    confusions: tuple[Confusion, ...]
    disputed: tuple[DisputedImage, ...]
    false_alarm_rate: float
    """That flags were calibrated for."""
    false_alarms: dict[str, Share]
    """That they have on the test images, by flag."""
    commands: tuple[str, ...]
    """That serve the model, and ask it."""


def measure_share(share: float, count: int) -> Share:
    """Wilson's score interval (1927) of a share of `count` images; with few, and near 0 or 1, it is still right."""
    z = NORMAL_QUANTILE
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    reach = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count)) / (1 + z * z / count)
    return Share(share, max(0.0, middle - reach), min(1.0, middle + reach))


@flush_denormals()
def make_report(
    out: Path, folder: Path, images: ImageFolder, checkpoint: Checkpoint, metrics: ClassificationMetrics
) -> Report:
    """The report of a checkpoint that was just trained, calibrated and evaluated.

    Args:
        out: directory of the checkpoint.
        folder: of the images.
        images: that were read from it.
        checkpoint: in `out`.
        metrics: that were measured on the test split.
    """
    test, calibration = images.dataset.test, checkpoint.calibration
    assert calibration is not None
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
    printable = [path for path in images.paths["test"] if show(path) == str(path)]
    path = shlex.quote(show(folder / (printable or images.paths["test"])[0]))
    name = shlex.quote(checkpoint.name)
    return Report(
        checkpoint=str(out),
        version=checkpoint.version,
        dataset=images.name,
        images={name: {str(split): n for split, n in counts.items()} for name, counts in images.count().items()},
        unreadable=dict(images.unreadable),
        left_out={kind: tuple(paths) for kind, paths in images.left_out.items()},
        contradictory=dict(images.contradictory),
        copies=dict(images.copies),
        networks=metrics.networks,
        single_accuracy=measure_share(metrics.single.accuracy_mean, len(test)),
        accuracy=measure_share(metrics.whole.accuracy, len(test)),
        nll=metrics.whole.tempered.nll,
        ece=metrics.whole.tempered.ece,
        confusions=tuple(Confusion(*pair, count) for pair, count in wrong.most_common(LISTED)),
        disputed=disputed,
        false_alarm_rate=rate,
        false_alarms={f.flag: measure_share(f.flagged, len(test)) for f in metrics.flags if f.rate == rate},
        commands=(f"hyperdraw-serve --checkpoints {shlex.quote(str(out))}", f"hyperdraw predict {path} --model {name}"),
    )


def describe_images(images: ImageFolder) -> str:
    """A line for each class with its images in each split, and the files that were left out."""
    counts = images.count()
    width = max(len("class"), *map(len, counts))
    splits = next(iter(counts.values()))
    lines = [f"{'class':{width}}" + "".join(f"{split:>13}" for split in splits)]
    lines += [f"{name:{width}}" + "".join(f"{n:13,}" for n in own.values()) for name, own in counts.items()]
    return "\n".join(lines)


def describe_omissions(images: ImageFolder) -> list[str]:
    """What was left out, and why; nothing if nothing was."""
    groups: dict[str, list[str]] = {
        "no images that can be taken": list(images.unreadable.values()),
        "contradictory": [f"{name} equals {other}." for name, other in images.contradictory.items()],
        "copies of others": [f"{name} equals {other}." for name, other in images.copies.items()],
        **{kind: list(paths) for kind, paths in images.left_out.items()},
    }
    return [
        f"left out as {what}, {len(left)}: {' '.join(left[:LISTED])}{' …' if len(left) > LISTED else ''}"
        for what, left in groups.items()
        if left
    ]


def describe_report(report: Report) -> str:
    """A report as plain text."""
    tested = sum(counts["test"] for counts in report.images.values())
    confused = [f"  {c.images} of {c.label} taken for {c.answer}" for c in report.confusions] or ["  none"]
    disputed = [
        f"  {image.mutual_information:.3f} nats  {image.path}  {image.label}"
        + (f", taken for {image.answer}" if image.answer != image.label else "")
        for image in report.disputed
    ]
    flags = [f"  {flag:20} {_format(share)}" for flag, share in report.false_alarms.items()]
    return "\n".join(
        [
            f"On the {tested:,} test images, with 95 % intervals that so many allow:",
            f"  accuracy of one network      {_format(report.single_accuracy)}",
            f"  accuracy of {report.networks:<3} together     {_format(report.accuracy)}",
            f"  NLL {report.nll:.4f}, ECE {report.ece:.4f}, of {report.networks} at their temperature",
            "Most confused:",
            *confused,
            "The networks disagree most on:",
            *(disputed or ["  none"]),
            f"Flagged of the test images, where {report.false_alarm_rate:.0%} may be:",
            *flags,
            "",
            "Serve it, and ask it:",
            *(f"  {command}" for command in report.commands),
            f"or, where a service runs with the directory {Path(report.checkpoint).parent}, have it load the model:",
            f"  hyperdraw reload {shlex.quote(Path(report.checkpoint).name)}",
        ]
    )


def _format(share: Share) -> str:
    return f"{share.share:6.1%}  ({share.low:.1%} to {share.high:.1%})"
