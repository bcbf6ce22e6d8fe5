"""A window of steps as one differentiable function, whose way back is written by hand.

Shapes: n inputs (those of all sequences at the first step, then at the second, and so on), B sequences of a step,
X numbers of an input, O numbers that a product with it makes, H units.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from models.sequences.products import ROWS, Inputs

State = tuple[Tensor, ...]
"""What a cell carries from step to step, each [B, …]. The first is its output."""

Saved = Sequence[Any]
"""Tensors of a step that the way back needs, or None in the place of one; equally many of each step of a window."""

Watch = Callable[[Tensor], None]
"""Is called at each step with its factors of the rows of W_h and W_x of the four gates, [B, 2, 4, H]."""


class Part(Protocol):
    """What steps are made of."""

    @property
    def weights(self) -> tuple[Tensor, ...]:
        """As automatic differentiation made them of a cell's parameters."""

    def gradients(self) -> tuple[Tensor | None, ...]:
        """Of the weights, summed over the steps that went back since this was asked."""


class Steps(ABC):
    """The steps of a cell, there and back, with weights prepared for many of them."""

    def __init__(self, inputs: Inputs, *parts: Part) -> None:
        self.inputs = inputs
        self.parts: tuple[Part, ...] = (inputs, *parts)

    @abstractmethod
    def forward(self, given: Tensor, state: State) -> tuple[State, Saved]:
        """The state after a step, and what `backward` needs.

        Args:
            given: what the inputs prepared for the step, [B, …].
            state: the one before.
        """

    @abstractmethod
    def backward(self, given: Tensor, saved: Saved, gradients: State) -> State:
        """Gradients of the state before a step, from those of the state after it; all others are put aside."""


def run_window(steps: Steps, inputs: Tensor, batch_sizes: Sequence[int], state: State) -> tuple[Tensor, State]:
    """Outputs of all steps, [n, H], and the last state of each sequence.

    Args:
        steps: the cell's.
        inputs: [n, X], or int64 [n].
        batch_sizes: numbers of sequences of each step, which never grow. Those that end are the last ones.
        state: the one before the first step.
    """
    weights = tuple(chain.from_iterable(part.weights for part in steps.parts))
    with torch.autocast(inputs.device.type, enabled=False):  # steps know their types
        if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (inputs, *state, *weights)):
            outputs, *last = _Window.apply(steps, batch_sizes, len(state), inputs, *state, *weights)  # type: ignore[no-untyped-call]  # as PyTorch declares none
            return outputs, tuple(last)
        return _run(steps, inputs, batch_sizes, state)


def _run(
    steps: Steps, inputs: Tensor, batch_sizes: Sequence[int], state: State, saved: list[Saved] | None = None
) -> tuple[Tensor, State]:
    """As `run_window`, without gradients. What each step needs to go back is added to `saved`."""
    outputs, ended = [], []
    for rows, piece in _cut(batch_sizes):
        for given in steps.inputs.prepare(inputs[rows]).split(piece):
            if len(given) < len(state[0]):
                ended.append(tuple(part[len(given) :] for part in state))
                state = tuple(part[: len(given)] for part in state)
            state, needed = steps.forward(given, state)
            outputs.append(state[0])
            if saved is not None:
                saved.append((given, *needed))
    ended.append(state)
    return torch.cat(outputs), tuple(torch.cat(parts) for parts in zip(*reversed(ended), strict=True))


class _Window(Function):
    @staticmethod
    def forward(
        ctx: Any, steps: Steps, batch_sizes: Sequence[int], parts: int, inputs: Tensor, *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        saved: list[Saved] = []
        outputs, last = _run(steps, inputs, batch_sizes, tensors[:parts], saved)
        ctx.steps, ctx.batch_sizes = steps, batch_sizes
        ctx.save_for_backward(inputs, *chain.from_iterable(saved))
        return outputs, *last

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, output_gradients: Tensor, *state: Tensor) -> tuple[Tensor | None, ...]:
        inputs, *saved = ctx.saved_tensors
        each = len(saved) // len(ctx.batch_sizes)
        kept = [saved[start : start + each] for start in range(0, len(saved), each)]
        with torch.autocast(inputs.device.type, enabled=False):
            input_gradient, state = _run_back(ctx.steps, inputs, ctx.batch_sizes, kept, output_gradients, state)
            weights = chain.from_iterable(part.gradients() for part in ctx.steps.parts)
            return None, None, None, input_gradient, *state, *weights


def _run_back(
    steps: Steps,
    inputs: Tensor,
    batch_sizes: Sequence[int],
    kept: Sequence[Saved],
    output_gradients: Tensor,
    last: State,
) -> tuple[Tensor | None, State]:
    """Gradients of the inputs, if they have any, and of the first state, from those of the outputs and the last."""
    found: list[Tensor | None] = []
    state = tuple(part[:0] for part in last)
    before = iter(reversed(kept))
    for rows, piece in reversed(_cut(batch_sizes)):
        for output in reversed(output_gradients[rows].split(piece)):
            if len(state[0]) < len(output):
                state = tuple(torch.cat([a, b[len(a) : len(output)]]) for a, b in zip(state, last, strict=True))
            given, *saved = next(before)
            state = steps.backward(given, saved, (state[0] + output, *state[1:]))
        found.append(steps.inputs.finish(inputs[rows]))
    gradients = [gradient for gradient in reversed(found) if gradient is not None]
    return torch.cat(gradients) if gradients else None, state


def _cut(batch_sizes: Sequence[int]) -> list[tuple[slice, list[int]]]:
    """Pieces of a window, with about as many inputs as are best multiplied at once: their rows and batch sizes."""
    pieces: list[tuple[slice, list[int]]] = []
    start = 0
    piece: list[int] = []
    for size in batch_sizes:
        if piece and sum(piece) + size > ROWS:
            pieces.append((slice(start, start := start + sum(piece)), piece))
            piece = []
        piece.append(size)
    return [*pieces, (slice(start, start + sum(piece)), piece)]
