"""Matrix products for many sampled networks at once.

Shapes: S sampled networks, B inputs, C channels.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def join_channels(x: Tensor) -> Tensor:
    """[S, B, H, W, C] → [B, S · C, H, W], with networks and channels adjacent in memory."""
    return x.permute(1, 2, 3, 0, 4).flatten(3).movedim(-1, 1)


def split_channels(images: Tensor, networks: int) -> Tensor:
    """Inverts `join_channels` for S networks."""
    return images.view(len(images), networks, -1, *images.shape[2:]).permute(1, 0, 3, 4, 2)


def multiply(x: Tensor, weight: Tensor) -> Tensor:
    """Largest of P products with S matrices [S, m, k]; x is [P, n, k], shared, or [P, S, n, k] → [S, n, m]."""
    networks, shared = len(weight), x.dim() == 3
    factors = (x[:, None], weight.flatten(0, 1)[None]) if shared else (x, weight)
    if len(x) > 1:
        # PyTorch leaves `apply` untyped, and mypy only permits untyped calls to torch's own classes.
        products: Tensor = _LargestProducts.apply(*factors)  # type: ignore[no-untyped-call]
    else:
        products = multiply_matrices(factors[0][0], factors[1].mT)
    return products[0].unflatten(1, (networks, -1)).movedim(1, 0) if shared else products


def multiply_matrices(a: Tensor, b: Tensor) -> Tensor:
    """[S, n, k], [S, k, m] → [S, n, m]. A single product is a plain one, which threads can share in more ways."""
    return (a[0] @ b[0])[None] if len(a) == 1 else torch.bmm(a, b)


class _LargestProducts(torch.autograd.Function):
    """Elementwise maximum over i of x[i] yᵀ, for x [P, S, n, k] and y [S, m, k]: [S, n, m].

    PyTorch's own gradients of maxima take longer than the products.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor) -> Tensor:
        largest, larger = multiply_matrices(x[0], y.mT), []
        for others in x[1:]:
            products = multiply_matrices(others, y.mT)
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
                of_x.append(multiply_matrices(part, y))
            if ctx.needs_input_grad[1]:
                of_y += multiply_matrices(part.mT, factor)
        return torch.stack(of_x[::-1]) if of_x else None, of_y if ctx.needs_input_grad[1] else None
