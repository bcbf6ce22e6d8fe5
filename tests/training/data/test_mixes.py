"""Outliers that are mixes of features."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.training.data.test_vectors import write_vectors
from training.data.mixes import Mixes, choose_mixes
from training.data.vectors import load_vectors
from training.recipes.own_table import own_vectors
from training.recipes.recipe import OutlierExposure
from training.runs.session import start_run
from training.runs.sources import make_source
from training.runs.state import TrainingError

CPU = torch.device("cpu")


def test_mixes_known_answers() -> None:
    mixes = Mixes(torch.tensor([0, 1]), torch.tensor([1, 2]), torch.tensor([0.25, 2.0]))
    first, second = torch.tensor([[4.0, 0.0], [1.0, 1.0]]), torch.tensor([[0.0, 8.0], [0.0, 3.0]])
    torch.testing.assert_close(mixes.mix(first, second), torch.tensor([[1.0, 6.0], [2.0, -1.0]]))
    maps = first[..., None, None].expand(-1, -1, 2, 3)
    torch.testing.assert_close(mixes[torch.tensor([1])].mix(maps[1:], 0 * maps[1:]), 2 * maps[1:])


def test_any_two_examples_of_different_classes_are_mixed() -> None:
    labels = torch.tensor([2, 0, 2, 1, 0, 2])
    mixes = choose_mixes(labels, 6_000, (0.3, 0.7), seed=3)
    pairs = Counter(zip(mixes.first.tolist(), mixes.second.tolist(), strict=True))
    assert pairs.keys() == {(i, j) for i in range(6) for j in range(6) if labels[i] != labels[j]}
    chances = {(i, j): 1_000 / int((labels != labels[i]).sum()) for i, j in pairs}
    assert all(abs(count - chances[pair]) < 6 * chances[pair] ** 0.5 for pair, count in pairs.items())
    assert 0.3 <= mixes.shares.min() < 0.31
    assert 0.69 < mixes.shares.max() <= 0.7
    assert torch.equal(mixes.first, choose_mixes(labels, 6_000, (0.3, 0.7), seed=3).first)
    assert not torch.equal(mixes.first, choose_mixes(labels, 6_000, (0.3, 0.7), seed=4).first)
    with pytest.raises(ValueError, match="at least two classes"):
        choose_mixes(torch.zeros(4, dtype=torch.int64), 3, (0.3, 0.7), seed=0)


def test_networks_learn_to_be_undecided_between_classes(tmp_path: Path) -> None:
    table = load_vectors(write_vectors(tmp_path / "v.npz"))
    losses = []
    for weight in (0.0, 0.5):
        exposure = OutlierExposure(weight=weight, count=500, mixes=(0.3, 0.7))
        recipe = replace(own_vectors(table), outliers=exposure)
        run = start_run(recipe, table.dataset, 0, 200, CPU)
        while not run.finished:
            run.step()
        outliers = make_source(recipe, table.dataset, 1, CPU).take_outliers(torch.arange(100))
        outputs = recipe.target.forward(run.sampler.eval().sample(0, range(8)), outliers).softmax(-1).mean(0)
        losses.append(-torch.xlogy(outputs, outputs).sum(-1).mean())
    assert losses[1] > losses[0] + 0.1


def test_mixes_need_classes(tmp_path: Path) -> None:
    table = load_vectors(write_vectors(tmp_path / "v.npz"), labels="number")
    recipe = replace(own_vectors(table), outliers=OutlierExposure(mixes=(0.3, 0.7)))
    with pytest.raises(TrainingError, match="outliers can only be used to classify"):
        start_run(recipe, table.dataset, 0, 10, CPU)
