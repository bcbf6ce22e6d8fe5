"""Confidence sequences by betting: what observations say of a mean, valid whenever one looks.

Gamblers bet on each observation before it is seen. If the mean is what a hypothesis says, no strategy makes their
wealth grow on average, so it ever reaches 1/δ with a probability of at most δ (Ville's inequality). Source:
Waudby-Smith & Ramdas, "Estimating means of bounded random variables by betting", JRSS B 2024.

Against the hypothesis that the mean is m, a gambler with the stake s gains the factor 1 + s (m − x)/(1 − m), so that
the worst observation, 1, costs the part s of the wealth. The paper's diversified Kelly betting divides the money among
gamblers with several stakes. Their wealth grows with m.

Shapes: n observations in [0, 1], S stakes.
"""

import math

import torch
from torch import Tensor

STAKES = (0.95, 0.8, *(2.0**-power for power in range(1, 13)))
"""Stakes that share the money. Some stake is near the best one, unless that is less than 1/5,000: then it would win
only after millions of observations."""

_HALVINGS = 30
"""Steps in which an end of an interval is found, to 1e-9."""


def bound_mean(observations: Tensor, level: float) -> tuple[float, float]:
    """An interval for the mean that holds at all times at once: the present one of a confidence sequence.

    It has the means against which neither half of the paper's hedged capital process (Theorem 3) has won: half of the
    money bets that the mean is smaller, half that it is larger. Observations need not be independent, but the mean of
    each, given those before, must be the same.

    Args:
        observations: [n].
        level: probability with which the sequence ever misses the mean. Each end misses it with half of that.

    Returns:
        The lower and the upper end; 0 and 1 without observations.
    """
    x = observations.double()
    return 1 - _bound_above(1 - x, level / 2), _bound_above(x, level / 2)


def measure_evidence(observations: Tensor, bound: float, first: int = 1) -> float:
    """Logarithm of the wealth of gamblers who bet that the mean is, or has become, less than a bound.

    If the mean of each observation, given those before, is at least the bound, the wealth ever reaches 1/δ with a
    probability of at most δ. Gamblers begin at different times, the j-th observation with 1/(j(j+1)) of the money, so
    that many good observations do not hide a change for the worse (compare Shin, Ramdas & Rinaldo, "E-detectors: a
    nonparametric framework for sequential change detection", 2024).

    Args:
        observations: [n], in their order.
        bound: in (0, 1).
        first: number of the first observation, from 1. Earlier ones may be forgotten: whoever began with them could
            only add to the wealth.
    """
    gains = torch.log1p(_gain(observations.double(), bound)).flip(1).cumsum(1).flip(1)
    begun = torch.arange(first, first + len(observations), dtype=torch.float64)
    wealth = gains - (begun * (begun + 1)).log()
    kept = wealth.new_full((len(STAKES), 1), -math.log(first + len(observations)))
    return float(torch.cat([wealth, kept], 1).logsumexp((0, 1))) - math.log(len(STAKES))


def _gain(x: Tensor, bound: float) -> Tensor:
    """What each observation adds to the wealth of each stake that bets on a mean below the bound, as a part of it:
    [S, n]."""
    return torch.tensor(STAKES, dtype=torch.float64)[:, None] * (bound - x) / (1 - bound)


def _bound_above(x: Tensor, level: float) -> float:
    """The largest mean against which those who bet on smaller ones have not won 1/level, in whatever order."""
    values, counts = x.unique(return_counts=True)
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        wealth = (torch.log1p(_gain(values, middle)) * counts).sum(1).logsumexp(0) - math.log(len(STAKES))
        low, high = (low, middle) if wealth >= math.log(1 / level) else (middle, high)
    return high
