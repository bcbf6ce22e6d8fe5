from itertools import pairwise
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from models.targets.evaluator import BYTES_IN_CACHE, Evaluator
from models.targets.layers import (
    Activation,
    Convolution,
    Flatten,
    GlobalPooling,
    Layer,
    Linear,
    MaxPooling,
    Normalization,
    Residual,
)
from models.targets.target import TargetNetwork, Weights
from tests.conftest import SMALL_TARGET, draw_weights
from training.recipes.all import RECIPES
from training.recipes.mnist import mnist_hypergan
from training.recipes.targets import make_wide_resnet

TARGETS = {
    "small": SMALL_TARGET,
    "odd pooling": TargetNetwork(
        (3, 11, 14),
        (Convolution(5, 4, 1), MaxPooling(3), Activation(0.0), Flatten(), Linear(7), Activation(), Linear(3)),
    ),
    "one layer twice": TargetNetwork((2, 9, 9), (*(Convolution(2, 3),) * 2, Flatten(), Linear(4))),
    "one channel": TargetNetwork((1, 9, 9), (Convolution(5, 2), Convolution(1, 2), Flatten(), Linear(2))),
    "many channels": TargetNetwork(
        (6, 7, 7), (Convolution(5, 2, 1), MaxPooling(), Convolution(4, 2), Flatten(), Linear(2))
    ),
    "vectors": TargetNetwork((4,), (Linear(6), Activation(), Linear(3))),
    "paper": mnist_hypergan().target,
    "residual": TargetNetwork(
        (3, 9, 11),
        (
            Convolution(6, 3, 1),
            Residual((Normalization(2), Activation(0.0), Convolution(6, 3, 1), Normalization(3), Convolution(6, 1))),
            Residual((Convolution(8, 3, 1, stride=2), Normalization(1), Activation(), Convolution(8, 3, 1))),
            *(Normalization(4), Activation(0.1), GlobalPooling(), Flatten(), Linear(3)),
        ),
    ),
    "normalised images": TargetNetwork(
        (4, 8, 8),
        (
            *(Normalization(2), Convolution(4, 3, stride=3), MaxPooling()),
            *(Residual((Activation(), Residual((Convolution(5, 1), Activation())))), Flatten(), Linear(2)),
        ),
    ),
    "residual images": TargetNetwork(
        (2, 8, 8),
        (
            Residual((Activation(), MaxPooling(), Convolution(5, 3, 1), Activation())),
            GlobalPooling(),
            Flatten(),
            Linear(2),
        ),
    ),
    "wide resnet": make_wide_resnet(10, 1),
}


def draw_small_weights(target: TargetNetwork, size: int) -> Weights:
    generator = torch.Generator().manual_seed(0)
    return {name: tensor / 5 for name, tensor in draw_weights(target, generator, size).items()}


def reference(target: TargetNetwork, weights: Weights, images: Tensor, distinct: bool) -> Tensor:
    """The definition: PyTorch's own module, called for each network."""
    module = target.module()
    result: Tensor = torch.vmap(
        lambda w, x: torch.func.functional_call(module, w, (x,)), in_dims=(0, 0 if distinct else None)
    )(weights, images)
    return result


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS.keys())
@pytest.mark.parametrize("distinct", [False, True])
@pytest.mark.parametrize("batch", [1, 3, 70])
def test_forward_equals_the_plain_module(target: TargetNetwork, distinct: bool, batch: int) -> None:
    weights = draw_small_weights(target, 4)
    generator = torch.Generator().manual_seed(1)
    shape = (4, batch, *target.input_shape) if distinct else (batch, *target.input_shape)
    images = torch.randn(shape, generator=generator)
    logits = target.forward(weights, images)
    assert logits.shape == (4, batch, target.num_outputs)
    torch.testing.assert_close(logits, reference(target, weights, images, distinct), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS.keys())
