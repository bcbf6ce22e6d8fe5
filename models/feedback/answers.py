"""What is kept of answers, so that they can be measured, and a model calibrated anew, once labels are known.

Inputs are not kept.

Shapes: B inputs, K outputs (classes or numbers), R calibrated rates.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from models.feedback.labels import AnsweringModel
from models.predictions.detection import Calibration
from models.predictions.prediction import Part
from models.tasks.classification import Uncertainty
from models.tasks.kind import Flag
from models.tasks.regression import RegressionUncertainty
from models.tasks.task import Task

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class KeptAnswers:
    """The answers for some inputs of a request, by ensembles of one size."""

    positions: list[int]
    """Numbers of the inputs in their request."""
    ensemble_size: int
    calibrated_size: int | None
    """Number of the first networks that flags, sets and intervals come from; None if ensembles grew, or the model is
    not calibrated."""
    answered: Floats
    """What was answered: ln of the class probabilities at the temperature, [B, K], or means and standard deviations,
    [B, 2, K]."""
    judged: Floats
    """The same of the first networks, without temperature."""
    allowed: NDArray[np.uint16] | Floats
    """For how many coverages, from the largest on, each class is in the prediction set, [B, K], or half the widths of
    prediction intervals, [B, R, K]."""
    scores: Mapping[Flag, list[float]]
    """The score behind each flag, [B]."""
    flagged: Mapping[Flag, list[bool]]
    """Whether each flag is raised at the default budget, [B]."""

    def __len__(self) -> int:
        return len(self.positions)

    @property
    def confidences(self) -> list[float] | None:
        """Probability of each answered class, [B]; None for numbers."""
        return np.exp(self.answered.max(-1)).tolist() if self.answered.ndim == 2 else None


@dataclass(frozen=True)
class RequestAnswers:
    """What is kept of the answer to a request."""

    client: str
    """Name of the client; only the same client can label its answers."""
    request_id: str
    model: AnsweringModel
    seed: int
    time: float
    """Seconds since 1970."""
    parts: Sequence[KeptAnswers]

    def __len__(self) -> int:
        return sum(map(len, self.parts))


def describe_answering(name: str, version: str, task: Task, calibration: Calibration | None) -> AnsweringModel:
    """Describes a model whose answers are kept."""
    kind: Literal["classification", "regression"] = "classification" if task.has_classes else "regression"
    covers = calibration is not None and bool(calibration.sizes[0].classes or calibration.sizes[0].numbers)
    rates, inputs = (calibration.rates, calibration.n) if calibration and covers else ((), 0)
    return AnsweringModel(name, version, kind, task.outputs, rates, inputs)


def keep_part(part: Part, calibration: Calibration | None, *, grew: bool) -> KeptAnswers:
    """What is kept of a part of an answer.

    Args:
        part: the part.
        calibration: what it is judged by.
        grew: whether ensembles stopped growing by a rule.
    """
    prediction, size = part.prediction, part.prediction.size
    calibrated = calibration.for_size(size).ensemble_size if calibration else None
    first, count = prediction.prefix(calibrated or size), len(part.positions)
    measured: Uncertainty | RegressionUncertainty = first.uncertainty
    if isinstance(measured, Uncertainty):
        logs = prediction.log_probabilities
        answered = _convert(calibration.temper(logs, size) if calibration else logs)
        judged = _convert(measured.log_probabilities)
        grades = calibration.grade_classes(prediction) if calibration else prediction.log_probabilities.mul(0)
        allowed: NDArray[np.uint16] | Floats = grades.numpy().astype(np.uint16)
    else:
        answered, judged = _stack_moments(prediction.uncertainty), _stack_moments(measured)
        has_intervals = calibration is not None and calibration.for_size(size).numbers is not None
        reaches = calibration.measure_reaches(measured, size) if calibration and has_intervals else None
        allowed = np.zeros((count, 0, answered.shape[-1]), np.float32) if reaches is None else _convert(reaches)
    judgements = calibration.judge_scores(part.scores, size) if calibration else {}
    return KeptAnswers(
        positions=part.positions.tolist(),
        ensemble_size=size,
        calibrated_size=None if grew else calibrated,
        answered=answered,
        judged=judged,
        allowed=allowed,
        scores={flag: scores.tolist() for flag, scores in part.scores.items()},
        flagged={flag: judgement.flagged.tolist() for flag, judgement in judgements.items()},
    )


def _stack_moments(measured: object) -> Floats:
    """Means and standard deviations, [B, 2, K]."""
    assert isinstance(measured, RegressionUncertainty)
    return np.stack([_convert(measured.mean), _convert(measured.standard_deviation)], 1)


def _convert(tensor: Tensor) -> Floats:
    array: Floats = tensor.float().cpu().numpy()
    return array
