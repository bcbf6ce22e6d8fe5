"""An answer's calibrated numbers, from the engine's data, in whatever form they are sent."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from models.model import Model
from models.predictions.detection import Judgement, PredictionIntervals, PredictionSets
from models.predictions.prediction import Part
from models.tasks.kind import Flag
from service.api.schemas import EnsembleIdentity
from service.engine.batches import Answer


@dataclass(frozen=True)
class Findings:
    """The calibrated numbers for inputs that ensembles of one size answered."""

    positions: Tensor
    """Numbers of the inputs in their request, [b]."""
    ensemble: EnsembleIdentity
    tensors: Mapping[str, Tensor]
    """The task's quantities, [b] or [b, K] each, and for classes the tempered `probabilities`."""
    judgements: Mapping[Flag, Judgement]
    sets: PredictionSets | None
    intervals: PredictionIntervals | None

    @property
    def coverage(self) -> float | None:
        """Coverage of the prediction sets or intervals, if any."""
        found = self.sets or self.intervals
        return found.coverage if found else None

    def list_tensors(self) -> list[Tensor]:
        """All tensors."""
        tensors = [*self.tensors.values()]
        tensors += [tensor for own in self.judgements.values() for tensor in (own.scores, own.flagged)]
        tensors += [self.sets.members] if self.sets else []
        tensors += [self.intervals.lower, self.intervals.upper] if self.intervals else []
        return tensors


def apply_calibration(
    model: Model, answer: Answer, false_alarm_rate: float | None, coverage: float | None
) -> list[Findings]:
    """Applies a model's calibration to each part of the engine's answer.

    Args:
        model: the model that answered.
        answer: the engine's answer.
        false_alarm_rate: rate for each flag, if not the default.
        coverage: coverage of prediction sets or intervals, if requested.

    Raises:
        ValueError: if the rate or coverage was not calibrated.
    """
    return [_apply_calibration(model, answer, part, false_alarm_rate, coverage) for part in answer.parts]


def _apply_calibration(
    model: Model, answer: Answer, part: Part, false_alarm_rate: float | None, coverage: float | None
) -> Findings:
    prediction, calibration, task = part.prediction, model.find_calibration(answer.rule), model.task
    size, uncertainty = prediction.size, prediction.uncertainty
    ensemble = EnsembleIdentity(size=size, seed=answer.seed, precision=model.precision)
    tensors: dict[str, Tensor] = {name: getattr(uncertainty, name) for name in task.quantities}
    judgements = calibration.judge_scores(part.scores, size, false_alarm_rate) if calibration else {}
    sets, intervals = None, None
    if task.has_classes:
        tensors["probabilities"] = prediction.probabilities
    if task.has_classes and calibration:
        ensemble.temperature = calibration.temperature_for(size)
        tensors["probabilities"] = calibration.temper(prediction.log_probabilities, size).exp()
    if calibration and coverage is not None:
        if task.has_classes:
            sets = calibration.choose_sets(prediction, coverage)
        else:
            intervals = calibration.choose_intervals(prediction, coverage)
    return Findings(part.positions, ensemble, tensors, judgements, sets, intervals)
