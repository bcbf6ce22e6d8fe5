"""Bounds on a probability."""

import pytest
from scipy.special import bdtr, betaincinv

from models.predictions.binomial import bound_above, bound_below

COUNTS = [(0, 5), (1, 10), (5, 5), (99, 100), (500, 1000), (9_990, 10_000), (10_000, 10_000)]


@pytest.mark.parametrize(("successes", "trials"), COUNTS)
@pytest.mark.parametrize("level", [0.001, 0.05])
def test_bounds_are_quantiles_of_beta(successes: int, trials: int, level: float) -> None:
    low = betaincinv(successes, trials - successes + 1, level) if successes else 0.0
    high = betaincinv(successes + 1, trials - successes, 1 - level) if successes < trials else 1.0
    assert bound_below(successes, trials, level) == pytest.approx(low, rel=1e-9)
    assert bound_above(successes, trials, level) == pytest.approx(high, rel=1e-9)


@pytest.mark.parametrize("probability", [0.03, 0.5, 0.9])
def test_a_bound_exceeds_the_probability_at_most_as_often_as_its_level_says(probability: float) -> None:
    right = sum(bound_below(k, 60, 0.05) <= probability for k in range(61))  # as bounds grow with the successes
    assert 0 < 1 - bdtr(right - 1, 60, probability) <= 0.05
