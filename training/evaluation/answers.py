"""What is answered for an input: a label and flags.

Shapes: B inputs.
"""

import torch
from torch import Tensor

from models.predictions.detection import Calibration
from models.predictions.prediction import Prediction


def read_labels(prediction: Prediction) -> Tensor:
    """Numbers of the most probable classes, int64 [B]; 0 if there are no classes."""
    if not prediction.task.has_classes:
        return torch.zeros(prediction.members.shape[1], dtype=torch.int64)
    return prediction.probabilities.argmax(-1)


def read_answers(calibration: Calibration, prediction: Prediction, rate: float) -> Tensor:
    """Labels and flags at a rate of false alarms, int64 [B, 1 + flags]."""
    flags = [judgement.flagged.long() for judgement in calibration.judge(prediction, rate).values()]
    return torch.stack([read_labels(prediction), *flags], dim=1)
