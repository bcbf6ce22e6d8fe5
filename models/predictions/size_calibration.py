"""What was calibrated for ensembles of one size.

Shapes: B inputs, K outputs.
"""

import dataclasses
from typing import Annotated

from pydantic import FailFast, Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from models.predictions.prediction import Prediction, ScoreName
from models.predictions.surprise import measure_score
from models.schema import STRICT, Finite
from models.tasks.kind import Flag


@dataclass(frozen=True, config=STRICT)
class ClassCalibration:
    """Calibration of class probabilities."""

    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    """Temperature of the mean probabilities."""
    least_probabilities: Annotated[tuple[Annotated[float, Field(ge=0, le=1)], ...], FailFast()]
    """Least probability of the classes in a prediction set, after temperature, for each rate of sets that miss."""


@dataclass(frozen=True, config=STRICT)
class NumberCalibration:
    """Calibration of predicted numbers."""

    reaches: Annotated[tuple[tuple[Annotated[float, Field(ge=0, allow_inf_nan=False)], ...], ...], FailFast()]
    """Half the width of each number's prediction interval, in predicted standard deviations, for each rate of intervals
    that miss."""


@dataclass(frozen=True, config=STRICT)
class SizeCalibration:
    """Calibration of ensembles of one size."""

    ensemble_size: Annotated[int, Field(ge=1)]
    scores: dict[Flag, ScoreName]
    """The score that raises each flag."""
    thresholds: dict[Flag, Annotated[tuple[Finite, ...], FailFast()]]
    """Thresholds of each flag, one for each rate of false alarms."""
    classes: ClassCalibration | None
    numbers: NumberCalibration | None = None
    levels: dict[ScoreName, Annotated[tuple[Finite, ...], FailFast()]] = dataclasses.field(default_factory=dict)
    """Levels of the scores behind a combined surprise, on usual inputs outside the calibration split."""

    def measure(self, prediction: Prediction, flag: Flag) -> Tensor:
        """The score that raises a flag, [B]."""
        return measure_score(prediction, self.scores[flag], self.levels)
