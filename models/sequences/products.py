"""Products with the weights of a window, whose gradients of the weights are products over many steps.

Automatic differentiation would multiply the inputs and gradients of each step and add the results. Here each step puts
its pair aside, and many are multiplied at once, which a processor does several times as fast.

Shapes: n inputs of X numbers, B inputs of a step, U units with four gates each, I numbers given, O numbers made.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import chain

import torch
from torch import Tensor

GATES = ("input", "forget", "output", "candidate")
"""The gates of a cell, in the order of its weights."""

ROWS = 2048
"""Inputs that are multiplied at once: enough to be fast, few enough that they stay in a cache."""


def choose_dtype(weight: Tensor) -> torch.dtype:
    """The type for products with a weight: that of `torch.autocast` if it is on, else the weight's own."""
    kind = weight.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype


class Product:
    """Products with a weight [O, I], which is converted once to the type of the products."""

    def __init__(self, weight: Tensor, dtype: torch.dtype) -> None:
        self.weights = (weight,)
        self.dtype = dtype
        self._weight = weight.detach().to(dtype)
        self._gradient: Tensor | None = None
        self._waiting = 0
        self._inputs, self._made = (self._weight.new_empty(0, size) for size in (weight.shape[1], weight.shape[0]))

    def forward(self, inputs: Tensor) -> Tensor:
        """[B, O] from [B, I]."""
        return inputs.to(self.dtype) @ self._weight.mT

    def backward(self, inputs: Tensor, gradients: Sequence[Tensor]) -> Tensor:
        """The gradient of inputs [B, I], in the type of the products, from those of the columns that they made."""
        start, end = self._waiting, self._waiting + len(inputs)
        if end > len(self._inputs):
            self._multiply()
            start, end = 0, len(inputs)
        if end > len(self._inputs):
            rows = max(end, ROWS)
            self._inputs, self._made = (own.new_empty(rows, own.shape[1]) for own in (self._inputs, self._made))
        self._inputs[start:end].copy_(inputs)
        made: Tensor = self._made[start:end]
        for into, gradient in zip(made.split([own.shape[1] for own in gradients], 1), gradients, strict=True):
            into.copy_(gradient)
        self._waiting = end
        return made @ self._weight

    def gradients(self) -> tuple[Tensor | None, ...]:
        """Of the weight, summed over what went back."""
        self._multiply()
        gradient, self._gradient = self._gradient, None
        return (gradient,)

    def _multiply(self) -> None:
        """Adds what waits to the gradient."""
        if self._waiting and self.weights[0].requires_grad:
            product = self._made[: self._waiting].mT @ self._inputs[: self._waiting]
            if self._gradient is None:
                self._gradient = product.to(self.weights[0].dtype)
            else:
                self._gradient += product
        self._waiting = 0


class Inputs(ABC):
    """Products of inputs and weights [4·U, X], and biases [4·U], of several groups of four gates."""

    def __init__(self, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> None:
        self.weights = *weights, *biases

    @abstractmethod
    def prepare(self, inputs: Tensor) -> Tensor:
        """What is given to steps, [n, …], for inputs [n, …]."""

    @abstractmethod
    def forward(self, given: Tensor, group: int = 0) -> Tensor:
        """Products of a step for a group, [4, B, U]."""

    @abstractmethod
    def backward(self, given: Tensor, gradients: Sequence[Sequence[Tensor]]) -> None:
        """Puts aside the gradients of a step's products, four times [B, U] for each group."""

    @abstractmethod
    def finish(self, inputs: Tensor) -> Tensor | None:
        """The gradient of inputs whose steps all went back, last to first."""

    @abstractmethod
    def gradients(self) -> tuple[Tensor | None, ...]:
        """Of weights and biases, summed over what went back."""


class Lookup(Inputs):
    """One-hot inputs, given as integers."""

    def __init__(self, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> None:
        super().__init__(weights, biases)
        tables = (weight.detach().mT + bias.detach() for weight, bias in zip(weights, biases, strict=True))
        self._tables: list[Tensor] = [
            table.unflatten(1, (len(GATES), -1)).transpose(0, 1).contiguous() for table in tables
        ]
        self._gradients: list[Tensor] = []

    def prepare(self, inputs: Tensor) -> Tensor:
        return inputs

    def forward(self, given: Tensor, group: int = 0) -> Tensor:
        return self._tables[group].index_select(1, given)

    def backward(self, given: Tensor, gradients: Sequence[Sequence[Tensor]]) -> None:
        self._gradients = self._gradients or [torch.zeros_like(table) for table in self._tables]
        for into, gradient in zip(chain(*self._gradients), chain(*gradients), strict=True):
            into.index_add_(0, given, gradient)

    def finish(self, inputs: Tensor) -> None:
        """None: integers have no gradient."""

    def gradients(self) -> tuple[Tensor | None, ...]:
        found, self._gradients = self._gradients, []
        return *(own.mT.flatten(0, 1) for own in found), *(own.sum(1).flatten() for own in found)


class Projection(Inputs):
    """Inputs that are multiplied."""

    def __init__(self, weights: Sequence[Tensor], biases: Sequence[Tensor], dtype: torch.dtype) -> None:
        super().__init__(weights, biases)
        self._sizes = [len(bias) for bias in biases]
        self._product = Product(torch.cat(list(weights)), dtype)
        self._bias = torch.cat(list(biases)).detach()
        self._gradients: list[Tensor] = []
        self._bias_gradients: list[Tensor] = []

    def prepare(self, inputs: Tensor) -> Tensor:
        return self._product.forward(inputs) + self._bias

    def forward(self, given: Tensor, group: int = 0) -> Tensor:
        own: Tensor = given.split(self._sizes, 1)[group].unflatten(1, (len(GATES), -1)).transpose(0, 1)
        return own.clone(memory_format=torch.contiguous_format)

    def backward(self, given: Tensor, gradients: Sequence[Sequence[Tensor]]) -> None:  # noqa: ARG002  # they are linear
        self._gradients.append(torch.cat([*chain(*gradients)], dim=1))

    def finish(self, inputs: Tensor) -> Tensor:
        gradient = torch.cat(self._gradients[::-1])
        self._gradients.clear()
        self._bias_gradients.append(gradient.sum(0))
        return self._product.backward(inputs, [gradient]).to(inputs.dtype)

    def gradients(self) -> tuple[Tensor | None, ...]:
        bias, self._bias_gradients = torch.stack(self._bias_gradients).sum(0), []
        (weight,) = self._product.gradients()
        weights = [None] * len(self._sizes) if weight is None else weight.split(self._sizes)
        return *weights, *bias.split(self._sizes)


def prepare_inputs(weights: Sequence[Tensor], biases: Sequence[Tensor], one_hot: bool) -> Inputs:
    """Products of inputs with weights [4·U, X], and biases [4·U], of several groups of gates."""
    return Lookup(weights, biases) if one_hot else Projection(weights, biases, choose_dtype(weights[0]))
