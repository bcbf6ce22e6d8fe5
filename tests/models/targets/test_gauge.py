"""Gauge fixing: what it must leave as it is, and what it must make equal."""

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from models.targets.gauge import GaugeStep, filter_vectors, find_couplings, fix_gauge
from models.targets.layers import Activation, Convolution, Flatten, Linear, MaxPooling
from models.targets.target import TargetNetwork, Weights
from tests.conftest import SMALL_TARGET, draw_weights
from training.recipes.mnist import mnist_deutsch
from training.recipes.targets import make_wide_resnet
from training.recipes.toys import toy_cubic

TARGETS = {
    "convolutional": SMALL_TARGET,
    "linear layers": TargetNetwork((3,), (Linear(7), Activation(0.2), Linear(5), Activation(0.0), Linear(4))),
    "linear": TargetNetwork((3, 6, 6), (Convolution(4, 3, 1), MaxPooling(), Flatten(), Linear(6), Linear(3))),
    "deutsch": mnist_deutsch().target,
}
FUNCTION_PRESERVING: Sequence[GaugeStep] = ("scaling", "permutation")
ALL_STEPS: Sequence[GaugeStep] = ("scaling", "permutation", "logit_bias")


def draw(target: TargetNetwork, seed: int, size: int = 3) -> tuple[Weights, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    weights = {name: 0.3 * tensor for name, tensor in draw_weights(target, generator, size, torch.float64).items()}
    return weights, torch.randn(5, *target.input_shape, generator=generator, dtype=torch.float64)


def assert_same(first: Weights, second: Weights) -> None:
    assert list(first) == list(second)
    for name, tensor in first.items():
        torch.testing.assert_close(tensor, second[name], rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS.keys())
@given(seed=st.integers(0, 2**32))
@settings(max_examples=10)
def test_the_function_stays_the_same(target: TargetNetwork, seed: int) -> None:
    weights, inputs = draw(target, seed)
    before = {name: tensor.clone() for name, tensor in weights.items()}
    outputs = target.forward(weights, inputs)
    for step in FUNCTION_PRESERVING:
        gauged = fix_gauge(target, weights, (step,))
        torch.testing.assert_close(target.forward(gauged, inputs), outputs, rtol=1e-9, atol=1e-11)
    probabilities = target.forward(fix_gauge(target, weights, ALL_STEPS), inputs).softmax(-1)
    torch.testing.assert_close(probabilities, outputs.softmax(-1), rtol=1e-9, atol=1e-11)
    assert_same(weights, before)


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS.keys())
@given(seed=st.integers(0, 2**32))
@settings(max_examples=10)
def test_a_fixed_gauge_stays_fixed(target: TargetNetwork, seed: int) -> None:
    weights, _ = draw(target, seed)
    gauged = fix_gauge(target, weights, ALL_STEPS)
    assert_same(fix_gauge(target, gauged, ALL_STEPS), gauged)


@given(seed=st.integers(0, 2**32))
@settings(max_examples=20)
def test_equivalent_networks_get_the_same_representative(seed: int) -> None:
    """Rescaled, permuted and shifted by hand, across convolution, pooling and flattening."""
    weights, inputs = draw(SMALL_TARGET, seed)
    generator = torch.Generator().manual_seed(seed)
    changed = {name: tensor.clone() for name, tensor in weights.items()}
    for layer, following, places in (("conv1", "conv2", 4), ("conv2", "linear1", 16)):
        filters = changed[f"{layer}.bias"].shape[1]
        scale = torch.rand(filters, generator=generator, dtype=torch.float64) * 5 + 0.1
        order = torch.arange(filters).roll(1)
        changed[f"{layer}.weight"] = (changed[f"{layer}.weight"] * scale[:, None, None, None])[:, order]
        changed[f"{layer}.bias"] = (changed[f"{layer}.bias"] * scale)[:, order]
        readers = changed[f"{following}.weight"]
        by_filter = readers.reshape(3, readers.shape[1], filters, -1)
        assert by_filter.shape[3] == places  # weights that read one filter
        changed[f"{following}.weight"] = (by_filter / scale[:, None])[:, :, order].reshape(readers.shape)
    changed["linear1.bias"] = changed["linear1.bias"] + 7.0
    torch.testing.assert_close(
        SMALL_TARGET.forward(changed, inputs), SMALL_TARGET.forward(weights, inputs) + 7, rtol=1e-8, atol=1e-9
    )
    assert_same(fix_gauge(SMALL_TARGET, changed, ALL_STEPS), fix_gauge(SMALL_TARGET, weights, ALL_STEPS))
    unsorted = fix_gauge(SMALL_TARGET, changed, ("scaling", "logit_bias"))
    assert not torch.allclose(unsorted["conv1.weight"], fix_gauge(SMALL_TARGET, weights)["conv1.weight"])


def test_hidden_filters_have_a_root_mean_square_of_one() -> None:
    target = mnist_deutsch().target
    gauged = fix_gauge(target, draw(target, 0)[0])
    for layer, size in (("conv1", 26), ("conv2", 801), ("linear1", 785)):
        rows = torch.cat([gauged[f"{layer}.weight"].flatten(2), gauged[f"{layer}.bias"][..., None]], dim=2)
        assert rows.shape[2] == size
        torch.testing.assert_close(rows.square().mean(2), torch.ones_like(rows[..., 0]))
    assert gauged["linear2.bias"].mean(1).abs().max() < 1e-12


def test_a_dead_filter_stays_as_it_is() -> None:
    weights, inputs = draw(SMALL_TARGET, 0)
    weights["conv1.weight"][:, 2] = 0
    weights["conv1.bias"][:, 2] = 0
    for tensor in weights.values():
        tensor.requires_grad_()
    gauged = fix_gauge(SMALL_TARGET, weights, ALL_STEPS)
    torch.testing.assert_close(
        SMALL_TARGET.forward(gauged, inputs).softmax(-1), SMALL_TARGET.forward(weights, inputs).softmax(-1)
    )
    torch.stack([tensor.square().sum() for tensor in gauged.values()]).sum().backward()
    assert all(tensor.grad is not None and torch.isfinite(tensor.grad).all() for tensor in weights.values())


def test_gauge_fixing_is_differentiable() -> None:
    target = toy_cubic().target
    weights, _ = draw(target, 0, size=2)
    inputs = tuple(tensor.requires_grad_() for tensor in weights.values())

    def fix(*tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(fix_gauge(target, dict(zip(weights, tensors, strict=True)), FUNCTION_PRESERVING).values())

    assert torch.autograd.gradcheck(fix, inputs)


def test_residual_blocks_and_normalisations() -> None:
    """The function stays the same, to the normalisations' ε; scaled layers have their root mean square 1."""
    target = make_wide_resnet(10, 1)
    weights, inputs = draw(target, 0)
    gauged = fix_gauge(target, weights, FUNCTION_PRESERVING)
    torch.testing.assert_close(target.forward(gauged, inputs), target.forward(weights, inputs), rtol=1e-4, atol=1e-4)
    fixed = {coupling.layer: coupling for coupling in find_couplings(target)}
    untouched = {"conv1", "residual1.conv2", "residual2.conv2", "residual3.conv2", "linear1"}
    assert fixed.keys() | untouched == set(target.weighted_layers)
    for layer, coupling in fixed.items():
        power = filter_vectors(gauged, layer).square().mean(2)
        groups = power.unflatten(1, (coupling.groups or power.shape[1], -1)).mean(2)
        torch.testing.assert_close(groups, torch.ones_like(groups))
    assert_same(fix_gauge(target, gauged, FUNCTION_PRESERVING), gauged)
