"""Layers of target networks: data, with a forward pass for many sampled networks at once.

Each computes what the layer's plain PyTorch module computes, up to rounding.

Channels are last in an image's shape. In the CPU's memory, the networks come after the position: the channels of one
network follow those of another, as if they belonged to one image. Grouped convolutions are fast with this layout.

A layer computes in the type of its weights, whatever that of its input is.

Shapes: S sampled networks, B inputs.
"""

import math
from collections import OrderedDict
from collections.abc import Iterable
from functools import reduce
from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import FailFast, Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from models.schema import STRICT, Shape, Size
from models.targets.products import join_channels, multiply, split_channels


@dataclass(frozen=True, config=STRICT)
class Convolution:
    """Two-dimensional convolution with bias."""

    channels: Size
    kernel_size: Size
    padding: Annotated[int, Field(ge=0, le=65536)] = 0
    stride: Size = 1
    kind: Literal["conv"] = "conv"
    rank: ClassVar[int] = 3

    def output_shape(self, shape: Shape) -> Shape:
        _, height, width = shape
        grown = 2 * self.padding - self.kernel_size
        return self.channels, (height + grown) // self.stride + 1, (width + grown) // self.stride + 1

    def module(self, shape: Shape) -> nn.Module:
        return nn.Conv2d(shape[0], self.channels, self.kernel_size, self.stride, self.padding)

    def count_patches(self, shape: Shape) -> int:
        """Number of values that unfolding makes of an input."""
        _, height, width = self.output_shape(shape)
        return height * width * shape[0] * self.kernel_size**2

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """[B, H, W, C], the same for S networks, or [S, B, H, W, C] → [S, B, H′, W′, channels]."""
        networks, shared = len(weight), x.dim() == 4
        images = (x.movedim(-1, 1) if shared else join_channels(x)).to(weight.dtype)
        filters = self.arrange(weight).flatten(0, 1)
        groups = 1 if shared else networks
        return split_channels(
            F.conv2d(images, filters, bias.flatten(), self.stride, self.padding, groups=groups), networks
        )

    def arrange(self, weight: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """Puts a weight [S, channels, C, k, k] into a type, and into the memory layout that `forward` prefers."""
        dtype = dtype or weight.dtype
        if self.channels == 1:  # both layouts are then the same, and PyTorch refuses some gradients
            return weight.to(dtype)
        return weight.flatten(0, 1).to(dtype).contiguous(memory_format=torch.channels_last).view(weight.shape)

    def unfold(self, x: Tensor, pooling: int = 1) -> Tensor:
        """The patch of [..., H, W, C] that each output position sees, and a one for the bias, by position within a
        pooling window: [pooling², ..., H″, W″, kernel size² · C + 1]."""
        padded = F.pad(x, [0, 0, *[self.padding] * 4])
        size, stride = self.kernel_size, self.stride
        windows = padded.unfold(-3, size, stride).unfold(-3, size, stride).movedim(-3, -1)
        height, width = (size // pooling for size in windows.shape[-5:-3])
        windows = windows[..., : height * pooling, : width * pooling, :, :, :]
        windows = windows.unflatten(-4, (width, pooling)).unflatten(-6, (height, pooling)).movedim((-6, -4), (0, 1))
        # A few long rows copy faster than many short ones, so the positions in an image are last in memory.
        windows = windows.movedim((-3, -2, -1), (-6, -5, -4))
        *others, size, _, channels = windows.shape[:-3]
        patches = x.new_empty(*others, size**2 * channels + 1, *windows.shape[-3:])
        patches[..., :-1, :, :, :].unflatten(-4, (size, size, channels)).copy_(windows)
        patches[..., -1, :, :, :] = 1
        return torch.movedim(patches.flatten(0, 1), -4, -1)

    def multiply(self, patches: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Computes `forward` from the result of `unfold`, with maxima over pooling windows."""
        matrices = torch.cat([weight.movedim(2, -1).flatten(2), bias[..., None]], dim=2)
        products = multiply(patches.flatten(-4, -2).to(weight.dtype), matrices)
        return products.view(len(weight), *patches.shape[-4:-1], self.channels)


@dataclass(frozen=True, config=STRICT)
class Activation:
    """Leaky ReLU; a slope of 0 makes it a ReLU."""

    negative_slope: Annotated[float, Field(ge=0, lt=1)] = 0.01
    kind: Literal["act"] = "act"
    rank: ClassVar[int | None] = None

    def output_shape(self, shape: Shape) -> Shape:
        return shape

    def module(self, shape: Shape) -> nn.Module:
        return nn.LeakyReLU(self.negative_slope)

    def forward(self, x: Tensor, inplace: bool = False) -> Tensor:
        """Any shape → the same shape."""
        return F.leaky_relu(x, self.negative_slope, inplace and not x.requires_grad)


@dataclass(frozen=True, config=STRICT)
class MaxPooling:
    """Maximum over windows of size × size that do not overlap. Incomplete windows at the border are dropped."""

    size: Size = 2
    kind: Literal["pool"] = "pool"
    rank: ClassVar[int] = 3

    def output_shape(self, shape: Shape) -> Shape:
        channels, height, width = shape
        return channels, height // self.size, width // self.size

    def module(self, shape: Shape) -> nn.Module:
        return nn.MaxPool2d(self.size)

    def forward(self, x: Tensor) -> Tensor:
        """[..., H, W, C] → [..., H′, W′, C]."""
        size, height, width = self.size, x.shape[-3] // self.size, x.shape[-2] // self.size
        if x.requires_grad and x.dim() == 5:
            return split_channels(F.max_pool2d(join_channels(x), size), len(x))
        # Maxima of slices are several times faster on the CPU; only their gradient is slow.
        rows = [x[..., i : height * size : size, :, :] for i in range(size)]
        x = reduce(torch.maximum, rows)
        columns = [x[..., i : width * size : size, :] for i in range(size)]
        return reduce(torch.maximum, columns)


@dataclass(frozen=True, config=STRICT)
class GlobalPooling:
    """Mean of each channel over all positions."""

    kind: Literal["mean"] = "mean"
    rank: ClassVar[int] = 3

    def output_shape(self, shape: Shape) -> Shape:
        return shape[0], 1, 1

    def module(self, shape: Shape) -> nn.Module:
        return nn.AdaptiveAvgPool2d(1)

    def forward(self, x: Tensor) -> Tensor:
        """[..., H, W, C] → [..., 1, 1, C]."""
        return x.mean((-3, -2), keepdim=True)


@dataclass(frozen=True, config=STRICT)
class Normalization:
    """Group normalisation: groups of an image's channels get mean 0 and variance 1, then gains and biases.

    Wu & He, "Group Normalization", ECCV 2018. Batch normalisation does not suit sampled weights, because each network
    would need its own running statistics. Group normalisation uses only the image and the network, so an answer depends
    on no other image. It also corrects the scale of the kernels before it, which a generator may get wrong.
    """

    groups: Size
    kind: Literal["norm"] = "norm"
    rank: ClassVar[int] = 3

    def output_shape(self, shape: Shape) -> Shape:
        if shape[0] % self.groups:
            raise ValueError(f"{shape[0]} channels cannot be divided into {self.groups} groups of equal size")
        return shape

    def module(self, shape: Shape) -> nn.Module:
        return nn.GroupNorm(self.groups, shape[0])

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """[B, H, W, C], the same for S networks, or [S, B, H, W, C] → [S, B, H, W, C]."""
        networks, shared = len(weight), x.dim() == 4
        images = (x.movedim(-1, 1) if shared else join_channels(x)).to(weight.dtype)
        groups = self.groups if shared else networks * self.groups
        # PyTorch 2.13 crashes on the gradient of gains if channels are last and the input needs no gradient.
        if shared or (weight.requires_grad and not x.requires_grad):
            normalized = F.group_norm(images, groups)
            normalized = normalized.movedim(1, -1) if shared else split_channels(normalized, networks)
            return normalized * weight[:, None, None, None] + bias[:, None, None, None]
        return split_channels(F.group_norm(images, groups, weight.flatten(), bias.flatten()), networks)


@dataclass(frozen=True, config=STRICT)
class Flatten:
    """Flattening of images, channel by channel."""

    kind: Literal["flatten"] = "flatten"
    rank: ClassVar[int] = 3

    def output_shape(self, shape: Shape) -> Shape:
        return (numel(shape),)

    def module(self, shape: Shape) -> nn.Module:
        return nn.Flatten()

    def forward(self, x: Tensor) -> Tensor:
        """[..., H, W, C] → [..., C·H·W]."""
        return x.movedim(-1, -3).flatten(-3)


@dataclass(frozen=True, config=STRICT)
class Linear:
    """Fully connected layer with bias."""

    features: Size
    kind: Literal["linear"] = "linear"
    rank: ClassVar[int] = 1

    def output_shape(self, shape: Shape) -> Shape:
        return (self.features,)

    def module(self, shape: Shape) -> nn.Module:
        return nn.Linear(shape[0], self.features)

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """[B, numbers], the same for S networks, or [S, B, numbers] → [S, B, features]."""
        products = multiply(x[None].to(weight.dtype), weight)
        return products + bias[:, None]


class ResidualBlock(nn.Sequential):
    """Adds the layers' output to their input. Where the layers shrink the image or add channels, the input skips
    positions and gets channels of zeros (He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, A)."""

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for module in self:
            y = module(y)
        stride = -(-x.shape[2] // y.shape[2])
        return y + nn.functional.pad(x[:, :, ::stride, ::stride], (0, 0, 0, 0, 0, y.shape[1] - x.shape[1]))


@dataclass(frozen=True, config=STRICT)
class Residual:
    """A residual block: its input plus the layers' output.

    Where the layers shrink the image or add channels, the shortcut does too, without parameters (`ResidualBlock`).
    """

    layers: "Annotated[tuple[Layer, ...], Field(min_length=1, max_length=100), FailFast()]"
    kind: Literal["residual"] = "residual"
    rank: ClassVar[int] = 3

    def output_shape(self, shape: Shape) -> Shape:
        *_, (_, _, grown) = trace_shapes(self.layers, shape)
        if len(grown) != 3 or grown[0] < shape[0]:
            raise ValueError(f"the layers of a residual block turn {shape} into {grown}, which cannot be added to it")
        stride = -(-shape[1] // grown[1])
        if grown[1:] != tuple(-(-size // stride) for size in shape[1:]):
            raise ValueError(f"the layers of a residual block turn {shape} into {grown}, which no stride can match")
        return grown

    def module(self, shape: Shape) -> nn.Module:
        return ResidualBlock(build_modules(self.layers, shape))

    @staticmethod
    def add(x: Tensor, y: Tensor) -> Tensor:
        """Sum of the input, [B, H, W, C] or [S, B, H, W, C], and the layers' output, [S, B, H′, W′, C′]."""
        stride = -(-x.shape[-3] // y.shape[-3])
        shortcut = x[..., ::stride, ::stride, :]
        channels = x.shape[-1]
        if y.requires_grad or x.requires_grad:
            return y + F.pad(shortcut, (0, y.shape[-1] - channels))
        y[..., :channels].add_(shortcut)
        return y


Layer = Annotated[
    Convolution | Normalization | Activation | MaxPooling | GlobalPooling | Residual | Flatten | Linear,
    Field(discriminator="kind"),
]
Weighted = (Convolution, Normalization, Linear)


def name_layers(layers: Iterable[Layer]) -> dict[str, Layer]:
    """Layers by name: kind and running number, such as conv1, act1, pool1, conv2, …"""
    counts: dict[str, int] = {}
    named: dict[str, Layer] = {}
    for layer in layers:
        counts[layer.kind] = counts.get(layer.kind, 0) + 1
        named[f"{layer.kind}{counts[layer.kind]}"] = layer
    return named


def count_layers(layers: Iterable[Layer]) -> int:
    """Number of layers, including those in residual blocks."""
    waiting, number = list(layers), 0
    while waiting:
        layer = waiting.pop()
        number += 1
        if isinstance(layer, Residual):
            waiting += layer.layers
    return number


def count_multiplications(layers: Iterable[Layer], shape: Shape) -> int:
    """Number of multiplications for one network and one input. In other layers, each input number counts as one."""
    layers, number = tuple(layers), 0
    for (_, given, made), layer in zip(trace_shapes(layers, shape), layers, strict=True):
        match layer:
            case Convolution():
                number += layer.count_patches(given) * made[0]
            case Linear():
                number += given[0] * made[0]
            case Residual():
                number += count_multiplications(layer.layers, given)
            case _:
                number += math.prod(given)
    return number


def trace_shapes(layers: Iterable[Layer], shape: Shape) -> list[tuple[str, Shape, Shape]]:
    """Name, input shape and output shape of consecutive layers.

    Raises:
        ValueError: if a layer does not fit the shape that reaches it.
    """
    traced = []
    for name, layer in name_layers(layers).items():
        if layer.rank not in (None, len(shape)):
            raise ValueError(f"layer {name} takes {layer.rank} dimensions, but gets shape {shape}")
        output = layer.output_shape(shape)
        if min(output) < 1:
            raise ValueError(f"layer {name} has an empty output, of shape {output}")
        traced.append((name, shape, output))
        shape = output
    return traced


def build_modules(layers: Iterable[Layer], shape: Shape) -> OrderedDict[str, nn.Module]:
    """PyTorch modules of consecutive layers, freshly initialised, by name."""
    layers = tuple(layers)
    shapes = trace_shapes(layers, shape)
    return OrderedDict((name, layer.module(given)) for (name, given, _), layer in zip(shapes, layers, strict=True))


def list_weighted(layers: Iterable[Layer], prefix: str = "") -> list[str]:
    """Names of the layers that have parameters, in order. Those in residual blocks are like residual1.conv1."""
    names = []
    for name, layer in name_layers(layers).items():
        if isinstance(layer, Residual):
            names += list_weighted(layer.layers, f"{prefix}{name}.")
        elif isinstance(layer, Weighted):
            names.append(prefix + name)
    return names


def numel(shape: Shape) -> int:
    """Number of values in a tensor of some shape."""
    return torch.Size(shape).numel()
