"""Streams of inputs whose scores are drawn, without networks."""

import torch

from models.model import Model
from models.predictions.prediction import Outputs, Part, interpret

UNUSUAL = 1e6
"""A score above all thresholds."""


def draw_scores(model: Model, inputs: int, seed: int = 0, *, foreign: bool = False, networks: int = 100) -> Part:
    """The prediction for inputs like those of a classifier's calibration, or for foreign ones, as an engine reports it.

    A score like those of the calibration is above the threshold of a rate with the probability of this rate.
    """
    calibration = model.calibration
    assert calibration is not None
    generator = torch.Generator().manual_seed(seed)
    size = calibration.for_size(networks)
    scores = {}
    for flag, thresholds in size.thresholds.items():
        levels = torch.tensor([min(thresholds) - 1, *reversed(thresholds), UNUSUAL], dtype=torch.float64)
        rates = torch.tensor([*reversed(calibration.rates), 0.0], dtype=torch.float64)
        chances = torch.rand(inputs, generator=generator, dtype=torch.float64)
        passed = (chances[:, None] < rates).sum(1)
        scores[flag] = torch.full((inputs,), UNUSUAL) if foreign else (levels[passed] + levels[passed + 1]) / 2
    logits = torch.randn(networks, inputs, len(model.task.outputs), generator=generator)
    return Part(torch.arange(inputs), interpret(model.task, Outputs(logits, logits[:20])), scores)
