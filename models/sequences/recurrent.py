"""What LSTM and HyperLSTM share: the interface of `torch.nn.LSTM`, layers, packed sequences, and windows.

Shapes: T steps, B sequences, X numbers of an input, H units, S numbers of a state, L layers.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from models.sequences.masks import Masks
from models.sequences.products import GATES
from models.sequences.window import State, Steps, Watch, run_window


class Cell(nn.Module, ABC):
    """One layer: how it goes from a step to the next."""

    def __init__(self, input_size: int, hidden_size: int, recurrent_dropout: float) -> None:
        super().__init__()
        if not 0 <= recurrent_dropout < 1:
            raise ValueError(f"recurrent dropout must be at least 0 and less than 1, not {recurrent_dropout}")
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.recurrent_dropout = recurrent_dropout

    def begin_masks(self) -> Masks | None:
        """The masks of a window, if there is recurrent dropout."""
        if not (self.training and self.recurrent_dropout):
            return None
        return Masks(self.recurrent_dropout, next(self.parameters()))

    @property
    @abstractmethod
    def state_sizes(self) -> tuple[int, ...]:
        """Widths of the parts of the state: outputs and cells in turn."""

    @abstractmethod
    def begin(self, one_hot: bool, watch: Watch | None = None) -> Steps:
        """Prepares the weights for the steps of a window.

        Args:
            one_hot: whether inputs are integers, which stand for one-hot inputs.
            watch: sees the scaling vectors of each step, if the cell has them.
        """


@dataclass(frozen=True)
class Trace:
    """A pass with all that happened."""

    output: Tensor
    """[T, B, H]."""
    state: tuple[Tensor, Tensor]
    scales: Tensor
    """Factors of the rows of W_h and W_x, and biases, of the four gates in each layer: [L, T, B, 3, 4, H]. No gradients
    flow back through them."""


Advance = Callable[..., tuple[Tensor, tuple[Tensor, Tensor]]]
"""A step of all layers, as `Recurrent.begin` describes it."""


class Recurrent(nn.Module):
    """Layers of cells, which take and return what `torch.nn.LSTM` does.

    Inputs are [T, B, X], [B, T, X] with `batch_first`, [T, X] for one sequence, or a `PackedSequence`. Integers in the
    same shapes without X stand for one-hot inputs, whose products are looked up. A state is a pair (h, c), each
    [L, B, S]; its first H numbers are those of an LSTM. Gradients flow through a state unless it is detached.

    Under `torch.autocast` the large products are computed in its type; normalisation, gates and states keep theirs.
    """

    def __init__(self, cells: Sequence[Cell], batch_first: bool = False, dropout: float = 0.0) -> None:
        """Joins cells to a network.

        Args:
            cells: the layers, first to last.
            batch_first: whether inputs and outputs are [B, T, …].
            dropout: share of the numbers between layers that are zeroed in training.
        """
        super().__init__()
        self.layers = nn.ModuleList(cells)
        self.input_size, self.hidden_size = cells[0].input_size, cells[0].hidden_size
        self.num_layers = len(cells)
        self.batch_first = batch_first
        self.dropout = dropout

    def forward(
        self,
        input: Tensor | PackedSequence,  # noqa: A002  # torch.nn.LSTM's name
        hx: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Tensor | PackedSequence, tuple[Tensor, Tensor]]:
        """Outputs of the last layer, and the last state, as `torch.nn.LSTM.forward`.

        Raises:
            ValueError: if the input or the state does not fit.
        """
        if isinstance(input, PackedSequence):
            state = None if hx is None else _select(hx, input.sorted_indices)
            data, last = self._run(input.data, input.batch_sizes.tolist(), state)
            packed = PackedSequence(data, input.batch_sizes, input.sorted_indices, input.unsorted_indices)
            return packed, _select(last, input.unsorted_indices)
        steps, state = self._arrange(input, hx)
        output, last = self._run(steps.flatten(0, 1), [steps.shape[1]] * len(steps), state)
        output = output.view(*steps.shape[:2], self.hidden_size)
        if self._is_single(input):
            return output[:, 0], (last[0][:, 0], last[1][:, 0])
        return output.transpose(0, 1) if self.batch_first else output, last

    def trace(self, inputs: Tensor, hx: tuple[Tensor, Tensor] | None = None) -> Trace:
        """A pass over inputs [T, B, X] that keeps the scaling vectors of each step.

        Raises:
            ValueError: as `forward`, or if the cells have no scaling vectors.
        """
        seen: list[list[Tensor]] = [[] for _ in self.layers]
        steps, state = self._arrange(inputs, hx)
        output, last = self._run(
            steps.flatten(0, 1), [steps.shape[1]] * len(steps), state, [own.append for own in seen]
        )
        if not seen[0]:
            raise ValueError("an LSTM has the same weights at every step, so there are no scaling vectors")
        scales = torch.stack([torch.stack(own) for own in seen])
        return Trace(output.view(*steps.shape[:2], self.hidden_size), last, scales)

    def begin(self, one_hot: bool, watchers: Sequence[Watch] | None = None) -> "Advance":
        """Prepares the weights once for many steps without gradients, one call for each, as when text is written.

        The weights are those of now, in the type of `torch.autocast` if it is on now. Inputs are not checked.

        Args:
            one_hot: whether inputs are integers, which stand for one-hot inputs.
            watchers: see the scaling vectors of each step, one for each layer.

        Returns:
            A function of the inputs [B, X], or int64 [B], and the state, which gives the output [B, H] and the next
            state. Without a state it begins with zeros.
        """
        with torch.no_grad():
            layers = [
                (cell, cell.begin(one_hot and not number, watchers[number] if watchers else None))
                for number, cell in enumerate(self._cells)
            ]

        @torch.no_grad()
        def advance(inputs: Tensor, state: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
            lasts = []
            with torch.autocast(inputs.device.type, enabled=False):
                for number, (cell, steps) in enumerate(layers):
                    first = _open(cell, state, number, len(inputs))
                    last, _ = steps.forward(steps.inputs.prepare(inputs), first)
                    inputs = last[0]
                    lasts.append(last)
            return inputs, _close(lasts)

        return advance

    @property
    def _cells(self) -> list[Cell]:
        return [cell for cell in self.layers if isinstance(cell, Cell)]

    def _is_single(self, inputs: Tensor) -> bool:
        return inputs.dim() == (2 if inputs.is_floating_point() else 1)

    def _arrange(self, inputs: Tensor, hx: tuple[Tensor, Tensor] | None) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
        """The input as [T, B, …], and a state to match."""
        dims = 3 if inputs.is_floating_point() else 2
        if inputs.dim() not in (dims - 1, dims):
            raise ValueError(f"the input must have {dims - 1} or {dims} dimensions, not {inputs.dim()}")
        if self._is_single(inputs):
            return inputs[:, None], None if hx is None else (hx[0][:, None], hx[1][:, None])
        return inputs.transpose(0, 1) if self.batch_first else inputs, hx

    def _run(
        self,
        inputs: Tensor,
        batch_sizes: Sequence[int],
        state: tuple[Tensor, Tensor] | None,
        watchers: Sequence[Watch] | None = None,
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """All layers on inputs [steps × sequences, …], whose number of sequences never grows from step to step."""
        self._check(inputs, batch_sizes, state)
        lasts = []
        for number, cell in enumerate(self._cells):
            if number:
                inputs = F.dropout(inputs, self.dropout, self.training)
            first = _open(cell, state, number, batch_sizes[0])
            watch = watchers[number] if watchers else None
            steps = cell.begin(not inputs.is_floating_point(), watch)
            inputs, last = run_window(steps, inputs, batch_sizes, first)
            lasts.append(last)
        return inputs, _close(lasts)

    def _check(self, inputs: Tensor, batch_sizes: Sequence[int], state: tuple[Tensor, Tensor] | None) -> None:
        if not batch_sizes:
            raise ValueError("the input has no steps")
        if inputs.is_floating_point():
            if inputs.shape[-1] != self.input_size:
                raise ValueError(f"inputs must have {self.input_size} numbers, not {inputs.shape[-1]}")
        elif inputs.dtype != torch.int64:
            raise ValueError(f"one-hot inputs must be int64, not {inputs.dtype}")
        elif inputs.numel() and not 0 <= int(inputs.min()) <= int(inputs.max()) < self.input_size:
            raise ValueError(f"one-hot inputs must be from 0 to {self.input_size - 1}")
        expected = self.num_layers, batch_sizes[0], sum(self._cells[0].state_sizes[::2])
        for name, part in zip(("h", "c"), state or (), strict=False):
            if tuple(part.shape) != expected:
                raise ValueError(f"the state's {name} must have the shape {expected}, not {tuple(part.shape)}")


def _open(cell: Cell, state: tuple[Tensor, Tensor] | None, number: int, batch: int) -> State:
    """The state that a layer begins with; zeros if none is given."""
    if state is None:
        like = next(cell.parameters())
        return tuple(like.new_zeros(batch, size) for size in cell.state_sizes)
    outputs, cells = (part[number].split(list(cell.state_sizes[::2]), -1) for part in state)
    return tuple(part for pair in zip(outputs, cells, strict=True) for part in pair)


def _close(lasts: Sequence[State]) -> tuple[Tensor, Tensor]:
    """The states of all layers as a pair."""
    h, c = (torch.stack([torch.cat(last[part::2], -1) for last in lasts]) for part in (0, 1))
    return h, c


def _select(state: tuple[Tensor, Tensor], order: Tensor | None) -> tuple[Tensor, Tensor]:
    return state if order is None else (state[0].index_select(1, order), state[1].index_select(1, order))


def init_orthogonal(weight: Tensor, gates: int = len(GATES)) -> None:
    """Makes the rows of each gate of a weight [gates × n, m] orthogonal by themselves."""
    for part in weight.data.chunk(gates):
        nn.init.orthogonal_(part)
