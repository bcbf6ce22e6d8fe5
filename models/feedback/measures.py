"""Running measures of a model's answers, from the labels that have arrived so far.

Shapes: n labels, R calibrated rates.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from models.feedback.labels import AnsweringModel, LabelledAnswers
from models.predictions.binomial import bound_below
from models.predictions.confidence_sequences import bound_mean, measure_evidence
from models.predictions.detection import find_rank
from models.tasks.probabilities import measure_calibration_error

LEVEL = 0.05
"""Probability of an error over all time: that the accuracy ever leaves its interval, that a coverage ever leaves its
interval, and that an alarm ever is false."""


@dataclass(frozen=True)
class Share:
    """A share of the labelled answers, and an interval for the probability behind it, valid at all times."""

    share: float
    lower: float
    upper: float


@dataclass(frozen=True)
class Coverage:
    """How many prediction sets or intervals contained what they promised to."""

    promised: float
    observed: Share
    doubtful_below: float
    """A coverage that chance in the calibration may still explain."""
    alarm: bool
    """Whether the coverage is, or has become, less than that."""


@dataclass(frozen=True)
class Measures:
    """What the labels of a version say."""

    answers: int
    """Number of its answers that are kept, labelled or not."""
    labels: int
    """Number of labels behind the measures."""
    dropped: int
    """Number of earlier labels, whose answers are not kept any more."""
    coverages: tuple[Coverage, ...] = ()
    """One for each calibrated rate, the largest coverage first. Without labels there are none."""
    accuracy: Share | None = None
    loss: float | None = None
    """Mean negative log-likelihood, in nats for classes."""
    calibration_error: float | None = None
    """Expected calibration error of the answered class."""
    errors: Mapping[str, float] | None = None
    """Root mean square error of each number."""
    estimated_accuracy: float | None = None
    """Mean probability of the answered classes of all answers, labelled or not. It is the accuracy if the
    probabilities are calibrated for these inputs."""

    @property
    def alarm(self) -> bool:
        """Whether some coverage is below its promise."""
        return any(coverage.alarm for coverage in self.coverages)


def measure(model: AnsweringModel, labelled: LabelledAnswers) -> Measures:
    """Measures a version from its labelled answers."""
    counted = Measures(
        answers=labelled.kept,
        labels=len(labelled.observations),
        dropped=labelled.first - 1,
        estimated_accuracy=labelled.confidence,
    )
    if not counted.labels:
        return counted
    loss, *others = torch.from_numpy(labelled.observations.copy()).unbind(1)
    inside, rest = others[: len(model.rates)], others[len(model.rates) :]
    coverages = tuple(_judge(model, *each, labelled.first) for each in zip(model.rates, inside, strict=True))
    measured = replace(counted, loss=float(loss.mean()), coverages=coverages)
    if model.kind == "regression":
        errors = {name: float(squares.mean().sqrt()) for name, squares in zip(model.outputs, rest, strict=True)}
        return replace(measured, errors=errors)
    right, confidence = rest
    error = measure_calibration_error(confidence, right)
    return replace(measured, accuracy=_bound_share(right, LEVEL), calibration_error=error)


def bound_coverage(inputs: int, rate: float, level: float) -> float:
    """A coverage that split conformal prediction reaches with a probability of at least 1 − level.

    The probability is that of the calibration set. With n inputs whose scores have no ties, the coverage has the
    distribution Beta(n + 1 − l, l), where l is the number of inputs that may lie beyond the quantile (Vovk,
    "Conditional Validity of Inductive Conformal Predictors", 2012). Its distribution function is a binomial's tail.

    Args:
        inputs: n.
        rate: the rate of sets that miss.
        level: probability of a smaller coverage.
    """
    return bound_below(find_rank(inputs, rate), inputs, level)


def _judge(model: AnsweringModel, rate: float, inside: Tensor, first: int) -> Coverage:
    """Judges a coverage by whether sets contained the label, [n], from the label with number `first` on.

    The rates share the probability of a false alarm. Of each share, a quarter is for the calibration set, half for the
    interval's ends, and a quarter for a change of the coverage.
    """
    level = LEVEL / len(model.rates)
    observed, doubtful = _bound_share(inside, level), bound_coverage(model.inputs, rate, level / 4)
    changed = measure_evidence(inside, doubtful, first) >= math.log(4 / level)
    return Coverage(1 - rate, observed, doubtful, alarm=changed or observed.upper < doubtful)


def _bound_share(observations: Tensor, level: float) -> Share:
    return Share(float(observations.mean()), *bound_mean(observations, level))
