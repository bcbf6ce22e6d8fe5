"""Target networks: the networks whose weights are sampled.

A target network is data, an ordered list of layers. From it come the names and shapes of its parameters, a plain
`nn.Module` with the same `state_dict` keys, and one batched forward for many sampled networks at once.

Shapes: S sampled networks, B inputs, K outputs.
"""

from collections import OrderedDict
from collections.abc import Callable, Collection
from functools import cached_property
from itertools import repeat
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

Weights = dict[str, Tensor]
"""S sampled networks: keys are exactly the target's parameter names, each [S, *shape]."""

Shape = tuple[int, ...]
Size = Annotated[int, Field(gt=0, le=65536)]
STRICT = ConfigDict(extra="forbid")

FEW_CHANNELS = 4
"""For which libraries of convolutions are slow on the CPU."""


@dataclass(frozen=True, config=STRICT)
class Convolution:
    """Two-dimensional convolution with bias and stride 1."""

    channels: Size
    kernel_size: Size
    padding: Annotated[int, Field(ge=0, le=65536)] = 0
    kind: Literal["conv"] = "conv"

    def output_shape(self, shape: Shape) -> Shape:
        _, height, width = shape
        grown = 2 * self.padding - self.kernel_size + 1
        return self.channels, height + grown, width + grown

    def module(self, shape: Shape) -> nn.Module:
        return nn.Conv2d(shape[0], self.channels, self.kernel_size, padding=self.padding)

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.conv2d(x, weight, bias, padding=self.padding)

    def unfold(self, x: Tensor) -> Tensor:
        """The patch of [B, C, H, W] that each place of the output sees: [B, H′, W′, C · kernel size²]."""
        padded = F.pad(x, [self.padding] * 4)
        patches = padded.unfold(2, self.kernel_size, 1).unfold(3, self.kernel_size, 1)
        return patches.permute(0, 2, 3, 1, 4, 5).flatten(3)

    def forward_patches(self, patches: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """As `forward`, from what `unfold` made of x; the channels are last in memory."""
        return F.linear(patches, weight.flatten(1), bias).permute(0, 3, 1, 2)


@dataclass(frozen=True, config=STRICT)
class Activation:
    """Leaky ReLU; a slope of 0 makes it a ReLU."""

    negative_slope: Annotated[float, Field(ge=0, lt=1)] = 0.01
    kind: Literal["act"] = "act"

    def output_shape(self, shape: Shape) -> Shape:
        return shape

    def module(self, shape: Shape) -> nn.Module:
        return nn.LeakyReLU(self.negative_slope)

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(x, self.negative_slope)


@dataclass(frozen=True, config=STRICT)
class MaxPooling:
    """Maximum over windows of size × size that do not overlap; a rest at the border is dropped."""

    size: Size = 2
    kind: Literal["pool"] = "pool"

    def output_shape(self, shape: Shape) -> Shape:
        channels, height, width = shape
        return channels, height // self.size, width // self.size

    def module(self, shape: Shape) -> nn.Module:
        return nn.MaxPool2d(self.size)

    def forward(self, x: Tensor) -> Tensor:
        if x.requires_grad:
            return F.max_pool2d(x, self.size)
        # Maxima of strided slices are exact and several times faster on the CPU; only their backward is slow.
        size, height, width = self.size, x.shape[-2] // self.size, x.shape[-1] // self.size
        x = x[..., : height * size, : width * size]
        rows = [x[..., i::size, :] for i in range(size)]
        return _maximum([row[..., j::size] for row in rows for j in range(size)])


@dataclass(frozen=True, config=STRICT)
class Flatten:
    """[B, C, H, W] → [B, C·H·W]."""

    kind: Literal["flatten"] = "flatten"

    def output_shape(self, shape: Shape) -> Shape:
        return (_numel(shape),)

    def module(self, shape: Shape) -> nn.Module:
        return nn.Flatten()

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)


