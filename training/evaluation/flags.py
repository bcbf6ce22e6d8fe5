"""Metrics of flags: how often they are raised."""

import torch
from torch import Tensor

from models.predictions.detection import Calibration
from models.predictions.prediction import Prediction
from training.evaluation.metrics import FlagMetrics
from training.evaluation.summaries import measure_share


def measure_flags(calibration: Calibration, prediction: Prediction) -> tuple[FlagMetrics, ...]:
    """The share of inputs for which each flag is raised, at each budget of false alarms."""
    return tuple(
        FlagMetrics(flag, rate, measure_share(judgement.flagged))
        for rate in calibration.rates
        for flag, judgement in calibration.judge(prediction, rate).items()
    )


def judge_any(calibration: Calibration, prediction: Prediction) -> Tensor:
    """Whether some flag is raised at the default budget, bool [B]."""
    return torch.stack([judgement.flagged for judgement in calibration.judge(prediction).values()]).any(0)