@pytest.mark.parametrize("distinct", [False, True])
@pytest.mark.parametrize("on_cpu", [True, False])
def test_bfloat16_only_rounds(target: TargetNetwork, distinct: bool, on_cpu: bool) -> None:
    weights = draw_small_weights(target, 4)
    generator = torch.Generator().manual_seed(1)
    images = torch.randn((4, 6, *target.input_shape) if distinct else (6, *target.input_shape), generator=generator)
    evaluator = Evaluator(target.layers, target.input_shape, on_cpu)
    exact = evaluator.forward(weights, images)
    rounded = evaluator.forward(evaluator.arrange(weights, torch.bfloat16), images)
    assert rounded.dtype == torch.float32
    assert 0 < float((rounded - exact).norm() / exact.norm()) < 0.02


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS.keys())
@pytest.mark.parametrize("distinct", [False, True])
def test_the_way_of_other_devices_equals_the_plain_module(
    target: TargetNetwork, distinct: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("models.targets.evaluator.BYTES_ON_DEVICE", 120_000)  # so that there are several blocks
    weights = draw_small_weights(target, 4)
    shape = (4, 7, *target.input_shape) if distinct else (7, *target.input_shape)
    images = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    logits = Evaluator(target.layers, target.input_shape, on_cpu=False).forward(weights, images)
    torch.testing.assert_close(logits, reference(target, weights, images, distinct), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS.keys())
@pytest.mark.parametrize("distinct", [False, True])
@pytest.mark.parametrize("on_cpu", [True, False])
def test_trace_has_the_features_of_the_plain_module(
    target: TargetNetwork, distinct: bool, on_cpu: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are the inputs of all layers with weights but the first."""
    monkeypatch.setattr("models.targets.evaluator.BYTES_ON_DEVICE", 120_000)  # so that there are several blocks
    weights = draw_small_weights(target, 3)
    shape = (3, 40, *target.input_shape) if distinct else (40, *target.input_shape)
    images = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    *features, outputs = Evaluator(target.layers, target.input_shape, on_cpu).trace(weights, images)
    torch.testing.assert_close(outputs, reference(target, weights, images, distinct), rtol=1e-4, atol=1e-4)
    for network in range(3):
        module = target.module()
        module.load_state_dict({name: tensor[network] for name, tensor in weights.items()})
        given: list[Tensor] = []
        for layer in module:
            if list(layer.parameters()):
                layer.register_forward_pre_hook(lambda _, inputs, given=given: given.append(inputs[0]))
        module(images[network] if distinct else images)
        assert len(given) - 1 == len(features)
        for own, expected in zip(features, given[1:], strict=True):
            expected = expected.movedim(1, -1) if expected.dim() == 4 else expected
            torch.testing.assert_close(own[network], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS.keys())
def test_arranged_weights_are_the_same(target: TargetNetwork) -> None:
    weights = draw_small_weights(target, 3)
    arranged = target.arrange(weights)
    assert list(arranged) == list(weights)
    for name, tensor in arranged.items():
        assert torch.equal(tensor, weights[name])
        assert torch.equal(target.arrange(arranged)[name], tensor)


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS.keys())
@pytest.mark.parametrize("of", ["weights", "images", "both"])
@pytest.mark.parametrize("distinct", [False, True])
@pytest.mark.parametrize("batch", [1, 2, 5])
def test_gradients_equal_those_of_the_plain_module(target: TargetNetwork, of: str, distinct: bool, batch: int) -> None:
    values, gradients = [], []
    for forward in (target.forward, lambda w, x: reference(target, w, x, distinct)):
        shape = (4, batch, *target.input_shape) if distinct else (batch, *target.input_shape)
        images = torch.randn(shape, generator=torch.Generator().manual_seed(1))
        weights = draw_small_weights(target, 4)
        wanted = [*(weights.values() if of != "images" else []), *([images] if of != "weights" else [])]
        for tensor in wanted:
            tensor.requires_grad_()
        values.append(forward(weights, images))
        gradients.append(torch.autograd.grad(values[-1].square().sum(), wanted))
    torch.testing.assert_close(*values, rtol=1e-4, atol=1e-4)
    for ours, theirs in zip(*gradients, strict=True):
        assert (ours - theirs).norm() <= 1e-4 * theirs.norm()


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.__name__)
def test_parameters_are_those_of_the_module(recipe: object) -> None:
    assert callable(recipe)
    target: TargetNetwork = recipe().target
    state = target.module().state_dict()
    assert {name: tuple(tensor.shape) for name, tensor in state.items()} == target.parameter_shapes
    assert list(state) == list(target.parameter_shapes)
    assert sum(tensor.numel() for tensor in state.values()) == target.num_weights


def test_sizes_of_the_paper() -> None:
    assert mnist_hypergan().target.num_weights == 31_594


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS.keys())
def test_source_builds_the_module(target: TargetNetwork) -> None:
    scope: dict[str, Any] = {}
    exec(target.source, scope)
    network, module = scope["network"], target.module()
    network.load_state_dict(module.state_dict(), strict=True)
    inputs = torch.randn(3, *target.input_shape)
    assert torch.equal(network(inputs), module(inputs))


class LargestTensor(TorchDispatchMode):
    """Watches the size of the largest tensor that an operation makes."""

    bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            self.bytes = max(self.bytes, result.untyped_storage().nbytes())
        return result


@pytest.mark.parametrize(
    ("name", "batch"), [("paper", 1), ("paper", 4), ("paper", 300), ("wide resnet", 1), ("wide resnet", 40)]
)
def test_memory_of_activations_does_not_grow(name: str, batch: int) -> None:
    target = TARGETS[name]
    generator = torch.Generator().manual_seed(0)
    weights = {n: t.repeat(60, *[1] * (t.dim() - 1)) for n, t in draw_weights(target, generator, 1).items()}
    images = torch.zeros(batch, *target.input_shape)
    given = max(tensor.numel() for tensor in (images, *weights.values()))
    watch = LargestTensor()  # type: ignore[no-untyped-call]  # PyTorch leaves its initialiser untyped
    with torch.inference_mode(), watch as largest:
        target.forward(weights, images)
    assert largest.bytes <= max(BYTES_IN_CACHE, 4 * given)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ((Linear(3),), "takes 1 dimensions"),
        ((Flatten(), Convolution(3, 3), Linear(2)), "takes 3 dimensions"),
        ((Convolution(3, 9), Flatten(), Linear(2)), "has an empty output"),
        ((MaxPooling(9), Flatten(), Linear(2)), "has an empty output"),
        ((Flatten(), Activation()), "last layer must be linear"),
        ((Convolution(6, 3), Normalization(4), Flatten(), Linear(2)), "6 channels cannot be divided into 4 groups"),
        ((Residual((Convolution(3, 3),)), Flatten(), Linear(2)), "which no stride can match"),
        ((Convolution(3, 1), Residual((Convolution(2, 1),)), Flatten(), Linear(2)), "which cannot be added"),
        ((Residual((Flatten(),)), Flatten(), Linear(2)), "which cannot be added"),
        ((Residual((Linear(2),)), Flatten(), Linear(2)), "takes 1 dimensions"),
        ((), "at least 1 item"),
    ],
)
def test_layers_that_do_not_fit(layers: tuple[Layer, ...], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TargetNetwork((1, 8, 8), layers)


@pytest.mark.parametrize("size", [0, -1, 10**9])
def test_sizes_out_of_range(size: int) -> None:
    with pytest.raises(ValidationError):
        Linear(size)


def test_pooling_before_activation_is_exact() -> None:
    """Both orders give the same bits, also for negative values, ties and an activation that is flat."""
    x = torch.tensor([-3.0, -2.0, -2.0, 0.0, -0.0, 1.0, 5.0, 5.0]).repeat(8, 1)[None, None]
    for slope in (0.0, 0.01, 0.5):
        layers = Activation(slope), MaxPooling(2)
        orders = []
        for first, second in (layers, layers[::-1]):
            orders.append(second.forward(first.forward(x)))
        for ours, theirs in pairwise(orders):
            assert torch.equal(ours, theirs)
