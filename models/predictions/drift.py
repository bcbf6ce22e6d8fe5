"""Drift: whether a stream of inputs is still like those of the calibration, tested by betting.

Each score of the stream is ranked among those of the calibration and of the stream before it. If all are exchangeable,
the smoothed ranks are independent, uniform p-values (Vovk, Gammerman & Shafer, "Algorithmic Learning in a Random
World", 2005, chapters 2 and 7). A gambler bets on each p-value before it is seen. While nothing changes, no bet makes
the capital grow on average: it is a martingale that starts at 1. By Ville's inequality, it ever reaches 1/δ with a
probability of at most δ, however long the stream is.

A fixed calibration would not do: given n scores, the share of inputs above their quantile is not quite the rate, and a
long stream would show the difference.

Shapes: B inputs in order, M calibrated rates, K strategies; "…" are independent streams, in a study.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from models.predictions.detection import find_rank

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

ODDS = (1 / 4, 2, 8, 64)
"""How many times larger the odds of a p-value below the cut are, if a strategy is right."""

EARLY = 30
"""Number of inputs in which a sixth of the capital is put at risk."""

MOST_CAPITAL = 1e100
"""Capital of a strategy above which it stops growing."""

STEPS = 64
"""Inputs that are bet on at once: so few that no product leaves the range of double precision."""


def find_bins(scores: Floats, thresholds: Sequence[float]) -> Integers:
    """Numbers of the bins of scores [B], from 0 for those above all thresholds to M for those above none, int64 [B].

    Args:
        scores: the scores.
        thresholds: thresholds of rates that increase, [M].
    """
    return len(thresholds) - np.searchsorted(np.asarray(thresholds)[::-1], scores)


def count_gaps(n: int, rates: Sequence[float], thresholds: Sequence[float]) -> Integers:
    """How many of the n + 1 gaps between the calibration's scores, and beyond them, are in each bin, int64 [M + 1].

    No score but the quantile itself may equal a threshold. Where thresholds of successive rates are equal, all scores
    between them are.

    Args:
        n: number of scores.
        rates: rates, increasing, [M].
        thresholds: their conformal quantiles, [M].
    """
    ranks = [find_rank(n, rate) for rate in rates]
    for i in range(1, len(ranks)):
        if thresholds[i] == thresholds[i - 1]:
            ranks[i] = ranks[i - 1]
    return -np.diff([n + 1, *ranks, 0])


class Bag:
    """Scores of the calibration and of the stream so far, by the gaps between them, of which bins are made up.

    A new score falls into each gap between all scores before it with the same probability, and divides that gap.
    """

    def __init__(self, gaps: Integers) -> None:
        """Begins with numbers of gaps […, M + 1], those of the highest scores first."""
        self.gaps = gaps

    def rank(self, bins: Integers, chances: Floats) -> Floats:
        """Smoothed p-values of scores, each among all before it: float64 […, B]. The scores are then part of the bag.

        Args:
            bins: bins of the scores, […, B].
            chances: uniform random numbers in [0, 1), which choose a place within the bin, […, B].
        """
        added = np.eye(self.gaps.shape[-1], dtype=np.int64)[bins]
        gaps = self.gaps[..., None, :] + added.cumsum(-2)
        self.gaps, before = gaps[..., -1, :], gaps - added
        chosen = bins[..., None]
        own = np.take_along_axis(before, chosen, -1)[..., 0]
        higher = np.take_along_axis(before.cumsum(-1), chosen, -1)[..., 0] - own
        p_values: Floats = (higher + chances * own) / before.sum(-1)
        return p_values


class Martingale:
    """The capital of a gambler who bets on uniform p-values, starting from 1.

    Each strategy bets on one cut: that more, or fewer, p-values are below it than its value. The capital is divided
    among strategies, and among the times when they start to bet, so that a change that comes late finds capital that
    was not spent before. What is kept in reserve after t inputs is ln c / ln(c + t). (Conformal test martingales: Vovk,
    "Testing Randomness Online", Statistical Science 2021.)
    """

    def __init__(self, cuts: Sequence[float], inputs: int = 0, capital: Floats | None = None) -> None:
        """Begins, or goes on after some inputs.

        Args:
            cuts: the cuts, increasing in (0, 1), [M].
            inputs: number of p-values so far.
            capital: capital of each strategy, […, K].
        """
        self.inputs = inputs
        self._cuts = np.asarray(cuts)
        self._payoffs = _list_payoffs(self._cuts)
        self.capital = np.zeros(self._payoffs.shape[1]) if capital is None else capital

    @property
    def value(self) -> Floats:
        """All capital, […]."""
        value: Floats = self.capital.sum(-1) + _keep_back(self.inputs)
        return value

    def bet(self, p_values: Floats) -> Floats:
        """Bets on p-values […, B] one after the other. Returns the values after each, […, B]."""
        parts = [p_values[..., start : start + STEPS] for start in range(0, p_values.shape[-1], STEPS)]
        return np.concatenate([self._bet(part) for part in parts], -1)

    def _bet(self, p_values: Floats) -> Floats:
        count, strategies = p_values.shape[-1], self._payoffs.shape[1]
        reserves = _keep_back(np.arange(self.inputs, self.inputs + count + 1))
        stakes = (reserves[:-1] - reserves[1:])[:, None] / strategies
        payoffs = self._payoffs[np.searchsorted(self._cuts, p_values)]
        products = payoffs.cumprod(-2)
        # C ← (C + stake) · payoff, for all steps at once
        grown = self.capital[..., None, :] + (stakes * payoffs / products).cumsum(-2)
        capital = np.minimum(products * grown, MOST_CAPITAL)
        self.capital, self.inputs = capital[..., -1, :], self.inputs + count
        values: Floats = capital.sum(-1) + reserves[1:]
        return values


def count_strategies(cuts: Sequence[float]) -> int:
    """K for these cuts."""
    return len(cuts) * len(ODDS)


def _list_payoffs(cuts: Floats) -> Floats:
    """By what each strategy multiplies its capital, [M + 1, K], if a p-value is the first cut or less, …, above all."""
    cut, odds = np.repeat(cuts, len(ODDS)), np.tile(ODDS, len(cuts))
    chance = cut * odds / (1 - cut + cut * odds)
    below = np.arange(len(cuts) + 1)[:, None] <= np.repeat(np.arange(len(cuts)), len(ODDS))
    payoffs: Floats = np.where(below, chance / cut, (1 - chance) / (1 - cut))
    return payoffs


def _keep_back(inputs: Integers | int) -> Floats:
    """Capital that no strategy has after a number of inputs."""
    return math.log(EARLY) / np.log(EARLY + np.asarray(inputs, dtype=np.float64))
