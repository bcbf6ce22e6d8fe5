"""The evaluator: one batched forward pass of a target network for many sampled networks.

Memory and the overhead of operations limit its speed, not arithmetic. It therefore takes inputs and networks in blocks
whose activations fit into the processor's cache. All networks of a block pass through a layer at once, and what they
share is computed once. Pooling comes before the bias and the activation with which it commutes, or with the products.

Shapes: S sampled networks, B inputs, K outputs.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import repeat, takewhile
from typing import NamedTuple

import torch
from torch import Tensor

from models.schema import Shape
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
    Weighted,
    list_weighted,
    numel,
    trace_shapes,
)

FEW_CHANNELS = 4
"""Most channels for which convolution libraries are slow."""

BYTES_IN_CACHE = 2_400_000
"""Size of the largest tensor of a block on the CPU."""

BYTES_ON_DEVICE = 256_000_000
"""The same on other devices."""

INPUTS_PER_BLOCK = 32
"""Most inputs in a block that several networks share, on the CPU. With more, a block has room for fewer networks."""


class _Step(NamedTuple):
    forward: Callable[..., Tensor]
    parameters: Sequence[str] = ()
    """Names of the parameters that it takes."""
    increasing: bool = False
    """Whether it is non-decreasing in each number, and so commutes with a maximum."""
    begins: bool = False
    """Whether it is the first of a layer with weights."""


class Evaluator:
    """Evaluates layers in a row, on the CPU or on another device."""

    def __init__(self, layers: Sequence[Layer], input_shape: Shape, on_cpu: bool) -> None:
        self._on_cpu, self._rank = on_cpu, len(input_shape)
        self._exact = {f"{list_weighted(layers)[-1]}.{parameter}" for parameter in ("weight", "bias")}
        """Names of parameters that keep their type: those of normalisations, and of the last layer."""
        self._arranged: dict[str, Convolution] = {}
        """Layers whose weights are rearranged, by the weight's name."""
        self._common_numbers = self._own_numbers = 1
        """Most numbers at a time that depend on one input alone, and on one input and one network."""
        steps = self._plan(layers, input_shape)
        first = next(i for i, step in enumerate(steps) if step.parameters)
        self._common, self._steps = steps[:first], steps[first:]
        """Steps before the first that takes weights, and the others."""

    def _plan(self, layers: Sequence[Layer], shape: Shape, prefix: str = "") -> list[_Step]:
        """Steps for consecutive layers, which must not change their input. The prefix is that of a residual block."""
        steps: list[_Step] = []
        weighted, pooled = bool(prefix), False
        for i, (name, given, made) in enumerate(trace_shapes(layers, shape)):
            layer, weight, bias = layers[i], f"{prefix}{name}.weight", f"{prefix}{name}.bias"
            match layer:
                case Convolution() if given[0] <= FEW_CHANNELS or not self._on_cpu:
                    pooling = _find_pooling(layers[i + 1 :])
                    pooled = pooling > 1
                    self._count(layer.count_patches(given), weighted)
                    steps += [
                        _Step(partial(layer.unfold, pooling=pooling), begins=True),
                        _Step(layer.multiply, [weight, bias]),
                    ]
                case Convolution():
                    self._arranged[weight] = layer
                    steps.append(_Step(layer.forward, [weight, bias], begins=True))
                case Linear() | Normalization():
                    if isinstance(layer, Normalization):
                        self._exact |= {weight, bias}
                    steps.append(_Step(layer.forward, [weight, bias], begins=True))
                case Residual():
                    block = self._plan(layer.layers, given, f"{prefix}{name}.")
                    self._count(numel(given) + numel(made), own=True)
                    own = [p for step in block for p in step.parameters]
                    steps.append(_Step(partial(_add_residual, block), own, begins=True))
                case Activation():
                    fresh = any(step.parameters for step in steps)
                    steps.append(_Step(partial(layer.forward, inplace=fresh), increasing=True))
                case MaxPooling() if pooled:
                    pooled = False
                case MaxPooling():
                    overtaken = list(takewhile(lambda step: step.increasing, reversed(steps)))
                    steps.insert(len(steps) - len(overtaken), _Step(layer.forward))
                case Flatten() | GlobalPooling():
                    steps.append(_Step(layer.forward))
            weighted = weighted or isinstance(layer, (*Weighted, Residual))
            if not pooled:
                self._count(numel(made), weighted)
        return steps

    def _count(self, numbers: int, own: bool) -> None:
        if own:
            self._own_numbers = max(self._own_numbers, numbers)
        else:
            self._common_numbers = max(self._common_numbers, numbers)

    @property
    def most_numbers(self) -> int:
        """Most numbers in a tensor, for one input and one network."""
        return max(self._common_numbers, self._own_numbers)

    def forward(self, weights: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        """Implements `TargetNetwork.forward`."""
        (outputs,) = self._evaluate(weights, inputs, lambda own, x: [_take(self._steps, own, x)])
        return outputs

    def trace(self, weights: Mapping[str, Tensor], inputs: Tensor) -> list[Tensor]:
        """Implements `TargetNetwork.trace`."""
        return self._evaluate(weights, inputs, partial(_trace, self._steps))

    def _evaluate(
        self,
        weights: Mapping[str, Tensor],
        inputs: Tensor,
        finish: Callable[[Mapping[str, Tensor], Tensor], list[Tensor]],
    ) -> list[Tensor]:
        """Joins what is computed of each block from the result of the common steps."""
        shared = inputs.dim() == self._rank + 1
        assert shared or all(len(inputs) == len(tensor) for tensor in weights.values())
        x = inputs.to(next((tensor.dtype for name, tensor in weights.items() if name not in self._exact), inputs.dtype))
        x = x.movedim(-3, -1) if self._rank == 3 else x
        axis = 0 if shared else 1
        inputs_per_block, networks_per_block = self._choose_block(x.shape[axis], shared, x.element_size())
        split = [tensor.split(networks_per_block) for tensor in self.arrange(weights).values()]
        parts = [dict(zip(weights, tensors, strict=True)) for tensors in zip(*split, strict=True)]
        columns = []
        for block in x.split(inputs_per_block, axis):
            own = repeat(self._prepare(block)) if shared else map(self._prepare, block.split(networks_per_block))
            rows = [finish(w, part) for w, part in zip(parts, own, strict=False)]
            columns.append([_join(tensors, dim=0) for tensors in zip(*rows, strict=True)])
        return [_join(tensors, dim=1) for tensors in zip(*columns, strict=True)]

    def arrange(self, weights: Mapping[str, Tensor], dtype: torch.dtype | None = None) -> dict[str, Tensor]:
        """Implements `TargetNetwork.arrange`; without a type, weights keep theirs."""
        arranged = {}
        for name, tensor in weights.items():
            wanted = tensor.dtype if dtype is None or name in self._exact else dtype
            layer = self._arranged.get(name)
            arranged[name] = layer.arrange(tensor, wanted) if layer else tensor.to(wanted)
        return arranged

    def _choose_block(self, inputs: int, shared: bool, bytes_each: int) -> tuple[int, int]:
        """Number of inputs, and number of networks, that are evaluated at once, with numbers of some bytes each."""
        numbers = (BYTES_IN_CACHE if self._on_cpu else BYTES_ON_DEVICE) // bytes_each
        largest = self.most_numbers
        inputs = min(inputs, INPUTS_PER_BLOCK) if self._on_cpu and shared else inputs
        inputs = max(1, min(inputs, numbers // largest))
        return inputs, max(1, numbers // inputs // (self._own_numbers if shared else largest))

    def _prepare(self, x: Tensor) -> Tensor:
        return _take(self._common, {}, x)


def _take(steps: Sequence[_Step], weights: Mapping[str, Tensor], x: Tensor) -> Tensor:
    for step in steps:
        x = step.forward(x, *(weights[name] for name in step.parameters))
    return x


def _trace(steps: Sequence[_Step], weights: Mapping[str, Tensor], x: Tensor) -> list[Tensor]:
    """What each layer with weights but the first is given, and the result."""
    given = []
    for i, step in enumerate(steps):
        if i and step.begins:
            given.append(x)
        x = _take([step], weights, x)
    return [*given, x]


def _add_residual(block: Sequence[_Step], x: Tensor, *parameters: Tensor) -> Tensor:
    names = [name for step in block for name in step.parameters]
    return Residual.add(x, _take(block, dict(zip(names, parameters, strict=True)), x))


def _find_pooling(layers: Iterable[Layer]) -> int:
    """Size of the pooling that comes next, apart from activations; 1 if another layer comes next."""
    following = next((layer for layer in layers if not isinstance(layer, Activation)), None)
    return following.size if isinstance(following, MaxPooling) else 1


def _join(tensors: Sequence[Tensor], dim: int) -> Tensor:
    return tensors[0] if len(tensors) == 1 else torch.cat(list(tensors), dim)
