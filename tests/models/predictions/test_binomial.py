"""Bounds on a probability."""

import pytest
from scipy.stats import beta, binom

from models.predictions.binomial import bound_above, bound_below

COUNTS = [(0, 5), (1, 10), (5, 5), (99, 100), (500, 1000), (9_990, 10_000), (10_000, 10_000)]


@pytest.mark.parametrize(("successes", "trials"), COUNTS)
@pytest.mark.parametrize("level", [0.001, 0.05])
def test_bounds_are_quantiles_of_beta(successes: int, trials: int, level: float) -> None:
    low = beta.ppf(level, successes, trials - successes + 1) if successes else 0.0
    high = beta.ppf(1 - level, successes + 1, trials - successes) if successes < trials else 1.0
    assert bound_below(successes, trials, level) == pytest.approx(low, rel=1e-9)
    assert bound_above(successes, trials, level) == pytest.approx(high, rel=1e-9)


@pytest.mark.parametrize("probability", [0.03, 0.5, 0.9])
def test_a_bound_exceeds_the_probability_at_most_as_often_as_its_level_says(probability: float) -> None:
    wrong = sum(binom.pmf(k, 60, probability) for k in range(61) if bound_below(k, 60, 0.05) > probability)
    assert 0 < wrong <= 0.05
