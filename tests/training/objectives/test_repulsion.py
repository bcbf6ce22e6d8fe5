"""Repulsion of features by HE-CKA: known answers, what it must not see, and what it does to a training."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from models.checkpoint import MethodConfig
from models.samplers.deep_ensemble import DeepEnsembleConfig
from models.samplers.hyperdraw import HyperDrawConfig
from tests.conftest import SMALL_CONFIG, SMALL_DEUTSCH
from tests.training.runs.test_baselines import make_recipe
from training.data.dataset import Dataset
from training.data.datasets import load_dataset
from training.data.outliers import synthesize_outliers
from training.objectives.repulsion import Repulsion, measure_alignment
from training.recipes.recipe import OutlierExposure
from training.recipes.toys import digits_hypergan
from training.runs.problems import Supervised
from training.runs.session import start_run

REPULSION = Repulsion()
CPU = torch.device("cpu")
EQUAL = math.acos(1 / 1.065) ** -2
"""The energy of two equal networks."""


def draw_features(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def load_digits_dataset() -> Dataset:
    dataset = load_dataset("digits", Path())
    assert isinstance(dataset, Dataset)
    return dataset


def test_alignment_known_answers() -> None:
    """Two networks tell the same two groups of four inputs apart, and a third tells other groups apart."""
    first, third = torch.tensor([1.0, 1.0, -1.0, -1.0]), torch.tensor([1.0, -1.0, 1.0, -1.0])
    features = torch.stack([first, 5 * first, third])[..., None]
    torch.testing.assert_close(
        measure_alignment(features), torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    )
    assert REPULSION.measure_energy([features[:2]]).item() == pytest.approx(EQUAL, rel=1e-4)
    assert REPULSION.measure_energy([features[1:]]).item() == pytest.approx((math.pi / 2) ** -2)
    assert replace(REPULSION, exponent=1.0).measure_energy([features[1:]]).item() == pytest.approx(2 / math.pi)


def test_alignment_equals_its_definition() -> None:
    """HSIC(K, L) / √(HSIC(K, K) HSIC(L, L)), with HSIC(K, L) = tr(K H L H)."""
    features = draw_features(2, 9, 4).double()
    directions = features / features.norm(dim=2, keepdim=True)
    first, second = directions @ directions.mT
    centring = torch.eye(9, dtype=torch.float64) - 1 / 9

    def hsic(a: Tensor, b: Tensor) -> float:
        return float((a @ centring @ b @ centring).trace())

    expected = hsic(first, second) / math.sqrt(hsic(first, first) * hsic(second, second))
    assert measure_alignment(features)[0, 1].item() == pytest.approx(expected, abs=1e-6)


def test_alignment_sees_what_is_computed_and_not_how() -> None:
    maps = draw_features(2, 8, 3, 3, 5)
    before = measure_alignment(maps)
    rotation = torch.linalg.qr(draw_features(45, 45)).Q
    for features in (
        maps[..., torch.tensor([3, 0, 4, 1, 2])],  # filters in another order
        maps * torch.tensor([7.0, 0.1]).view(2, 1, 1, 1, 1),
        maps.flatten(2) @ rotation,
    ):
        same = torch.stack([maps[0].flatten(1), features[0].flatten(1)])
        assert measure_alignment(same)[0, 1].item() == pytest.approx(1, abs=1e-5)
        torch.testing.assert_close(measure_alignment(features), before)
    shuffled = torch.stack([maps[0], maps[0].roll(1, 0)])  # the same for other inputs
    assert measure_alignment(shuffled)[0, 1] < 0.9


def test_energy_is_least_for_networks_that_are_spread_evenly() -> None:
    """Kernels of an even spread are orthogonal, because no CKA is negative."""
    assert REPULSION.measure_pairs(torch.eye(5)).item() == pytest.approx((math.pi / 2) ** -2)
    for trial in range(20):
        points = torch.rand(5, 7, generator=torch.Generator().manual_seed(trial))
        points = points / points.norm(dim=1, keepdim=True)
        assert REPULSION.measure_pairs(points @ points.mT) > REPULSION.measure_pairs(torch.eye(5))
    # Of two pairs with the same mean angle, the uneven one has more energy: the closest are pushed most.
    even, uneven = (
        torch.tensor([[1, a, b], [a, 1, 0], [b, 0, 1]]).float()
        for a, b in ((math.cos(1.0), math.cos(1.0)), (math.cos(0.6), math.cos(1.4)))
    )
    assert REPULSION.measure_pairs(uneven) > REPULSION.measure_pairs(even)


def test_gradients_are_finite_for_equal_networks_and_push_similar_ones_apart() -> None:
    equal = draw_features(1, 6, 4).repeat(3, 1, 1).requires_grad_()
    (gradient,) = torch.autograd.grad(REPULSION.measure_energy([equal]), equal)
    assert gradient.isfinite().all()
    silent = torch.zeros(2, 6, 4, requires_grad=True)  # as of a layer of dead rectifiers
    (gradient,) = torch.autograd.grad(REPULSION.measure_energy([silent]), silent)
    assert gradient.isfinite().all()
    similar = (equal.detach() + 0.01 * draw_features(3, 6, 4)).requires_grad_()
    before = REPULSION.measure_energy([similar])
    (gradient,) = torch.autograd.grad(before, similar)
    assert REPULSION.measure_energy([similar - 0.01 * gradient / gradient.norm()]) < before


def test_deep_layers_weigh_more() -> None:
    first, other = torch.tensor([1.0, 1.0, -1.0, -1.0]), torch.tensor([1.0, -1.0, 1.0, -1.0])
    same, apart = (torch.stack([first, second])[..., None] for second in (first, other))
    energies = [REPULSION.measure_energy(layers).item() for layers in ([same, apart], [apart, same])]
    least = (math.pi / 2) ** -2
    assert energies == pytest.approx([0.2 * EQUAL + 0.8 * least, 0.8 * EQUAL + 0.2 * least], rel=1e-4)


@pytest.mark.parametrize("outliers", [None, OutlierExposure(count=100, inputs_per_step=6)])
@pytest.mark.parametrize("method", [SMALL_CONFIG, SMALL_DEUTSCH, HyperDrawConfig(4), DeepEnsembleConfig(4)])
def test_networks_of_every_kind_repel_each_other(method: MethodConfig, outliers: OutlierExposure | None) -> None:
    repulsion = Repulsion(weight=2.0, outlier_weight=3.0, examples_per_step=5)
    recipe = make_recipe(method, repulsion=repulsion, outliers=outliers)
    problem = Supervised(recipe, load_digits_dataset(), 0, CPU)
    sampler = method.build(recipe.target)
    weights = sampler.generate(sampler.draw_training_latents(0, 0, 4))
    loss = problem.fit(recipe.target, weights, step=3).losses["repulsion"]
    inputs = problem.draw_batch(3)[0][0, :5]
    expected = 2 * repulsion.measure_energy(recipe.target.trace(weights, inputs))
    if outliers is not None:
        expected = expected + 3 * repulsion.measure_energy(recipe.target.trace(weights, problem.draw_outliers(3)))
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-4)
    loss.backward()
    gradients = [parameter.grad for parameter in sampler.parameters()]
    assert any(gradient is not None and gradient.abs().max() > 0 for gradient in gradients)
    assert all(gradient is None or gradient.isfinite().all() for gradient in gradients)


def test_repelled_networks_differ_on_outliers_and_are_as_accurate() -> None:
    dataset, start = load_digits_dataset(), digits_hypergan()
    foreign = dataset.input.prepare(synthesize_outliers(dataset.train.inputs, 200, seed=1))
    start = replace(
        start,
        networks_per_step=8,
        inputs_per_network=16,
        learning_rates={group: 2 * rate for group, rate in start.learning_rates.items()},
        adversarial_weight=0.0,
        outliers=OutlierExposure(count=500, inputs_per_step=16),
    )
    found = []
    for repulsion in (None, Repulsion(weight=0.005, outlier_weight=0.025, examples_per_step=16)):
        run = start_run(replace(start, repulsion=repulsion), dataset, 0, 200, CPU)
        while not run.finished:
            run.step()
        run.recalibrate()
        features = start.target.trace(run.sampler.eval().sample(0, range(8)), foreign)
        labels = features[-1].argmax(-1)
        alignment, disagreement = (
            float((own.sum() - own.trace()) / (8 * 7))
            for own in (measure_alignment(features[-1]), (labels[:, None] != labels).double().mean(-1))
        )
        found.append((alignment, disagreement, run.validate()["ensemble accuracy"]))
    plain, repelled = found
    assert repelled[0] < plain[0] - 0.1
    assert repelled[1] > plain[1] + 0.03
    assert repelled[2] > plain[2] - 0.02
