"""Confidence sequences by betting: known wealths, how often they are wrong, and how soon they know."""

import math

import pytest
import torch
from torch import Tensor

from models.predictions.confidence_sequences import STAKES, bound_mean, measure_evidence

LEVEL = 0.05


def draw(runs: int, n: int, mean: float, seed: int = 0) -> Tensor:
    """Coins, [runs, n]."""
    return (torch.rand(runs, n, generator=torch.Generator().manual_seed(seed)) < mean).double()


def bet(x: Tensor, bound: float) -> float:
    """Wealth of the gamblers who bet that the mean is less than a bound, observation by observation."""
    wealths = [1.0] * len(STAKES)
    for value in x.tolist():
        wealths = [w * (1 + s * (bound - value) / (1 - bound)) for w, s in zip(wealths, STAKES, strict=True)]
    return sum(wealths) / len(STAKES)


@pytest.mark.parametrize("fractions", [False, True])
def test_the_ends_are_where_the_wealth_reaches_the_threshold(fractions: bool) -> None:
    x = torch.rand(60, generator=torch.Generator().manual_seed(2)) if fractions else draw(1, 60, 0.7)[0]
    lower, upper = bound_mean(x, LEVEL)
    assert bet(x, upper) == pytest.approx(2 / LEVEL, rel=1e-5)
    assert bet(1 - x, 1 - lower) == pytest.approx(2 / LEVEL, rel=1e-5)
    assert lower < x.mean() < upper


def test_nothing_is_known_without_observations_and_little_after_one() -> None:
    assert bound_mean(torch.zeros(0), LEVEL) == (0.0, 1.0)
    lower, upper = bound_mean(torch.ones(1), LEVEL)
    assert 0 < lower < LEVEL
    assert upper == 1.0


def test_after_ones_alone_the_lower_end_has_a_closed_form_for_the_largest_stake() -> None:
    """(1 + s (1 − m)/m)ⁿ is at most the wealth of all, so the end is at least as large as that of this stake alone."""
    n, threshold = 200, len(STAKES) * 2 / LEVEL
    lower, upper = bound_mean(torch.ones(n), LEVEL)
    assert upper == 1.0
    assert 1 / (1 + (threshold ** (1 / n) - 1) / STAKES[0]) <= lower < (LEVEL / 2) ** (1 / n)  # the binomial's end


@pytest.mark.parametrize("mean", [0.5, 0.95])
def test_the_mean_is_inside_at_all_times_in_most_runs(mean: float) -> None:
    """In 1,000 runs of 500 coins, looked at after each. 5 % may miss; four standard errors are 2.8 %.

    The mean leaves the interval when the wealth of either half reaches the threshold, which takes less time to compute
    than 500 intervals of each run. The last intervals of some runs are compared.
    """
    runs = draw(1000, 500, mean)
    stakes = torch.tensor(STAKES, dtype=torch.float64)[:, None, None]
    inside = torch.ones(1000, dtype=torch.bool)
    for side, bound in ((runs, mean), (1 - runs, 1 - mean)):
        wealth = torch.log1p(stakes * (bound - side) / (1 - bound)).cumsum(-1).exp().mean(0)
        inside &= wealth.amax(1) < 2 / LEVEL
        for run in range(50):
            assert (bound_mean(side[run], LEVEL)[1] > bound) == bool(wealth[run, -1] < 2 / LEVEL)
    assert inside.double().mean() >= 1 - LEVEL - 0.028


@pytest.mark.parametrize(
    ("mean", "widths"), [(0.5, (0.34, 0.12, 0.036)), (0.95, (0.16, 0.05, 0.016)), (0.99, (0.1, 0.024, 0.007))]
)
def test_the_interval_shrinks(mean: float, widths: tuple[float, ...]) -> None:
    """Mean widths of ten runs after 100, 1,000 and 10,000 observations: about three times narrower each time."""
    for n, most in zip((100, 1000, 10_000), widths, strict=True):
        found = [upper - lower for run in draw(10, n, mean) for lower, upper in [bound_mean(run, LEVEL)]]
        assert 0.8 * most < sum(found) / 10 < 1.1 * most


def test_evidence_is_the_mean_wealth_of_all_who_began() -> None:
    """Two misses: who begins with the first has half of the money, with the second a sixth, and a third is kept."""
    bound, wealth = 0.9, 0.0
    for stake in STAKES:
        gain = 1 + stake / (1 - bound) * bound
        wealth += (gain**2 / 2 + gain / 6 + 1 / 3) / len(STAKES)
    assert measure_evidence(torch.zeros(2), bound) == pytest.approx(math.log(wealth))
    assert measure_evidence(torch.zeros(0), bound) == pytest.approx(0)


def test_who_forgets_the_first_observations_has_no_more_evidence() -> None:
    x = draw(1, 300, 0.8)[0]
    whole = measure_evidence(x, 0.95)
    for forgotten in (1, 50, 299):
        assert measure_evidence(x[forgotten:], 0.95, first=forgotten + 1) <= whole


def test_a_kept_promise_is_rarely_doubted() -> None:
    """At the promise itself, looked at twenty times in 400 runs: up to four standard errors of 1.1 % more than 5 %."""
    doubted = 0
    for run in draw(400, 400, 0.9):
        doubted += any(measure_evidence(run[:n], 0.9) >= math.log(1 / LEVEL) for n in range(20, 401, 20))
    assert doubted / 400 <= LEVEL + 4 * 0.011


def test_a_broken_promise_is_noticed_even_after_many_good_observations() -> None:
    """The mean of all is still good, but 100 observations of a worse time suffice."""
    before, after = draw(1, 10_000, 0.99)[0], draw(1, 100, 0.6)[0]
    assert measure_evidence(before, 0.95) < 0
    assert measure_evidence(torch.cat([before, after]), 0.95) > math.log(1 / LEVEL)
    assert bound_mean(torch.cat([before, after]), LEVEL)[1] > 0.95
