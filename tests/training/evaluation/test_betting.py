"""Tests by betting: how often they are wrong, and how much they need."""

import math

import pytest
import torch

from training.evaluation.betting import LARGEST_STAKE, find_p_value


def test_a_true_hypothesis_is_rarely_rejected() -> None:
    """At the bound itself, at most one test in twenty rejects: 700 tests, up to four standard errors of .008."""
    generator = torch.Generator().manual_seed(0)
    rejected = 0
    for _ in range(700):
        rejected += find_p_value((torch.rand(400, generator=generator) < 0.1).double(), 0.1, 0.05) <= 0.05
    assert rejected / 700 <= 0.05 + 4 * 0.008


def test_a_false_hypothesis_is_rejected_with_enough_observations() -> None:
    observations = (torch.rand(4000, generator=torch.Generator().manual_seed(0)) < 0.05).double()
    assert find_p_value(observations, 0.1, 0.05) < 1e-6
    assert find_p_value(observations[:20], 0.1, 0.05) > 0.05


def test_the_first_bets_are_those_of_the_paper() -> None:
    """Two zeros: stakes are √(2 ln 20 / (2 v)) for variances v of ¼ and (¼ + ¹⁄₁₆) / 2, or the largest allowed."""
    wealth, largest = 1.0, LARGEST_STAKE / (1 - 0.1)
    for variance in (1 / 4, (1 / 4 + 1 / 16) / 2):
        wealth *= 1 + 0.1 * min(largest, math.sqrt(math.log(20) / variance))
    assert find_p_value(torch.zeros(2), 0.1, 0.05) == pytest.approx(1 / wealth)


def test_the_worst_observation_leaves_some_wealth() -> None:
    assert find_p_value(torch.ones(50), 0.5, 0.05) == 1.0
