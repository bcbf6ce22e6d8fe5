"""What is compared computes the same."""

from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch

from benchmarks.evaluator import count_operations, forward_loop, forward_vmap
from benchmarks.timing import measure_times
from benchmarks.training_step import PlainTarget
from tests.conftest import SMALL_TARGET, draw_weights
from training.datasets import load_digits
from training.fitting import FittingRun
from training.recipes import digits_hypergan


def test_all_ways_to_evaluate_agree() -> None:
    generator = torch.Generator().manual_seed(0)
    weights = draw_weights(SMALL_TARGET, generator, 3)
    inputs = torch.randn(5, *SMALL_TARGET.input_shape, generator=generator)
    ours = SMALL_TARGET.forward(weights, inputs)
    for way in (forward_vmap, forward_loop):
        torch.testing.assert_close(way(SMALL_TARGET, weights, inputs), ours, rtol=1e-4, atol=1e-4)


def test_operations_are_two_for_each_product() -> None:
    assert count_operations(digits_hypergan().target) == 2 * (8 * 8 * 8 * 9 + 2 * 2 * 16 * 8 * 9 + 16 * 10)


def test_both_training_steps_have_the_same_losses() -> None:
    recipe, dataset = digits_hypergan(), load_digits(Path())
    plain = PlainTarget(**{field.name: getattr(recipe.target, field.name) for field in fields(recipe.target)})
    runs = [
        FittingRun(replace(recipe, target=t), dataset, 0, recipe.steps, torch.device("cpu"))
        for t in (recipe.target, plain)
    ]
    for _ in range(3):
        ours, theirs = (run.step().losses for run in runs)
        for name, loss in ours.items():
            assert float(loss) == pytest.approx(float(theirs[name]), rel=1e-4)


def test_times_are_medians_of_turns() -> None:
    order = []
    times = measure_times(
        {"a": lambda: order.append("a"), "b": lambda: order.append("b")}, torch.device("cpu"), rounds=4
    )
    assert order == ["a", "b"] * 5
    assert set(times) == {"a", "b"}
