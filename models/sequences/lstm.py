"""LSTM (Hochreiter & Schmidhuber 1997), with layer normalisation and recurrent dropout.

Shapes: B sequences, n inputs, X numbers of an input, H units.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.sequences.deferred import DeferredWeight
from models.sequences.recurrent import GATES, Cell, CellUpdate, Recurrent, State, init_orthogonal


class LSTMCell(Cell):
    """One layer of an LSTM."""

    def __init__(self, input_size: int, hidden_size: int, layer_norm: bool, recurrent_dropout: float) -> None:
        super().__init__(input_size, hidden_size, recurrent_dropout)
        rows = len(GATES) * hidden_size
        self.weight_x = nn.Parameter(torch.empty(rows, input_size))
        self.weight_h = nn.Parameter(torch.empty(rows, hidden_size))
        self.bias = nn.Parameter(torch.zeros(rows))
        for weight in (self.weight_x, self.weight_h):
            init_orthogonal(weight)
        self.update = CellUpdate(hidden_size, layer_norm)

    @property
    def state_sizes(self) -> tuple[int, ...]:
        return self.hidden_size, self.hidden_size

    def project(self, inputs: Tensor) -> Tensor:
        """[n, 4H], biases included."""
        return project(inputs, self.weight_x) + self.bias

    def begin(self, watch: Callable[[Tensor], None] | None = None) -> Callable[[Tensor, State], State]:  # noqa: ARG002  # no scales
        weight = DeferredWeight(self.weight_h)
        masks = self.begin_masks()

        def step(given: Tensor, state: State) -> State:
            h, c = state
            gates = (given + weight.multiply(h)).unflatten(1, (len(GATES), -1))
            h, c = self.update(gates, c, masks)
            return h, c

        return step


class LSTM(Recurrent):
    """An LSTM that takes the place of `torch.nn.LSTM`. The state has S = H numbers."""

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        batch_first: bool = False,
        dropout: float = 0.0,
        layer_norm: bool = False,
        recurrent_dropout: float = 0.0,
    ) -> None:
        """Makes an LSTM.

        Args:
            input_size: X.
            hidden_size: H.
            num_layers: number of layers.
            batch_first: whether inputs and outputs are [B, T, …].
            dropout: share of the numbers between layers that are zeroed in training.
            layer_norm: whether each gate, and the cell that the output reads, are normalised.
            recurrent_dropout: share of the candidate's numbers that are zeroed at each step in training.
        """
        sizes = [input_size] + [hidden_size] * (num_layers - 1)
        cells = [LSTMCell(size, hidden_size, layer_norm, recurrent_dropout) for size in sizes]
        super().__init__(cells, batch_first, dropout)


def project(inputs: Tensor, weight: Tensor) -> Tensor:
    """Products of inputs and a weight [O, X], [n, O]; integers are one-hot inputs, whose products are looked up."""
    return inputs @ weight.mT if inputs.is_floating_point() else F.embedding(inputs, weight.mT)
