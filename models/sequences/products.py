"""Products with the weights of a window, whose gradients of the weights are products over many steps.

Automatic differentiation would multiply the inputs and gradients of each step and add the results. Here each step puts
its pair aside, and many are multiplied at once, which a processor does several times as fast.

Shapes: B sequences, n inputs, I numbers given, O numbers made, X numbers of an input.
"""

import torch
from torch import Tensor

ROWS = 2048
"""Inputs that are multiplied at once: enough to be fast, few enough that they stay in a cache."""


def choose_dtype(weight: Tensor) -> torch.dtype:
    """The type for products with a weight: that of `torch.autocast` if it is on, else the weight's own."""
    kind = weight.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype


class Product:
    """Products with a weight [O, I]. Both may have more axes at the front.

    The weight is converted once to the type of the products; inputs must have that type.
    """

    def __init__(self, weight: Tensor, dtype: torch.dtype) -> None:
        self.weights = (weight,)
        self.dtype = dtype
        self._weight = weight.detach().to(dtype)
        self._pairs: list[tuple[Tensor, Tensor]] = []
        self._gradient = torch.zeros((), dtype=weight.dtype, device=weight.device)

    def forward(self, inputs: Tensor) -> Tensor:
        """[B, O] from [B, I]."""
        return inputs @ self._weight.mT

    def backward(self, inputs: Tensor, gradient: Tensor) -> Tensor:
        """The gradient of the inputs, [B, I], in the type of the products."""
        gradient = gradient.to(self.dtype)
        if self.weights[0].requires_grad:
            self._pairs.append((inputs, gradient))
            if sum(own.shape[-2] for own, _ in self._pairs) >= ROWS:
                self._multiply_pairs()
        return gradient @ self._weight

    def gradients(self) -> tuple[Tensor, ...]:
        """Of the weight, summed over what went back."""
        if self._pairs:
            self._multiply_pairs()
        gradient, self._gradient = self._gradient, self._gradient.new_zeros(())
        return (gradient,)

    def _multiply_pairs(self) -> None:
        inputs, gradients = (torch.cat(parts, dim=-2) for parts in zip(*self._pairs, strict=True))
        self._pairs.clear()
        self._gradient = self._gradient + gradients.mT @ inputs


class Lookup:
    """Products of one-hot inputs, given as integers, and a weight [O, X], and a bias [O]."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        self.weights = weight, bias
        self.size = len(bias)
        self._table = (weight.detach().mT + bias.detach()).contiguous()
        self._gradient = torch.zeros_like(self._table)

    def forward(self, inputs: Tensor) -> Tensor:
        """[n, O] from int64 [n]."""
        return self._table.index_select(0, inputs)

    def backward(self, inputs: Tensor, gradient: Tensor) -> None:
        """Takes the gradient, [n, O], of what was looked up."""
        self._gradient.index_add_(0, inputs, gradient)

    def gradients(self) -> tuple[Tensor, ...]:
        """Of the weight and the bias, summed over what went back."""
        gradient, self._gradient = self._gradient, torch.zeros_like(self._table)
        return gradient.mT, gradient.sum(0)


class Projection:
    """Products of inputs [n, X] and a weight [O, X], and a bias [O]."""

    def __init__(self, weight: Tensor, bias: Tensor, dtype: torch.dtype) -> None:
        self.weights = weight, bias
        self.size = len(bias)
        self._product = Product(weight, dtype)
        self._bias = bias.detach()
        self._gradient = torch.zeros_like(self._bias)

    def forward(self, inputs: Tensor) -> Tensor:
        """[n, O], in the type of the bias."""
        return self._product.forward(inputs.to(self._product.dtype)) + self._bias

    def backward(self, inputs: Tensor, gradient: Tensor) -> Tensor:
        """The gradient of the inputs, [n, X]."""
        self._gradient += gradient.sum(0)
        return self._product.backward(inputs.to(self._product.dtype), gradient).to(inputs.dtype)

    def gradients(self) -> tuple[Tensor, ...]:
        """Of the weight and the bias, summed over what went back."""
        gradient, self._gradient = self._gradient, torch.zeros_like(self._bias)
        return *self._product.gradients(), gradient


Inputs = Lookup | Projection
"""Products of the inputs of a window."""


def prepare_inputs(weight: Tensor, bias: Tensor, one_hot: bool) -> Inputs:
    """Products of inputs with a weight [O, X], and a bias [O]."""
    return Lookup(weight, bias) if one_hot else Projection(weight, bias, choose_dtype(weight))
