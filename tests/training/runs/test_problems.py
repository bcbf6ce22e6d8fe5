import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from training.data.dataset import Dataset, Examples
from training.data.datasets import load_dataset
from training.data.mixture import Mixture
from training.recipes.toys import digits_hypergan, toy_mixture
from training.runs.problems import Density, Supervised

CPU = torch.device("cpu")


def load(name: str) -> Dataset:
    dataset = load_dataset(name, Path())
    assert isinstance(dataset, Dataset)
    return dataset


def pose(name: str, networks: int, inputs: int, **changes: Any) -> Supervised:
    recipe = replace(digits_hypergan(), networks_per_step=networks, inputs_per_network=inputs, **changes)
    return Supervised(recipe, load(name), 0, CPU)


def test_each_network_of_a_step_sees_images_of_its_own() -> None:
    images, labels = pose("digits", 4, 32).draw_batch(0)
    assert images.shape == (4, 32, 1, 8, 8)
    assert labels.shape == (4, 32)
    assert len(torch.unique(images.flatten(0, 1).flatten(1), dim=0)) == 128


def test_an_epoch_shows_every_image_once() -> None:
    dataset = load("digits")
    problem = pose("digits", 4, 32)
    seen = [problem.draw_batch(step)[0].flatten(0, 1).flatten(1) for step in range(len(dataset.train) // 128)]
    assert len(torch.unique(torch.cat(seen), dim=0)) == 128 * len(seen)


def test_all_networks_may_see_all_examples() -> None:
    dataset = load("cubic")
    inputs, labels = pose("cubic", 64, 20).draw_batch(17)
    assert inputs.shape == labels.shape == (64, 20, 1)
    for network in (0, 63):
        assert torch.equal(inputs[network], dataset.input.prepare(dataset.train.inputs))
        assert torch.equal(labels[network], dataset.train.labels)


def test_a_step_larger_than_the_training_set_is_refused() -> None:
    with pytest.raises(ValueError, match="4 networks with 10 examples each needs more than the 20"):
        pose("cubic", 4, 10)


def test_classes_can_be_balanced() -> None:
    """Of eight images of the first digit and two of the second, the two weigh four times as much."""
    dataset = load("digits")
    index = torch.cat([(dataset.train.labels == digit).nonzero()[:count, 0] for digit, count in ((0, 8), (1, 2))])
    few = replace(dataset, train=Examples(dataset.train.inputs[index], dataset.train.labels[index]))
    recipe = replace(digits_hypergan(), networks_per_step=2, inputs_per_network=10, balance=True)
    weights = recipe.method.build(recipe.target).eval().sample(0, range(2))
    found = Supervised(recipe, few, 0, CPU).fit(recipe.target, weights, 0).losses["fit"]
    logits = recipe.target.forward(weights, few.input.prepare(few.train.inputs)).log_softmax(-1)
    parts = torch.stack([-logits[:, few.train.labels == digit, digit].mean() for digit in (0, 1)])
    assert found.item() == pytest.approx(parts.sum().item() / 10, rel=1e-5)  # of ten classes
    with pytest.raises(ValueError, match="no classes to balance"):
        pose("cubic", 4, 5, balance=True)


def test_the_cubic_has_the_noise_that_it_states() -> None:
    dataset = load("cubic")
    assert [len(part) for part in (dataset.train, dataset.validation, dataset.calibration, dataset.test)] == [
        20,
        100,
        200,
        400,
    ]
    noise = dataset.test.labels - dataset.test.inputs**3
    assert noise.std().item() == pytest.approx(3, abs=6 * 3 / math.sqrt(800))  # 6 standard errors
    assert dataset.test.inputs.abs().max() <= 4
    beyond = load_dataset("cubic", Path())
    assert isinstance(beyond, Dataset)
    assert torch.equal(beyond.train.inputs, dataset.train.inputs)


def test_the_density_is_that_of_the_formula() -> None:
    mixture = load_dataset("mixture", Path())
    assert isinstance(mixture, Mixture)
    assert mixture.centers.shape == (10, 2)
    assert mixture.centers.abs().max() < 5
    point = torch.tensor([0.5, -1.0])
    expected = sum(
        p * math.exp(-(math.dist(c, point.tolist()) ** 2) / (2 * s**2))
        for c, s, p in zip(mixture.centers.tolist(), mixture.deviations.tolist(), mixture.shares.tolist(), strict=True)
    )
    assert mixture.measure_density(point).item() == pytest.approx(expected, rel=1e-5)
    assert mixture.measure_energy(point).item() == pytest.approx(0.05 * 1.25 - expected, rel=1e-5)


def test_peaks_are_where_the_density_is_largest() -> None:
    """On a fine grid, every point without a higher neighbour is a peak, and every peak is near such a point."""
    mixture = load_dataset("mixture", Path())
    assert isinstance(mixture, Mixture)
    peaks = mixture.find_peaks()
    reach = torch.linspace(-7, 7, 701)
    grid = torch.stack(torch.meshgrid(reach, reach, indexing="ij"), dim=-1)
    density = mixture.measure_density(grid)
    highest = torch.nn.functional.max_pool2d(density[None], 3, 1, 1)[0] == density
    found = grid[highest & (density > 0.01)]
    assert len(found) == len(peaks)
    assert torch.cdist(found, peaks).amin(0).max() < 0.03


def test_a_density_is_fitted_at_the_weights() -> None:
    mixture = load_dataset("mixture", Path())
    assert isinstance(mixture, Mixture)
    weights = {"linear1.weight": torch.tensor([[[1.0]], [[2.0]]]), "linear1.bias": torch.tensor([[0.5], [-3.0]])}
    points = torch.tensor([[1.0, 0.5], [2.0, -3.0]])
    fit = Density(mixture, CPU).fit(toy_mixture().target, weights, 0)
    assert fit.losses["fit"].item() == pytest.approx(mixture.measure_energy(points).mean().item())
    assert fit.metric.item() == pytest.approx(mixture.measure_density(points).mean().item())
