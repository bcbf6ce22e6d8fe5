"""Tests by betting: how sure a few observations make us that a mean is small.

A gambler bets on each observation before it is seen. If the mean is as large as the hypothesis says, no strategy makes
the wealth grow on average, so a large wealth is as improbable as it is large, by Ville's inequality (Waudby-Smith &
Ramdas, "Estimating means of bounded random variables by betting", JRSS B 2024, section 4).
"""

import math

import torch
from torch import Tensor

LARGEST_STAKE = 0.9
"""Most of the wealth that the worst observation may cost."""


def find_p_value(observations: Tensor, bound: float, level: float) -> float:
    """p-value of the hypothesis that the mean of independent observations [n] in [0, 1] is at least a bound.

    Args:
        observations: in the order in which they are bet on, which must not depend on them.
        bound: in (0, 1).
        level: the level at which the hypothesis is to be rejected, for which stakes are chosen: the predictable plug-in
            of the paper.
    """
    x = observations.double()
    count = torch.arange(1, len(x) + 1, dtype=torch.float64)
    mean = (0.5 + x.cumsum(0)) / (count + 1)
    variance = (0.25 + (x - mean).square().cumsum(0)) / (count + 1)
    before = torch.cat([variance.new_full((1,), 0.25), variance[:-1]])
    stakes = (2 * math.log(1 / level) / (len(x) * before)).sqrt().clamp(max=LARGEST_STAKE / (1 - bound))
    wealth = torch.log1p(-stakes * (x - bound)).cumsum(0)
    return math.exp(-max(0.0, float(wealth.max())))
