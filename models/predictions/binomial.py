"""Exact confidence bounds on a probability (Clopper & Pearson, "The Use of Confidence or Fiducial Limits Illustrated in
the Case of the Binomial", 1934)."""

import torch

BISECTIONS = 60
"""Halvings of an interval of length 1, which leave less than a double can tell apart from 1."""


def bound_below(successes: int, trials: int, level: float) -> float:
    """A lower bound on the probability of success, which exceeds it in at most a share `level` of experiments.

    Args:
        successes: number of successes.
        trials: number of independent trials.
        level: 1 − confidence, in (0, 1).
    """
    if successes == 0:
        return 0.0
    numbers = torch.arange(successes, trials + 1, dtype=torch.float64)
    ways = torch.lgamma(torch.tensor(trials + 1.0, dtype=torch.float64))
    ways = ways - torch.lgamma(numbers + 1) - torch.lgamma(trials - numbers + 1)
    low, high = 0.0, 1.0
    for _ in range(BISECTIONS):
        middle = torch.tensor((low + high) / 2, dtype=torch.float64)
        tail = (ways + numbers * middle.log() + torch.xlogy(trials - numbers, 1 - middle)).logsumexp(0).exp()
        low, high = (float(middle), high) if tail <= level else (low, float(middle))
    return low


def bound_above(successes: int, trials: int, level: float) -> float:
    """An upper bound on the probability of success. Arguments are those of `bound_below`."""
    return 1 - bound_below(trials - successes, trials, level)
