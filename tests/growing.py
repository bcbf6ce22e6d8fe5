"""Ensembles that grow by a made-up rule."""

import dataclasses

from torch import Tensor

from models.model import Model
from models.predictions.prediction import Prediction, evaluate, interpret
from models.predictions.stopping import Round, Stopping, StoppingRule, measure_lead

SIZES = (5, 10, 20, 50, 100)


def ask(model: Model, images: Tensor, seed: int, size: int) -> Prediction:
    """The prediction of an ensemble that is asked alone."""
    config, checkpoint = model.checkpoint.config, model.checkpoint
    outputs = evaluate(checkpoint.sampler, checkpoint.input, config.task, images, seed, size, checkpoint.density)
    return interpret(config.task, outputs)


def add_rules(model: Model, images: Tensor) -> tuple[Model, StoppingRule]:
    """A model with a rule for all rates but the last, and the rule. By it, some of the images that are left are settled
    in each round: those with the largest leads."""
    calibration = model.calibration
    assert calibration is not None
    left, rounds, flags = images, [], dict.fromkeys(calibration.flags, 0.0)
    for size in SIZES[:-1]:
        leads = measure_lead(ask(model, left, 7, size))
        rounds.append(Round(size, flags, flags, float(leads.quantile(0.6))))
        left = left[leads < rounds[-1].lead]
    least = (0.5,) * len(calibration.rates)
    rule = StoppingRule((*rounds, Round(SIZES[-1], flags, flags)), dict.fromkeys(flags, 0.1), least_probabilities=least)
    stopping = Stopping("test", 1000, 0.005, 0.95, (*[rule] * (len(calibration.rates) - 1), None))
    checkpoint = dataclasses.replace(model.checkpoint, calibration=dataclasses.replace(calibration, stopping=stopping))
    return Model(checkpoint), rule
