"""Layers of target networks: data, with a forward pass for many sampled networks at once.

Each of them computes what the layer's plain PyTorch module computes, to rounding.

Channels are last in an image's shape. In memory the networks come after the place on the CPU: one network's channels
follow the other's, as if they were the channels of one image, which is what grouped convolutions are fast with.

Shapes: S sampled networks, B inputs.
"""

from functools import reduce
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

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

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """[B, H, W, C], the same for S networks, or [S, B, H, W, C] → [S, B, H′, W′, channels]."""
        networks, shared = len(weight), x.dim() == 4
        images = x if shared else x.permute(1, 2, 3, 0, 4).flatten(3)
        filters = self.arrange(weight).flatten(0, 1)
        groups = 1 if shared else networks
        outputs = F.conv2d(images.movedim(-1, 1), filters, bias.flatten(), padding=self.padding, groups=groups)
        return outputs.view(len(outputs), networks, self.channels, *outputs.shape[2:]).permute(1, 0, 3, 4, 2)

    def arrange(self, weight: Tensor) -> Tensor:
        """A weight [S, channels, C, k, k] as `forward` has it fastest in memory."""
        if self.channels == 1:  # which leaves it open whether channels are last, and PyTorch refuses some gradients
            return weight
        return weight.flatten(0, 1).contiguous(memory_format=torch.channels_last).view(weight.shape)

    def unfold(self, x: Tensor, pooling: int = 1) -> Tensor:
        """The patch of [..., H, W, C] that each place of the output sees, by place within a window of pooling:
        [pooling², ..., H″, W″, kernel size² · C]."""
        padded = F.pad(x, [0, 0, *[self.padding] * 4])
        windows = padded.unfold(-3, self.kernel_size, 1).unfold(-3, self.kernel_size, 1).movedim(-3, -1)
        height, width = (size // pooling for size in windows.shape[-5:-3])
        windows = windows[..., : height * pooling, : width * pooling, :, :, :]
        windows = windows.unflatten(-4, (width, pooling)).unflatten(-6, (height, pooling)).movedim((-6, -4), (0, 1))
        # Few long rows of numbers are copied faster than many short ones, so the places of an image are last in memory.
        patches = windows.movedim((-3, -2, -1), (-6, -5, -4)).contiguous()
        return torch.movedim(patches.flatten(0, 1).flatten(-6, -4), -4, -1)

    def multiply(self, patches: Tensor, weight: Tensor) -> Tensor:
        """As `forward`, without a bias and with maxima over windows of pooling, from what `unfold` made of x."""
        products = _multiply(patches.flatten(-4, -2), weight.movedim(2, -1).flatten(2))
        return products.view(len(weight), *patches.shape[-4:-1], self.channels)


@dataclass(frozen=True, config=STRICT)
class Activation:
    """Leaky ReLU; a slope of 0 makes it a ReLU."""

    negative_slope: Annotated[float, Field(ge=0, lt=1)] = 0.01
    kind: Literal["act"] = "act"

    def output_shape(self, shape: Shape) -> Shape:
        return shape

    def module(self, shape: Shape) -> nn.Module:
        return nn.LeakyReLU(self.negative_slope)

    def forward(self, x: Tensor, inplace: bool = False) -> Tensor:
        """Of any shape."""
        return F.leaky_relu(x, self.negative_slope, inplace and not x.requires_grad)


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
        """[..., H, W, C] → [..., H′, W′, C]."""
        size, height, width = self.size, x.shape[-3] // self.size, x.shape[-2] // self.size
        if x.requires_grad and x.dim() == 5:
            images = x.permute(1, 2, 3, 0, 4).flatten(3).movedim(-1, 1)
            pooled = F.max_pool2d(images, size)
            return pooled.view(len(pooled), len(x), -1, height, width).permute(1, 0, 3, 4, 2)
        # Maxima of slices are several times faster on the CPU, and slow only backward.
        rows = [x[..., i : height * size : size, :, :] for i in range(size)]
        x = reduce(torch.maximum, rows)
        columns = [x[..., i : width * size : size, :] for i in range(size)]
        return reduce(torch.maximum, columns)


@dataclass(frozen=True, config=STRICT)
class Flatten:
    """Of images, channel after channel."""

    kind: Literal["flatten"] = "flatten"

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

    def output_shape(self, shape: Shape) -> Shape:
        return (self.features,)

    def module(self, shape: Shape) -> nn.Module:
        return nn.Linear(shape[0], self.features)

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """[B, numbers], the same for S networks, or [S, B, numbers] → [S, B, features]."""
        products = _multiply(x[None], weight)
        return products + bias[:, None]


def add_bias(x: Tensor, bias: Tensor) -> Tensor:
    """Of S networks, [S, channels], to [S, B, H, W, channels], in place where that is possible."""
    addend = bias[:, None, None, None]
    return x + addend if x.requires_grad or bias.requires_grad else x.add_(addend)


Layer = Annotated[Convolution | Activation | MaxPooling | Flatten | Linear, Field(discriminator="kind")]
Weighted = (Convolution, Linear)


def _multiply(x: Tensor, weight: Tensor) -> Tensor:
    """Largest of P products: x [P, n, k], the same for S matrices [S, m, k], or [P, S, n, k] → [S, n, m]."""
    networks, shared = len(weight), x.dim() == 3
    factors = (x[:, None], weight.flatten(0, 1)[None]) if shared else (x, weight)
    if len(x) > 1:
        # PyTorch leaves `apply` untyped, and mypy excuses calls to torch's own classes alone.
        products: Tensor = _LargestProducts.apply(*factors)  # type: ignore[no-untyped-call]
    else:
        products = _multiply_matrices(factors[0][0], factors[1].mT)
    return products[0].unflatten(1, (networks, -1)).movedim(1, 0) if shared else products


def _multiply_matrices(a: Tensor, b: Tensor) -> Tensor:
    """[S, n, k], [S, k, m] → [S, n, m]; a single product may be divided among threads in other ways."""
    return (a[0] @ b[0])[None] if len(a) == 1 else torch.bmm(a, b)


class _LargestProducts(torch.autograd.Function):
    """For x [P, S, n, k] and y [S, m, k] the largest of x[i] yᵀ, number by number: [S, n, m].

    PyTorch's own gradients of maxima take longer than the products.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor) -> Tensor:
        largest, larger = _multiply_matrices(x[0], y.mT), []
        for others in x[1:]:
            products = _multiply_matrices(others, y.mT)
            if any(ctx.needs_input_grad):
                larger.append(products > largest)
            torch.maximum(largest, products, out=largest)
        ctx.save_for_backward(x, y, *larger)
        return largest

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, y, *larger = ctx.saved_tensors
        of_x, of_y = [], torch.zeros_like(y)
        for factor, chosen in zip(x.unbind()[::-1], [*larger[::-1], None], strict=True):
            part = gradient if chosen is None else gradient * chosen
            gradient = gradient if chosen is None else gradient - part
            if ctx.needs_input_grad[0]:
                of_x.append(_multiply_matrices(part, y))
            if ctx.needs_input_grad[1]:
                of_y += _multiply_matrices(part.mT, factor)
        return torch.stack(of_x[::-1]) if of_x else None, of_y if ctx.needs_input_grad[1] else None


def numel(shape: Shape) -> int:
    """Numbers in a tensor of a shape."""
    return torch.Size(shape).numel()
