"""What is kept of answers says what was answered."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from models.feedback.answers import describe_answering, keep_part
from models.feedback.labels import observe
from models.model import Model
from models.predictions.detection import Calibration
from models.predictions.prediction import Outputs, Part, Prediction, interpret
from models.predictions.size_calibration import NumberCalibration, SizeCalibration
from models.tasks.regression import Regression, RegressionUncertainty
from tests.calibrations import TASK, draw_logits, make_calibration


def make_part(calibration: Calibration | None, networks: int) -> Part:
    plain = draw_logits(networks, 40, seed=5)
    prediction = interpret(TASK, Outputs(plain, draw_logits(networks, 40, seed=6)))
    return Part(torch.arange(40) + 3, prediction, calibration.measure(prediction) if calibration else {})


@pytest.mark.parametrize("networks", [20, 24])
def test_classes_are_graded_as_sets_are_chosen(networks: int) -> None:
    """Also by ensembles whose first networks judge: 20 of 24."""
    calibration = make_calibration()
    part = make_part(calibration, networks)
    kept, model = keep_part(part, calibration, grew=False), describe_answering("m", "v", TASK, calibration)
    assert (kept.positions, kept.ensemble_size, kept.calibrated_size) == (list(range(3, 43)), networks, 20)
    probabilities = calibration.temper(part.prediction.log_probabilities, networks).exp()
    np.testing.assert_allclose(np.exp(kept.answered), probabilities, rtol=1e-5)
    np.testing.assert_allclose(kept.judged, part.prediction.prefix(20).log_probabilities, rtol=1e-5)
    assert kept.confidences == pytest.approx(probabilities.amax(1).tolist(), rel=1e-5)
    assert kept.flagged.keys() == set(calibration.flags)
    sets = [calibration.choose_sets(part.prediction, 1 - rate).members for rate in calibration.rates]
    for i in range(40):
        for label in range(4):
            loss, *inside, right, confidence = observe(
                model, kept.answered[i].tobytes(), kept.judged[i].tobytes(), kept.allowed[i].tobytes(), label
            )
            assert inside == [bool(members[i, label]) for members in sets]
            assert loss == pytest.approx(-float(probabilities[i, label].log()), rel=1e-4)
            assert right == (int(probabilities[i].argmax()) == label)
            assert confidence == pytest.approx(float(probabilities[i].max()), rel=1e-5)


def test_without_a_calibration_probabilities_are_kept_as_they_are() -> None:
    part = make_part(None, 6)
    kept, model = keep_part(part, None, grew=False), describe_answering("m", "v", TASK, None)
    np.testing.assert_allclose(np.exp(kept.answered), part.prediction.probabilities, rtol=1e-5)
    assert (kept.calibrated_size, kept.scores, model.rates) == (None, {}, ())
    first = (kept.answered[0].tobytes(), kept.judged[0].tobytes(), kept.allowed[0].tobytes())
    assert len(observe(model, *first, 2)) == model.observed == 3


def make_numbers(networks: int) -> tuple[Regression, Calibration, Prediction]:
    task = Regression(names=("a", "b"), mean=(0.0, 1.0), std=(1.0, 2.0), noise_std=(0.5, 0.5))
    sizes = tuple(
        SizeCalibration(
            size,
            {"out_of_distribution": "relative_deviation"},
            {"out_of_distribution": (3.0, 1.0)},
            None,
            NumberCalibration(((2.0, 3.0), (1.0, 1.5))),
        )
        for size in (1, 4)
    )
    known = make_calibration()
    calibration = replace(known, rates=(0.05, 0.2), sizes=sizes, stopping=None)
    return task, calibration, interpret(task, Outputs(draw_logits(networks, 30, seed=8)[..., :2], None))


@pytest.mark.parametrize("networks", [4, 7])
def test_numbers_are_inside_the_intervals_that_are_chosen(networks: int) -> None:
    task, calibration, prediction = make_numbers(networks)
    part = Part(torch.arange(30), prediction, calibration.measure(prediction))
    kept, model = keep_part(part, calibration, grew=False), describe_answering("m", "v", task, calibration)
    intervals = [calibration.choose_intervals(prediction, 1 - rate) for rate in calibration.rates]
    assert isinstance(prediction.uncertainty, RegressionUncertainty)
    mean = prediction.uncertainty.mean
    labels = mean + torch.randn(30, 2, generator=torch.Generator().manual_seed(0))
    for i in range(30):
        first = (kept.answered[i].tobytes(), kept.judged[i].tobytes(), kept.allowed[i].tobytes())
        _, *inside, error, _ = observe(model, *first, labels[i].tolist())
        expected = [((each.lower <= labels) & (labels <= each.upper))[i].double().mean() for each in intervals]
        assert inside == expected
        assert error == pytest.approx(float((labels - mean)[i, 0] ** 2), rel=1e-4)
    assert kept.confidences is None


def test_a_model_describes_itself(model: Model) -> None:
    described = describe_answering(model.name, model.version, model.task, model.calibration)
    assert (described.kind, described.outputs) == ("classification", model.task.outputs)
    assert model.calibration
    assert (described.rates, described.inputs) == (model.calibration.rates, model.calibration.n)
