"""Sets of classes that hold the label as often as they promise."""

import math

import pytest
import torch

from models.predictions.detection import Calibration
from models.predictions.prediction import Outputs, interpret
from tests.calibrations import TASK, draw_logits


def test_prediction_sets_cover_what_they_promise(calibration: Calibration) -> None:
    """On fresh inputs like the calibration's, to six standard errors of 5,000 of them and of the quantile of 999."""
    logits = draw_logits(10, 5_000, seed=7)
    prediction = interpret(TASK, Outputs(logits, None))
    labels = logits.double().softmax(-1).mean(0).multinomial(1, generator=torch.Generator().manual_seed(8))[:, 0]
    for coverage in (0.8, 0.9, 0.95, 0.99):
        sets = calibration.choose_sets(prediction, coverage)
        covered = sets.members.gather(1, labels[:, None]).double().mean().item()
        error = math.sqrt(coverage * (1 - coverage) * (1 / 5_000 + 1 / 999))
        assert covered == pytest.approx(coverage, abs=6 * error)
        assert sets.coverage == coverage
        assert sets.members.any(1).all()


def test_larger_coverage_means_larger_sets(calibration: Calibration) -> None:
    prediction = interpret(TASK, Outputs(draw_logits(10, 200, seed=9), None))
    sets = [calibration.choose_sets(prediction, coverage).members for coverage in (0.8, 0.95, 0.999)]
    assert (sets[0] <= sets[1]).all()
    assert (sets[1] <= sets[2]).all()
    assert sets[2].sum() > sets[0].sum()
