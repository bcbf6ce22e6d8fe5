"""What labels say: known values, and alarms that are rarely false and soon true."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.special import betaincinv

from models.feedback.labels import AnsweringModel, LabelledAnswers
from models.feedback.measures import LEVEL, bound_coverage, measure
from models.predictions.confidence_sequences import bound_mean
from tests.feedback import CLASSES, NUMBERS


def make_labelled(observations: NDArray[np.float64], first: int = 1) -> LabelledAnswers:
    return LabelledAnswers(kept=len(observations) + 5, confidence=0.9, first=first, observations=observations)


def draw(n: int, coverage: float, seed: int = 0) -> NDArray[np.float64]:
    """Observations of a class with two rates, whose sets cover so much, and the second .1 less."""
    random = torch.rand(n, generator=torch.Generator().manual_seed(seed)).numpy()
    inside = [random < coverage, random < coverage - 0.1]
    return np.stack([np.full(n, 0.3), *inside, random < 0.7, np.full(n, 0.8)], 1).astype(np.float64)


def test_without_labels_there_is_only_an_estimate() -> None:
    measures = measure(CLASSES, make_labelled(np.zeros((0, 5))))
    assert (measures.answers, measures.labels, measures.estimated_accuracy) == (5, 0, 0.9)
    assert (measures.accuracy, measures.loss, measures.coverages, measures.alarm) == (None, None, (), False)


def test_classes_have_known_measures() -> None:
    observations = np.array([[0.1, 1, 1, 1, 0.9], [2.0, 1, 0, 0, 0.7], [0.3, 1, 1, 1, 0.7], [0.2, 1, 1, 1, 1.0]])
    measures = measure(CLASSES, make_labelled(observations, first=11))
    assert (measures.labels, measures.dropped) == (4, 10)
    assert measures.accuracy is not None
    assert measures.accuracy.share == 0.75
    assert measures.loss == pytest.approx(0.65)
    assert (measures.accuracy.lower, measures.accuracy.upper) == bound_mean(torch.tensor([1, 0, 1, 1]), LEVEL)
    assert measures.calibration_error == pytest.approx((0.1 + abs(1.4 - 1) + 0) / 4)
    assert [(each.promised, each.observed.share) for each in measures.coverages] == [(0.95, 1.0), (0.8, 0.75)]
    assert measures.errors is None


def test_numbers_have_known_measures() -> None:
    measures = measure(NUMBERS, make_labelled(np.array([[1.5, 1.0, 9.0, 4.0], [2.5, 0.5, 1.0, 0.0]])))
    assert measures.errors == pytest.approx({"grams": math.sqrt(5), "age": math.sqrt(2)})
    assert (measures.loss, measures.accuracy, measures.calibration_error) == (2.0, None, None)
    (coverage,) = measures.coverages
    assert (coverage.promised, coverage.observed.share) == (0.9, 0.75)


@pytest.mark.parametrize(("n", "rate"), [(19, 0.05), (100, 0.2), (999, 0.001), (2500, 0.05), (40_000, 0.1)])
def test_the_chance_of_a_calibration_set_is_that_of_the_beta_distribution(n: int, rate: float) -> None:
    beyond = n + 1 - math.ceil((n + 1) * (1 - rate))
    for level in (0.05, 0.001):
        assert bound_coverage(n, rate, level) == pytest.approx(betaincinv(n + 1 - beyond, beyond, level), abs=1e-8)


def test_an_alarm_is_rarely_false() -> None:
    """Calibration sets leave the coverage to chance, and labels arrive: 200 models, looked at four times each.

    5 % may be alarmed; four standard errors are 6 %.
    """
    generator, alarmed = np.random.default_rng(0), 0
    for seed in range(200):
        coverage = float(generator.beta(951, 50))  # of 1,000 inputs, at a rate of 5 %
        observations = draw(800, coverage, seed)
        model = replace(CLASSES, rates=(0.05,))
        alarmed += any(
            measure(model, make_labelled(observations[:n, [0, 1, 3, 4]])).alarm for n in (100, 200, 400, 800)
        )
    assert alarmed / 200 <= LEVEL + 0.06


def test_an_alarm_comes_soon_and_says_of_what() -> None:
    """10,000 labels of sets that cover 99 %, and 89 %, hide 150 of sets that cover 60 %, and 50 %, in no mean."""
    model = replace(CLASSES, rates=(0.05, 0.2), inputs=2500)
    good, worse = draw(10_000, 0.99), draw(150, 0.6, seed=1)
    assert not measure(model, make_labelled(good)).alarm
    measures = measure(model, make_labelled(np.concatenate([good, worse])))
    assert [each.alarm for each in measures.coverages] == [True, True]
    assert all(each.observed.share > each.promised > each.doubtful_below for each in measures.coverages)
    forgotten = measure(model, make_labelled(np.concatenate([good, worse])[9000:], first=9001))
    assert forgotten.alarm


@pytest.mark.parametrize(
    ("model", "label", "expected"),
    [
        (CLASSES, "tit", 1),
        (CLASSES, 2, 2),
        (NUMBERS, [1, 2.5], [1.0, 2.5]),
        (replace(NUMBERS, outputs=("grams",)), 3, [3.0]),
        (replace(CLASSES, outputs=("7", "0")), "0", 1),
    ],
)
def test_labels_that_are_read(model: AnsweringModel, label: object, expected: object) -> None:
    assert model.read_label(label) == expected


@pytest.mark.parametrize(
    ("model", "label"),
    [
        *((CLASSES, label) for label in ("bat", "1", 3, -1, True, 1.0, [1], 10**30)),
        *(
            (NUMBERS, label)
            for label in (1.0, [1.0], [1, True], [1, "2"], [1, math.nan], [1, 1e200], "1,2", [1, 10**400])
        ),
    ],
)
def test_labels_that_are_refused(model: AnsweringModel, label: object) -> None:
    with pytest.raises(ValueError, match="the label must be"):
        model.read_label(label)
