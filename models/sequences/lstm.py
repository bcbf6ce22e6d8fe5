"""LSTM (Hochreiter & Schmidhuber 1997), with layer normalisation and recurrent dropout.

Shapes: B sequences, n inputs, X numbers of an input, H units.
"""

import torch
from torch import Tensor, nn

from models.sequences.products import GATES, Inputs, Product, choose_dtype, prepare_inputs
from models.sequences.recurrent import Cell, Recurrent, init_orthogonal
from models.sequences.update import CellUpdate, Update, add_by_gate
from models.sequences.window import Saved, State, Steps, Watch


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

    def begin(self, one_hot: bool, watch: Watch | None = None) -> "LSTMSteps":  # noqa: ARG002  # no scales
        return LSTMSteps(
            prepare_inputs([self.weight_x], [self.bias], one_hot),
            Product(self.weight_h, choose_dtype(self.weight_h)),
            self.update.begin(self.begin_masks()),
        )


class LSTMSteps(Steps):
    """Steps of an LSTM."""

    def __init__(self, inputs: Inputs, recurrent: Product, update: Update) -> None:
        super().__init__(inputs, recurrent, update)
        self._recurrent, self._update = recurrent, update

    def forward(self, given: Tensor, state: State) -> tuple[State, Saved]:
        h, c = state
        gates = list(self.inputs.forward(given))
        add_by_gate(gates, self._recurrent.forward(h))
        output, c, saved = self._update.forward(gates, c)
        return (output, c), (h, *saved)

    def backward(self, given: Tensor, saved: Saved, gradients: State) -> State:
        h, *saved = saved
        gates, c_gradient = self._update.backward(saved, *gradients)
        made = self._recurrent.place(h)
        for k, (gate, into) in enumerate(zip(gates, made.chunk(len(GATES), 1), strict=True)):
            self.inputs.backward(given, k, gate)
            into.copy_(gate)
        return self._recurrent.backward(made), c_gradient


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
