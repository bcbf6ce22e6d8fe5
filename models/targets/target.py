"""Target networks: the networks whose weights are sampled.

A target network is data: an ordered list of layers. The list determines the names and shapes of the parameters, a plain
`nn.Module` with the same `state_dict` keys, and a batched forward pass for many sampled networks at once.

Shapes: S sampled networks, B inputs, K outputs.
"""

import inspect
from collections.abc import Collection
from functools import cached_property
from typing import Annotated

import torch
from pydantic import FailFast, Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from models.schema import STRICT, Shape, Size
from models.targets.evaluator import Evaluator
from models.targets.layers import (
    Layer,
    Linear,
    Residual,
    ResidualBlock,
    build_modules,
    count_layers,
    count_multiplications,
    list_weighted,
    numel,
    trace_shapes,
)

MAX_LAYERS = 250

Weights = dict[str, Tensor]
"""S sampled networks. The keys are exactly the target's parameter names, and each value is [S, *shape]."""


@dataclass(frozen=True, config=STRICT)
class TargetNetwork:
    """A feed-forward network: images [B, C, H, W] or vectors [B, numbers] → outputs [B, K].

    Raises:
        ValueError: if there are too many layers, one does not fit the shape that reaches it, or the last one is not
            linear.
    """

    input_shape: tuple[Size, Size, Size] | tuple[Size]
    layers: Annotated[tuple[Layer, ...], Field(min_length=1, max_length=MAX_LAYERS), FailFast()]

    def __post_init__(self) -> None:
        if (number := count_layers(self.layers)) > MAX_LAYERS:
            raise ValueError(f"{number} layers, counting those in residual blocks, are more than {MAX_LAYERS}")
        trace_shapes(self.layers, self.input_shape)
        if not isinstance(self.layers[-1], Linear):
            raise ValueError(f"the last layer must be linear, to give the outputs, not {self.layers[-1].kind}")

    @cached_property
    def parameter_shapes(self) -> dict[str, Shape]:
        """Name and shape of every parameter, in the order of the `state_dict`."""
        with torch.device("meta"):
            return {name: tuple(p.shape) for name, p in self.module().named_parameters()}

    @cached_property
    def weighted_layers(self) -> list[str]:
        """Names of the layers that have parameters, in order. Those in residual blocks are like residual1.conv1."""
        return list_weighted(self.layers)

    def require_no_normalization(self, method: str) -> None:
        """Checks the target for methods that make filters but no gains.

        Raises:
            ValueError: if the target has normalisations.
        """
        for layer in self.weighted_layers:
            if len(self.parameter_shapes[f"{layer}.weight"]) == 1:
                raise ValueError(f"{method} can only make convolutions and linear layers, not {layer}")

    def layer_vectors(self, weights: Weights) -> dict[str, Tensor]:
        """Weights and biases of each layer of S networks as vectors, [S, numbers of the layer]."""
        return {
            layer: torch.cat([weights[f"{layer}.{p}"].flatten(1) for p in ("weight", "bias")], dim=1)
            for layer in self.weighted_layers
        }

    def flatten_weights(self, weights: Weights) -> Tensor:
        """S networks as vectors, [S, weights of one], layer by layer."""
        return torch.cat(list(self.layer_vectors(weights).values()), dim=1)

    def split_weights(self, vectors: Tensor, names: Collection[str] | None = None) -> Weights:
        """Inverts `flatten_weights`, from [S, weights of one]. If names are given, returns only these parameters."""
        parts = vectors.split([numel(shape) for shape in self.parameter_shapes.values()], dim=1)
        return {
            name: part.reshape(-1, *shape)
            for (name, shape), part in zip(self.parameter_shapes.items(), parts, strict=True)
            if names is None or name in names
        }

    @property
    def num_weights(self) -> int:
        """Number of weights of one network, biases included."""
        return sum(map(numel, self.parameter_shapes.values()))

    @property
    def num_multiplications(self) -> int:
        """Approximate number of multiplications for one network and one input."""
        return count_multiplications(self.layers, self.input_shape)

    def count_numbers(self, device: torch.device) -> int:
        """Most numbers in a tensor while one network is evaluated on one input."""
        return self._choose_evaluator(device).most_numbers

    @property
    def num_outputs(self) -> int:
        """K."""
        return self.parameter_shapes[f"{self.weighted_layers[-1]}.bias"][0]

    def module(self) -> nn.Sequential:
        """A plain PyTorch module, freshly initialised, whose `state_dict` keys are the parameter names."""
        return nn.Sequential(build_modules(self.layers, self.input_shape))

    @cached_property
    def source(self) -> str:
        """Python source, including imports, that creates `module()` under the name `network`. Clients can paste it."""
        with torch.device("meta"):
            module = self.module()
        lines = ["from collections import OrderedDict", "", "from torch import nn"]
        if any(isinstance(layer, Residual) for layer in self.layers):
            lines[2:] = ["from torch import Tensor, nn", "", "", inspect.getsource(ResidualBlock), ""]
        return "\n".join([*lines, "", f"network = {_write_source(module)}"])

    def forward(self, weights: Weights, inputs: Tensor) -> Tensor:
        """Outputs of S sampled networks at once, computed in the weights' type.

        Memory beside the result is bounded for any S and B, because activations exist for one block of networks and
        inputs at a time.

        Args:
            weights: S sampled networks.
            inputs: [B, *input shape], shared by all networks, or [S, B, *input shape].

        Returns:
            [S, B, K].
        """
        return self._choose_evaluator(inputs.device).forward(weights, inputs)

    def trace(self, weights: Weights, inputs: Tensor) -> list[Tensor]:
        """Features of S sampled networks: what each layer with weights hands to the next one, and the outputs.

        A residual block counts as one layer. Memory grows with S and B.

        Args:
            weights: S sampled networks.
            inputs: [B, *input shape], shared by all networks, or [S, B, *input shape].

        Returns:
            For each layer, [S, B, …], in which the channels of images are last. The last are those of `forward`.
        """
        return self._choose_evaluator(inputs.device).trace(weights, inputs)

    def arrange(self, weights: Weights, dtype: torch.dtype | None = None) -> Weights:
        """Puts weights into the memory layout that is fastest for `forward`, on their device, and into a type.

        The weights of normalisations and of the last layer keep their type, and so do variances and outputs.
        """
        return self._choose_evaluator(next(iter(weights.values())).device).arrange(weights, dtype)

    def _choose_evaluator(self, device: torch.device) -> Evaluator:
        return self._evaluator_on_cpu if device.type == "cpu" else self._evaluator_elsewhere

    @cached_property
    def _evaluator_on_cpu(self) -> Evaluator:
        return Evaluator(self.layers, self.input_shape, on_cpu=True)

    @cached_property
    def _evaluator_elsewhere(self) -> Evaluator:
        return Evaluator(self.layers, self.input_shape, on_cpu=False)


def _write_source(module: nn.Module, indent: str = "") -> str:
    if isinstance(module, nn.GroupNorm):  # its representation has arguments that are unknown to older PyTorch
        return f"nn.GroupNorm({module.num_groups}, {module.num_channels})"
    if not isinstance(module, nn.Sequential):
        return f"nn.{module!r}"
    name = type(module).__name__
    inner = indent + "    "
    lines = [f"{inner}{child}={_write_source(each, inner)},\n" for child, each in module.named_children()]
    return f"{'nn.' if name == 'Sequential' else ''}{name}(OrderedDict(\n{''.join(lines)}{indent}))"
