"""Products with one weight at every step, whose gradient of the weight is a single product over all steps.

Shapes: B sequences, I numbers given, O numbers made. Weights may have more axes at the front, and so do their inputs.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function


class DeferredWeight:
    """A weight [O, I] that is used at every step of a window.

    Automatic differentiation would multiply the inputs and gradients of each step and add the results. Here each step
    puts its pair aside, and when the first step is reached, all pairs are multiplied at once, which a processor does
    several times as fast.

    Under `torch.autocast` all products, those of the gradients among them, are computed in its type, for which the
    weight is converted once. What goes in and comes out keeps its own type.
    """

    def __init__(self, weight: Tensor) -> None:
        self._pairs: list[tuple[Tensor, Tensor]] = []
        dtype = choose_dtype(weight)
        if weight.requires_grad:
            self._weight: Tensor = _Collect.apply(weight, dtype, self._pairs)  # type: ignore[no-untyped-call]  # as PyTorch declares none
        else:
            self._weight = weight.to(dtype)

    def multiply(self, inputs: Tensor) -> Tensor:
        """Products of inputs [B, I] and the weight, [B, O]."""
        product: Tensor = _Multiply.apply(inputs, self._weight, self._pairs)  # type: ignore[no-untyped-call]  # as above
        return product


def choose_dtype(weight: Tensor) -> torch.dtype:
    """The type for products with a weight: that of `torch.autocast` if it is on, else the weight's own."""
    kind = weight.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype


class _Collect(Function):
    """The weight, converted; its gradient is that of all pairs, as no step is left when its turn comes."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, dtype: torch.dtype, pairs: list[tuple[Tensor, Tensor]]) -> Tensor:
        ctx.pairs, ctx.dtype = pairs, weight.dtype
        ctx.set_materialize_grads(False)
        return weight.view_as(weight).to(dtype)

    @staticmethod
    def backward(ctx: Any, *_: Tensor | None) -> tuple[Tensor, None, None]:
        inputs, gradients = zip(*ctx.pairs, strict=True)
        ctx.pairs.clear()
        return (torch.cat(gradients, dim=-2).mT @ torch.cat(inputs, dim=-2)).to(ctx.dtype), None, None


class _Multiply(Function):
    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, pairs: list[tuple[Tensor, Tensor]]) -> Tensor:
        ctx.pairs, ctx.dtype = pairs, inputs.dtype
        inputs = inputs.to(weight.dtype)
        ctx.save_for_backward(inputs, weight)
        return (inputs @ weight.mT).to(ctx.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, None, None]:
        inputs, weight = ctx.saved_tensors
        gradient = gradient.to(weight.dtype)
        if ctx.needs_input_grad[1]:
            ctx.pairs.append((inputs, gradient))
        return (gradient @ weight).to(ctx.dtype) if ctx.needs_input_grad[0] else None, None, None
