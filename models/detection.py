"""Flags: scores of an answer against calibrated thresholds."""

import dataclasses
import math
from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from models.target import STRICT
from models.task import Task
from models.uncertainty import RegressionUncertainty, Uncertainty

CALIBRATED_SIZES = (1, 2, 5, 10, 20, 50, 100)


@dataclass(frozen=True, config=STRICT)
class Threshold:
    """A threshold for ensembles of one size."""

    ensemble_size: Annotated[int, Field(ge=1)]
    value: Annotated[float, Field(ge=0, allow_inf_nan=False)]


@dataclass(frozen=True, config=STRICT)
class OutOfDistributionCalibration:
    """Thresholds of a task's score, and all that is needed to find them again.

    A threshold is the conformal quantile of the scores of n inputs that served for nothing else: of further inputs
    like them, at most `false_alarm_rate` are expected to be flagged.
    """

    false_alarm_rate: Annotated[float, Field(gt=0, lt=1)]
    n: Annotated[int, Field(ge=1)]
    split: str
    seed: int
    thresholds: Annotated[tuple[Threshold, ...], Field(min_length=1)]
    score: Literal["predictive_entropy", "relative_deviation"]

    def __post_init__(self) -> None:
        sizes = [threshold.ensemble_size for threshold in self.thresholds]
        if sizes[0] != 1 or sizes != sorted(set(sizes)):
            raise ValueError(f"thresholds must be for growing ensemble sizes from 1 up, not {sizes}")

    def threshold_for(self, ensemble_size: int) -> Threshold:
        """The threshold of the largest calibrated size that is no larger than this ensemble's."""
        return max(
            (t for t in self.thresholds if t.ensemble_size <= ensemble_size),
            key=lambda threshold: threshold.ensemble_size,
        )

    def judge(self, uncertainty: Uncertainty | RegressionUncertainty, ensemble_size: int) -> "Judgement":
        """Flags the inputs of which an ensemble of some size is less certain than its threshold allows."""
        threshold = self.threshold_for(ensemble_size)
        scores: Tensor = getattr(uncertainty, self.score)
        return Judgement(scores, threshold, scores > threshold.value)


@dataclasses.dataclass(frozen=True)
class Judgement:
    """Which of B inputs are flagged, and why."""

    scores: Tensor
    """[B]."""
    threshold: Threshold
    flagged: Tensor
    """bool [B]."""


@dataclass(frozen=True, config=STRICT)
class Calibration:
    """What `calibration.json` holds."""

    checkpoint: str
    """SHA-256 of the `config.json` that this was measured for."""
    out_of_distribution: OutOfDistributionCalibration


def conformal_quantile(scores: Tensor, false_alarm_rate: float) -> float:
    """The ⌈(n + 1)(1 − α)⌉-th smallest of n scores [n] (Vovk's split-conformal quantile).

    Raises:
        ValueError: if n is too small for α, n < 1/α − 1.
    """
    rank = math.ceil((len(scores) + 1) * (1 - false_alarm_rate))
    if rank > len(scores):
        raise ValueError(f"{len(scores)} scores are too few for a false-alarm rate of {false_alarm_rate}")
    return float(scores.sort().values[rank - 1])


def calibrate_out_of_distribution(
    predictions: Tensor, task: Task, *, seed: int, split: str, false_alarm_rate: float = 0.05
) -> OutOfDistributionCalibration:
    """Thresholds for ensembles of several sizes, from the prefixes of one draw.

    Args:
        predictions: [S, n, K] of members 0 … S−1 of `seed`, on inputs of the calibration split.
        task: what they mean.
        seed: of the draw.
        split: name of the calibration split.
        false_alarm_rate: share of such inputs that may be flagged.
    """
    thresholds = []
    for size in [s for s in CALIBRATED_SIZES if s <= len(predictions)]:
        scores = getattr(task.measure(predictions[:size]), task.score)
        thresholds.append(Threshold(size, conformal_quantile(scores, false_alarm_rate)))
    return OutOfDistributionCalibration(
        false_alarm_rate=false_alarm_rate,
        n=predictions.shape[1],
        split=split,
        seed=seed,
        thresholds=tuple(thresholds),
        score=task.score,
    )
