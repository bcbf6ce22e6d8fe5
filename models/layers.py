"""Layers of target networks: data, with the forward passes that evaluate many sampled networks fast.

Each of them computes what the layer's plain PyTorch module computes, to rounding.

Shapes: S sampled networks, B inputs.
"""

from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

Shape = tuple[int, ...]
"""Of one input or output of a layer."""
Size = Annotated[int, Field(gt=0, le=65536)]
STRICT = ConfigDict(extra="forbid")


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

    def count_patches(self, shape: Shape) -> int:
        """Numbers that unfolding makes of an input."""
        _, height, width = self.output_shape(shape)
        return height * width * shape[0] * self.kernel_size**2

    def count_products(self, shape: Shape) -> int:
        """Multiplications for an input."""
        return self.count_patches(shape) * self.channels

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """[B, C, H, W] → [B, channels, H′, W′]."""
        return F.conv2d(x, weight, bias, padding=self.padding)

    def unfold(self, x: Tensor) -> Tensor:
        """The patch of [B, C, H, W] that each place of the output sees: [B, H′, W′, C · kernel size²]."""
        padded = F.pad(x, [self.padding] * 4)
        patches = padded.unfold(2, self.kernel_size, 1).unfold(3, self.kernel_size, 1)
        return patches.permute(0, 2, 3, 1, 4, 5).flatten(3)

    def forward_patches(self, patches: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """As `forward`, from what `unfold` made of x; the channels are last in memory."""
        return F.linear(patches, weight.flatten(1), bias).permute(0, 3, 1, 2)

    def forward_stacked(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """Of S networks at once: x [B, H, W, C], the same for all, or [S, B, H, W, C] → [S, B, H′, W′, channels]."""
        padded = F.pad(x, [0, 0, *[self.padding] * 4])
        windows = padded.unfold(-3, self.kernel_size, 1).unfold(-3, self.kernel_size, 1)
        patches = windows.movedim(-3, -1).flatten(-3)
        matrices = weight.movedim(2, -1).flatten(2)
        products = _multiply(patches.flatten(-4, -2), matrices, bias)
        return products.view(*products.shape[:1], *patches.shape[-4:-1], self.channels)


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

    def forward_stacked(self, x: Tensor) -> Tensor:
        """As `forward`, of any shape."""
        return self.forward(x)


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
        return self._pool(x)

    def forward_stacked(self, x: Tensor) -> Tensor:
        """As `forward`, of [S, B, H, W, C]."""
        return self._pool(x.movedim(-1, -3)).movedim(-3, -1)

    def _pool(self, x: Tensor) -> Tensor:
        """Of [..., H, W], by maxima of strided slices: exact, several times faster on the CPU, slow only backward."""
        size, height, width = self.size, x.shape[-2] // self.size, x.shape[-1] // self.size
        x = x[..., : height * size, : width * size]
        rows = [x[..., i::size, :] for i in range(size)]
        return _maximum([row[..., j::size] for row in rows for j in range(size)])


@dataclass(frozen=True, config=STRICT)
class Flatten:
    """[B, C, H, W] → [B, C·H·W]."""

    kind: Literal["flatten"] = "flatten"

    def output_shape(self, shape: Shape) -> Shape:
        return (numel(shape),)

    def module(self, shape: Shape) -> nn.Module:
        return nn.Flatten()

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)

    def forward_stacked(self, x: Tensor) -> Tensor:
        """[S, B, H, W, C] → [S, B, C·H·W]."""
        return x.movedim(-1, -3).flatten(-3)


@dataclass(frozen=True, config=STRICT)
class Linear:
    """Fully connected layer with bias."""

    features: Size
    kind: Literal["linear"] = "linear"

    def output_shape(self, shape: Shape) -> Shape:
        return (self.features,)

    def module(self, shape: Shape) -> nn.Module:
        return nn.Linear(shape[0], self.features)

    def count_products(self, shape: Shape) -> int:
        """Multiplications for an input."""
        return shape[0] * self.features

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """[B, numbers] → [B, features]."""
        return F.linear(x, weight, bias)

    def forward_stacked(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Of S networks at once: x [B, numbers], the same for all, or [S, B, numbers] → [S, B, features]."""
        return _multiply(x, weight, bias)


class Bias:
    """A bias that is added by itself."""

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """To [B, C, H, W]."""
        return x + bias[:, None, None]

    def forward_stacked(self, x: Tensor, bias: Tensor) -> Tensor:
        """To [S, B, H, W, C]."""
        return x + bias[:, None, None, None]


Layer = Annotated[Convolution | Activation | MaxPooling | Flatten | Linear, Field(discriminator="kind")]
Weighted = (Convolution, Linear)


def _multiply(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x [n, k], the same for S matrices [S, m, k] and biases [S, m], or [S, n, k] → [S, n, m]."""
    if x.dim() == 3:
        return torch.bmm(x, weight.mT) if bias is None else torch.baddbmm(bias[:, None], x, weight.mT)
    products = F.linear(x, weight.flatten(0, 1), None if bias is None else bias.flatten())
    return products.view(len(x), *weight.shape[:2]).movedim(1, 0)


def _maximum(tensors: list[Tensor]) -> Tensor:
    while len(tensors) > 1:
        paired = [torch.maximum(a, b) for a, b in zip(tensors[::2], tensors[1::2], strict=False)]
        tensors = paired + tensors[2 * len(paired) :]
    return tensors[0]


def numel(shape: Shape) -> int:
    """Numbers in a tensor of a shape."""
    return torch.Size(shape).numel()