@dataclass(frozen=True, config=STRICT)
class Linear:
    """Fully connected layer with bias."""

    features: Size
    kind: Literal["linear"] = "linear"

    def output_shape(self, shape: Shape) -> Shape:
        return (self.features,)

    def module(self, shape: Shape) -> nn.Module:
        return nn.Linear(shape[0], self.features)

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.linear(x, weight, bias)


Layer = Annotated[Convolution | Activation | MaxPooling | Flatten | Linear, Field(discriminator="kind")]
Weighted = (Convolution, Linear)


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
        parts = vectors.split([_numel(shape) for shape in self.parameter_shapes.values()], dim=1)
        return {
            name: part.reshape(-1, *shape)
            for (name, shape), part in zip(self.parameter_shapes.items(), parts, strict=True)
            if names is None or name in names
        }

    @property
    def num_weights(self) -> int:
        """Number of weights of one network, biases included."""
        return sum(map(_numel, self.parameter_shapes.values()))

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

        Memory beside the result is bounded whatever S and B: activations live for one network and one block of
        inputs at a time, a block small enough for the processor's cache.

        Args:
            weights: S sampled networks.
            inputs: [B, *input shape], the same for all networks, or [S, B, *input shape].

        Returns:
            [S, B, K].
        """
        networks = [dict(zip(weights, tensors, strict=True)) for tensors in zip(*weights.values(), strict=True)]
        rank = len(self.input_shape)
        shared = inputs.dim() == rank + 1
        first = self._unfolding if inputs.device.type == "cpu" else None
        prepare: Callable[[Tensor], Tensor] = first.unfold if first else lambda block: block
        blocks = []
        for block in inputs.split(self._inputs_per_block, dim=-rank - 1):
            own = repeat(prepare(block), len(networks)) if shared else map(prepare, block.unbind())
            outputs = [self._forward_one(w, x, first) for w, x in zip(networks, own, strict=True)]
            blocks.append(torch.stack(outputs))
        return blocks[0] if len(blocks) == 1 else torch.cat(blocks, dim=1)

    def _forward_one(self, weights: dict[str, Tensor], x: Tensor, unfolded: Convolution | None) -> Tensor:
        """Outputs of one network, from inputs or from what the first layer unfolded of them, if it did."""
        for name, layer in self._execution_order:
            if not isinstance(layer, Weighted):
                x = layer.forward(x)
                continue
            forward, unfolded = (unfolded.forward_patches if unfolded else layer.forward), None
            x = forward(x, weights[f"{name}.weight"], weights[f"{name}.bias"])
        return x

    @cached_property
    def _unfolding(self) -> Convolution | None:
        """The first layer, if it is a convolution of few channels.

        On the CPU that is fastest as one product of matrices, with or without gradients, and networks that see the
        same inputs share the patches. It leaves the channels last, as the other layers like them best.
        """
        first = self.layers[0]
        return first if isinstance(first, Convolution) and self.input_shape[0] <= FEW_CHANNELS else None

    @cached_property
    def _execution_order(self) -> list[tuple[str, Layer]]:
        """The layers, with pooling before the activation that precedes it.

        The activation never decreases, so it commutes with a maximum, exactly; it then has a quarter of the work.
        """
        order = list(self.named_layers.items())
        for i in range(len(order) - 1):
            if isinstance(order[i][1], Activation) and isinstance(order[i + 1][1], MaxPooling):
                order[i], order[i + 1] = order[i + 1], order[i]
        return order

    @cached_property
    def _inputs_per_block(self) -> int:
        shape: Shape = self.input_shape
        largest = _numel(shape)
        for layer in self.layers:
            shape = layer.output_shape(shape)
            largest = max(largest, _numel(shape))
        return max(1, 600_000 // largest)  # activations of about 2.4 MB: 32 images of the paper's MNIST target


def _maximum(tensors: list[Tensor]) -> Tensor:
    while len(tensors) > 1:
        paired = [torch.maximum(a, b) for a, b in zip(tensors[::2], tensors[1::2], strict=False)]
        tensors = paired + tensors[2 * len(paired) :]
    return tensors[0]


def _numel(shape: Shape) -> int:
    return torch.Size(shape).numel()
