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
    """

    def __init__(self, weight: Tensor) -> None:
        self._pairs: list[tuple[Tensor, Tensor]] = []
        self._weight: Tensor = weight
        if weight.requires_grad:
            self._weight = _Collect.apply(weight, self._pairs)  # type: ignore[no-untyped-call]  # as PyTorch declares none

    def multiply(self, inputs: Tensor) -> Tensor:
        """Products of inputs [B, I] and the weight, [B, O]."""
        product: Tensor = _Multiply.apply(inputs, self._weight, self._pairs)  # type: ignore[no-untyped-call]  # as above
        return product


class _Collect(Function):
    """The weight unchanged; its gradient is that of all pairs, as no step is left when its turn comes."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, pairs: list[tuple[Tensor, Tensor]]) -> Tensor:
        ctx.pairs = pairs
        ctx.set_materialize_grads(False)
        return weight.view_as(weight)

    @staticmethod
    def backward(ctx: Any, *_: Tensor | None) -> tuple[Tensor, None]:
        inputs, gradients = zip(*ctx.pairs, strict=True)
        ctx.pairs.clear()
        return torch.cat(gradients, dim=-2).mT @ torch.cat(inputs, dim=-2), None


class _Multiply(Function):
    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, pairs: list[tuple[Tensor, Tensor]]) -> Tensor:
        ctx.save_for_backward(inputs, weight)
        ctx.pairs = pairs
        return inputs @ weight.mT

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, None, None]:
        inputs, weight = ctx.saved_tensors
        if ctx.needs_input_grad[1]:
            ctx.pairs.append((inputs, gradient))
        return gradient @ weight if ctx.needs_input_grad[0] else None, None, None
