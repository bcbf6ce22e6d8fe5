"""Bets on the exchangeability of scores."""

from itertools import product

import numpy as np
import pytest
import torch

from models.predictions.detection import RATES, conformal_quantile, find_rank
from models.predictions.drift import (
    MOST_CAPITAL,
    ODDS,
    Bag,
    Floats,
    Martingale,
    count_gaps,
    count_strategies,
    find_bins,
)


def find_thresholds(scores: Floats, rates: tuple[float, ...] = RATES) -> list[float]:
    return [conformal_quantile(torch.from_numpy(scores), rate) for rate in rates]


def rank_streams(random: np.random.Generator, streams: int, n: int, inputs: int, rates: tuple[float, ...]) -> Floats:
    """P-values of unchanged inputs, [S, B], each stream with a calibration of its own."""
    known, scores = np.sort(random.random((streams, n))), random.random((streams, inputs))
    thresholds = known[:, [find_rank(n, rate) - 1 for rate in rates]]
    bins = (scores[..., None] <= thresholds[:, None]).sum(-1)
    return Bag(count_gaps(n, rates, thresholds[0].tolist())).rank(bins, random.random(bins.shape))


def test_a_bin_has_a_gap_for_each_score_and_one_lies_beyond_all() -> None:
    for seed, n in enumerate((999, 1000, 2500, 12_345)):
        scores = np.random.default_rng(seed).normal(size=n)
        thresholds = find_thresholds(scores)
        counts = np.bincount(find_bins(scores, thresholds), minlength=len(RATES) + 1)
        assert count_gaps(n, RATES, thresholds).tolist() == [counts[0] + 1, *counts[1:]]


def test_scores_that_are_often_equal_are_counted_too() -> None:
    scores, rates = np.concatenate([np.zeros(1600), np.linspace(1, 2, 399)]), (0.1, 0.3, 0.5)
    thresholds = find_thresholds(scores, rates)
    assert thresholds[1:] == [0, 0]
    assert count_gaps(1999, rates, thresholds).tolist() == [200, 400, 0, 1400]
    assert find_bins(np.array([0.0, 0.5, 2.5]), thresholds).tolist() == [3, 1, 0]


def test_p_values_are_smoothed_ranks() -> None:
    """With a bin for each rank, that of the first input is the customary one. Later ones are counted by hand."""
    random = np.random.default_rng(0)
    known, scores, chances = random.random(7), random.random(40), random.random(40)
    rates = tuple(k / 8 for k in range(1, 8))
    thresholds = find_thresholds(known, rates)
    assert sorted(thresholds) == sorted(known.tolist())
    bins = find_bins(scores, thresholds)
    found = Bag(count_gaps(7, rates, thresholds)).rank(bins, chances)
    assert found[0] == pytest.approx(((known > scores[0]).sum() + chances[0]) / 8, abs=1e-12)
    for i, chance in enumerate(chances):
        higher = bins[i] + (bins[:i] < bins[i]).sum()
        own = 1 + (bins[:i] == bins[i]).sum()
        assert found[i] == pytest.approx((higher + chance * own) / (8 + i), abs=1e-12)


def test_p_values_are_uniform_and_independent() -> None:
    """Whatever the calibration; of 40,000 pairs in 16 cells, chi-square is beyond the bound once in a million times."""
    p_values = rank_streams(np.random.default_rng(1), 40_000, 9, 12, (0.1, 0.2, 0.5))
    for first, second in ((0, 1), (3, 11), (10, 11)):
        cells = (4 * p_values[:, first]).astype(int) * 4 + (4 * p_values[:, second]).astype(int)
        counts = np.bincount(cells, minlength=16)
        assert ((counts - 2500) ** 2 / 2500).sum() < 56


def test_no_bet_gains_on_average() -> None:
    martingale = Martingale(RATES)
    masses = np.diff([0.0, *RATES, 1.0])
    np.testing.assert_allclose(masses @ martingale._payoffs, 1, rtol=1e-12)
    assert martingale._payoffs.shape == (len(RATES) + 1, count_strategies(RATES))


