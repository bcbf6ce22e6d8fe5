"""Products with the weights of a window, whose gradients of the weights are products over many steps.

Automatic differentiation would multiply the inputs and gradients of each step and add the results. Here each step puts
its pair aside, and many are multiplied at once, which a processor does several times as fast.

Shapes: n inputs of X numbers, B inputs of a step, U units with four gates each, I numbers given, O numbers made.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

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

    def place(self, inputs: Tensor) -> Tensor:
        """Where the gradient of what inputs [B, I] made has to be written before it goes back, [B, O]."""
        start, end = self._waiting, self._waiting + len(inputs)
        if end > len(self._inputs):
            self._multiply()
            start, end = 0, len(inputs)
        if end > len(self._inputs):
            rows = max(end, ROWS)
            self._inputs, self._made = (own.new_empty(rows, own.shape[1]) for own in (self._inputs, self._made))
        self._inputs[start:end].copy_(inputs)
        self._waiting = end
        return self._made[start:end]

    def backward(self, gradient: Tensor) -> Tensor:
        """The gradient of the inputs, [B, I], in the type of the products, from that of what they made."""
        return gradient @ self._weight

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
    def forward(self, given: Tensor, group: int = 0) -> Iterator[Tensor]:
        """Products of a step for each gate of a group in turn, contiguous [B, U]."""

    @abstractmethod
    def backward(self, given: Tensor, gate: int, gradient: Tensor, group: int = 0) -> None:
        """Takes the gradient of a gate's products, [B, U]. Groups, and the gates of each, come in their order."""

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

    def forward(self, given: Tensor, group: int = 0) -> Iterator[Tensor]:
        return (table.index_select(0, given) for table in self._tables[group])

    def backward(self, given: Tensor, gate: int, gradient: Tensor, group: int = 0) -> None:
        self._gradients = self._gradients or [torch.zeros_like(table) for table in self._tables]
        self._gradients[group][gate].index_add_(0, given, gradient)

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

    def forward(self, given: Tensor, group: int = 0) -> Iterator[Tensor]:
        parts = given.split(self._sizes, 1)[group].chunk(len(GATES), 1)
        return (part.clone(memory_format=torch.contiguous_format) for part in parts)

    def backward(self, given: Tensor, gate: int, gradient: Tensor, group: int = 0) -> None:  # noqa: ARG002  # in order
        self._gradients.append(gradient.to(self._product.dtype, copy=True))

    def finish(self, inputs: Tensor) -> Tensor:
        each = len(GATES) * len(self._sizes)
        steps = [self._gradients[start : start + each] for start in range(0, len(self._gradients), each)]
        self._gradients.clear()
        gradient = self._product.place(inputs)
        torch.cat([torch.cat(own, 1) for own in reversed(steps)], out=gradient)
        self._bias_gradients.append(gradient.sum(0, dtype=self._bias.dtype))
        return self._product.backward(gradient).to(inputs.dtype)

    def gradients(self) -> tuple[Tensor | None, ...]:
        bias, self._bias_gradients = torch.stack(self._bias_gradients).sum(0), []
        (weight,) = self._product.gradients()
        weights = [None] * len(self._sizes) if weight is None else weight.split(self._sizes)
        return *weights, *bias.split(self._sizes)


def prepare_inputs(weights: Sequence[Tensor], biases: Sequence[Tensor], one_hot: bool) -> Inputs:
    """Products of inputs with weights [4·U, X], and biases [4·U], of several groups of gates."""
    return Lookup(weights, biases) if one_hot else Projection(weights, biases, choose_dtype(weights[0]))
