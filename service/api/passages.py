"""Flags for foreign passages of a text that was scored."""

import math

import torch

from models.sequences.model import SequenceModel
from service.api.sequence_schemas import ForeignAnswer, PassageAnswer
from service.api.streams import Record
from service.errors import ServiceError


def check_rate(model: SequenceModel, rate: float | None) -> None:
    """Checks that a requested rate of false alarms was calibrated.

    Raises:
        ServiceError: 422 if not.
    """
    calibration = model.calibration
    if rate is None:
        return
    if calibration is None:
        message = f"{model.name} has no calibration."
        raise ServiceError(422, "invalid_parameter", message, "Leave out false_alarm_rate.")
    try:
        calibration.find_rate(rate)
    except ValueError as error:
        hint = f"The calibrated false-alarm rates are {', '.join(f'{known:g}' for known in calibration.rates)}."
        raise ServiceError(422, "invalid_parameter", f"{model.name}: {error}.", hint) from error


def judge_passages(
    model: SequenceModel, record: Record, ensemble_size: int, rate: float | None
) -> ForeignAnswer | None:
    """Which passages are foreign; None if ensembles of this size were not calibrated.

    Args:
        model: the model.
        record: the text's characters with their measures.
        ensemble_size: number of networks that answered.
        rate: the budget of false alarms, if not the default.
    """
    calibration = model.calibration
    if calibration is None:
        return None
    _, bits, _, disagreement = (torch.tensor(values, dtype=torch.float64) * math.log(2) for values in record.measures)
    judgement = calibration.judge({"surprisal": bits, "disagreement": disagreement}, ensemble_size, rate)
    if judgement is None:
        return None
    values = (judgement.values / math.log(2)).tolist()
    return ForeignAnswer(
        score=judgement.score,
        threshold=judgement.threshold / math.log(2),
        false_alarm_rate=judgement.rate,
        passage=calibration.passage,
        passages=[
            PassageAnswer(start=index * calibration.passage, value=value, foreign=foreign)
            for index, (value, foreign) in enumerate(zip(values, judgement.flagged.tolist(), strict=True))
        ],
    )