def test_the_mean_over_all_streams_is_1() -> None:
    """Exactly: all streams of eight p-values below or above one half."""
    streams = np.array(list(product((0.25, 0.75), repeat=8)))
    values = Martingale((0.5,)).bet(streams)
    np.testing.assert_allclose(values.mean(0), 1, rtol=1e-12)
    assert values.std(0).min() > 0.001


def test_many_steps_at_once_are_the_same_as_one_after_the_other() -> None:
    p_values = np.random.default_rng(2).beta(0.7, 1, 500)
    together = Martingale(RATES).bet(p_values)
    alone = Martingale(RATES)
    assert np.concatenate([alone.bet(p_values[i : i + 1]) for i in range(500)]) == pytest.approx(together, rel=1e-9)
    reserve = [np.log(30) / np.log(30 + t) for t in range(501)]  # by hand
    capital = {(a, odds): 0.0 for a in RATES for odds in ODDS}
    for t, p in enumerate(p_values):
        for (a, odds), own in capital.items():
            q = a * odds / (1 - a + a * odds)
            stake = (reserve[t] - reserve[t + 1]) / len(capital)
            capital[a, odds] = (own + stake) * (q / a if p <= a else (1 - q) / (1 - a))
        assert together[t] == pytest.approx(sum(capital.values()) + reserve[t + 1], rel=1e-9)


def test_alarms_on_unchanged_streams_keep_the_promise() -> None:
    """Of 1,000 streams, at most 1 % are expected to alarm; more than 24 do by chance once in 16,000 times.

    Against a calibration that stays as it is, many more do.
    """
    random = np.random.default_rng(3)
    n, streams, inputs, rates = 199, 1000, 2000, (0.02, 0.1, 0.2)
    p_values = rank_streams(random, streams, n, inputs, rates)
    assert (Martingale(rates).bet(p_values).max(1) >= 100).sum() <= 24

    known, scores = random.random((streams, n)), random.random((streams, inputs))
    fixed = np.stack([1 - np.searchsorted(np.sort(own), new) / n for own, new in zip(known, scores, strict=True)])
    assert (Martingale(rates).bet(fixed).max(1) >= 100).sum() > 100


@pytest.mark.parametrize(("change", "foreign"), [(0, 1.0), (5000, 0.1), (5000, 0.0)])
def test_changes_in_both_directions_are_found(change: int, foreign: float) -> None:
    """Foreign inputs have no unusual scores, more of them, or nothing else."""
    random = np.random.default_rng(4)
    n, inputs = 2500, change + 500
    scores = random.random(inputs)
    after = scores[change:]
    after[:] = np.where(random.random(500) < foreign, 9.0, 0.9 * after)
    thresholds = find_thresholds(random.random(n))
    bag = Bag(count_gaps(n, RATES, thresholds))
    values = Martingale(RATES).bet(bag.rank(find_bins(scores, thresholds), random.random(inputs)))
    assert values[:change].max(initial=0) < 100
    assert values.max() > 1e6


def test_capital_stays_finite() -> None:
    martingale = Martingale(RATES)
    values = martingale.bet(np.full(20_000, 1e-4))
    assert np.isfinite(values).all()
    assert values[-1] <= MOST_CAPITAL * count_strategies(RATES)
    values = martingale.bet(np.full(200_000, 0.99))
    assert np.isfinite(values).all()
    assert values[-1] > 0
    assert martingale.value == values[-1]


def test_a_martingale_goes_on() -> None:
    p_values = np.random.default_rng(5).random(300)
    whole = Martingale(RATES).bet(p_values)
    first = Martingale(RATES)
    first.bet(p_values[:137])
    second = Martingale(RATES, first.inputs, first.capital)
    assert second.bet(p_values[137:]) == pytest.approx(whole[137:], rel=1e-12)
