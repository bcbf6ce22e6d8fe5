"""Target networks: the networks whose weights are sampled.

A target network is data, an ordered list of layers. From it come the names and shapes of its parameters, a plain
`nn.Module` with the same `state_dict` keys, and one batched forward for many sampled networks at once.

Shapes: S sampled networks, B inputs, K outputs.
"""

from collections import OrderedDict
from collections.abc import Collection
from functools import cached_property
from typing import Annotated

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from models.evaluator import Evaluator
from models.layers import STRICT, Layer, Linear, Shape, Size, Weighted, numel

Weights = dict[str, Tensor]
"""S sampled networks: keys are exactly the target's parameter names, each [S, *shape]."""


@dataclass(frozen=True, config=STRICT)
class TargetNetwork:
    """A feed-forward network: images [B, C, H, W] or vectors [B, numbers] → outputs [B, K].

    Raises:
        ValueError: if a layer does not fit the shape that reaches it, or the last one is not linear.
    """

    input_shape: tuple[Size, Size, Size] | tuple[Size]
    layers: Annotated[tuple[Layer, ...], Field(min_length=1, max_length=1000)]

    def __post_init__(self) -> None:
        shape: Shape = self.input_shape
        for name, layer in self.named_layers.items():
            rank = {"conv": 3, "pool": 3, "flatten": 3, "linear": 1}.get(layer.kind, len(shape))
            if len(shape) != rank:
                raise ValueError(f"layer {name} takes {rank} dimensions but gets shape {shape}")
            shape = layer.output_shape(shape)
            if min(shape) < 1:
                raise ValueError(f"layer {name} leaves nothing of its input: its output has shape {shape}")
        if not isinstance(self.layers[-1], Linear):
            raise ValueError(f"the last layer must be linear, to give outputs, not {self.layers[-1].kind}")

    @cached_property
    def named_layers(self) -> dict[str, Layer]:
        """Layers by name: kind and running number, as in conv1, act1, pool1, conv2, …"""
        counts: dict[str, int] = {}
        named: dict[str, Layer] = {}
        for layer in self.layers:
            counts[layer.kind] = counts.get(layer.kind, 0) + 1
            named[f"{layer.kind}{counts[layer.kind]}"] = layer
        return named

    @cached_property
    def parameter_shapes(self) -> dict[str, Shape]:
        """Name and shape of every parameter, in the order of the `state_dict`."""
        with torch.device("meta"):
            return {name: tuple(p.shape) for name, p in self.module().named_parameters()}

    @property
    def weighted_layers(self) -> list[str]:
        """Names of the layers that have parameters, in order."""
        return [name for name, layer in self.named_layers.items() if isinstance(layer, Weighted)]

    def layer_vectors(self, weights: Weights) -> dict[str, Tensor]:
        """Weights and biases of each layer of S networks as vectors, [S, numbers of the layer]."""
        return {
            layer: torch.cat([weights[f"{layer}.{p}"].flatten(1) for p in ("weight", "bias")], dim=1)
            for layer in self.weighted_layers
        }

    def flatten_weights(self, weights: Weights) -> Tensor:
        """S networks as vectors, [S, weights of one], layer after layer."""
        return torch.cat(list(self.layer_vectors(weights).values()), dim=1)

    def split_weights(self, vectors: Tensor, names: Collection[str] | None = None) -> Weights:
        """The inverse of `flatten_weights`, from [S, weights of one]; of the networks the named parameters."""
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
    def num_outputs(self) -> int:
        """K."""
        return self.parameter_shapes[f"{self.weighted_layers[-1]}.bias"][0]

    def module(self) -> nn.Sequential:
        """A plain PyTorch module, freshly initialised, whose `state_dict` keys are the parameter names."""
        modules: OrderedDict[str, nn.Module] = OrderedDict()
        shape: Shape = self.input_shape
        for name, layer in self.named_layers.items():
            modules[name] = layer.module(shape)
            shape = layer.output_shape(shape)
        return nn.Sequential(modules)

    @cached_property
    def source(self) -> str:
        """Python source of `module()`; it needs `OrderedDict` and `torch.nn` alone, so a client can paste it."""
        with torch.device("meta"):
            lines = "".join(f"    {name}=nn.{module!r},\n" for name, module in self.module().named_children())
        return f"nn.Sequential(OrderedDict(\n{lines}))"

    def forward(self, weights: Weights, inputs: Tensor) -> Tensor:
        """Outputs of S sampled networks at once.

        Memory beside the result is bounded whatever S and B: activations live for a block of networks and inputs at a
        time.

        Args:
            weights: S sampled networks.
            inputs: [B, *input shape], the same for all networks, or [S, B, *input shape].

        Returns:
            [S, B, K].
        """
        return self._choose_evaluator(inputs.device).forward(weights, inputs)

    def arrange(self, weights: Weights) -> Weights:
        """The same weights as `forward` has them fastest in memory, on their device."""
        return self._choose_evaluator(next(iter(weights.values())).device).arrange(weights)

    def _choose_evaluator(self, device: torch.device) -> Evaluator:
        return self._evaluator_on_cpu if device.type == "cpu" else self._evaluator_elsewhere

    @cached_property
    def _evaluator_on_cpu(self) -> Evaluator:
        return Evaluator(self.named_layers, self.input_shape, on_cpu=True)

    @cached_property
    def _evaluator_elsewhere(self) -> Evaluator:
        return Evaluator(self.named_layers, self.input_shape, on_cpu=False)
