"""A network for sequences: from what was seen so far to the numbers that describe what comes next.

Shapes: T steps, B sequences, X numbers of an input, H units, K outputs, S networks.
"""

from collections.abc import Callable, Sequence
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from typing_extensions import TypeAliasType

from models.meta import building_empty
from models.schema import STRICT, Shape, Size
from models.sequences.hyper_lstm import GENERATORS, HyperLSTM
from models.sequences.lstm import LSTM
from models.sequences.recurrent import Cell, Recurrent
from models.sequences.window import State, Watch

Rate = Annotated[float, Field(ge=0, lt=1)]
MOST_LAYERS = 16

LayerStates = list[State]
"""The state of each layer, first to last. The sequences are the first axis of every part."""

Step = Callable[[Tensor, LayerStates], tuple[Tensor, LayerStates]]
"""Goes one step on: from an input [B, X], or int64 [B], and a state, to outputs [B, K] and the next state."""


@dataclass(frozen=True, config=STRICT)
class LSTMSize:
    """Sizes of an LSTM."""

    hidden_size: Size
    """H."""
    num_layers: Annotated[int, Field(ge=1, le=MOST_LAYERS)] = 1
    layer_norm: bool = True
    cell: Literal["lstm"] = "lstm"

    def build(self, input_size: int, dropout: "Dropout") -> LSTM:
        return LSTM(
            input_size,
            self.hidden_size,
            self.num_layers,
            dropout=dropout.output,
            layer_norm=self.layer_norm,
            recurrent_dropout=dropout.recurrent,
        )


@dataclass(frozen=True, config=STRICT)
class HyperLSTMSize:
    """Sizes of a HyperLSTM."""

    hidden_size: Size
    """H."""
    num_layers: Annotated[int, Field(ge=1, le=MOST_LAYERS)] = 1
    hyper_size: Size = 128
    """N, the units of the small LSTM."""
    embedding_size: Size = 4
    """Z, the numbers from which the scales of a gate's rows are made."""
    layer_norm: bool = True
    cell: Literal["hyper_lstm"] = "hyper_lstm"

    def build(self, input_size: int, dropout: "Dropout") -> HyperLSTM:
        return HyperLSTM(
            input_size,
            self.hidden_size,
            self.num_layers,
            hyper_size=self.hyper_size,
            embedding_size=self.embedding_size,
            dropout=dropout.output,
            layer_norm=self.layer_norm,
            recurrent_dropout=dropout.recurrent,
        )


CellSize = TypeAliasType("CellSize", Annotated[LSTMSize | HyperLSTMSize, Field(discriminator="cell")])


@dataclass(frozen=True, config=STRICT)
class Dropout:
    """Shares of numbers that are zeroed in training."""

    input: Rate = 0.0
    recurrent: Rate = 0.0
    """Of the candidates of each step, with a new mask (Semeniuta et al., 2016)."""
    output: Rate = 0.0
    """Of the outputs of each layer."""


NO_DROPOUT = Dropout()


@dataclass(frozen=True, config=STRICT)
class SequenceTarget:
    """The target network of a model for sequences: data, from which its parameters and modules come."""

    size: CellSize
    input_size: Size
    """X; the number of symbols for one-hot inputs."""
    num_outputs: Size
    """K."""

    def build(self, dropout: Dropout = NO_DROPOUT) -> "SequenceNetwork":
        """A plain module of the network."""
        return SequenceNetwork(self, dropout)

    @property
    def parameter_shapes(self) -> dict[str, Shape]:
        """Shape of each parameter, by name."""
        with building_empty():
            return {name: tuple(tensor.shape) for name, tensor in self.build().state_dict().items()}

    @property
    def source(self) -> str:
        """Python source, including imports, that creates the network under the name `network`."""
        size = type(self.size).__name__
        return f"from models.sequences.network import {size}, SequenceTarget\n\nnetwork = {self!r}.build()"

    @property
    def own_names(self) -> tuple[str, ...]:
        """Parameters in which networks differ that share all others: those of the output, and those that scale the
        weights of a step. An LSTM has none of the latter."""
        layers = range(self.size.num_layers) if isinstance(self.size, HyperLSTMSize) else ()
        generators = [f"recurrent.layers.{layer}.{name}" for layer in layers for name in GENERATORS]
        return (*generators, "output.weight", "output.bias")


class Output(nn.Module):
    """The linear layer after the last cell. Its parameters may be those of S networks, as a cell's generators may."""

    def __init__(self, hidden_size: int, num_outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_outputs, hidden_size))
        self.bias = nn.Parameter(torch.zeros(num_outputs))
        nn.init.xavier_uniform_(self.weight)

    def forward(self, hidden: Tensor) -> Tensor:
        """[…, S·B, K] from […, S·B, H]."""
        if self.weight.dim() == 2:
            return F.linear(hidden, self.weight, self.bias)
        rows = hidden.unflatten(-2, (len(self.weight), -1)).transpose(-3, 0).flatten(1, -2)  # [S, …·B, H]
        outputs = torch.baddbmm(self.bias[:, None], rows, self.weight.mT)
        whole = outputs.view(len(self.weight), *hidden.shape[:-2], -1, outputs.shape[-1])
        return whole.movedim(0, -3).flatten(-3, -2)


class SequenceNetwork(nn.Module):
    """A recurrent network and an output layer."""

    def __init__(self, target: SequenceTarget, dropout: Dropout) -> None:
        super().__init__()
        self.recurrent: Recurrent = target.size.build(target.input_size, dropout)
        self.output = Output(target.size.hidden_size, target.num_outputs)
        self.dropout = dropout

    def forward(
        self, inputs: Tensor, state: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Outputs [T, B, K] and the last state, from inputs [T, B, X] or int64 [T, B]."""
        if self.training and self.dropout.input:
            if not inputs.is_floating_point():
                inputs = F.one_hot(inputs, self.recurrent.input_size).to(self.output.weight.dtype)
            inputs = F.dropout(inputs, self.dropout.input)
        hidden, state = self.recurrent(inputs, state)
        return self.output(F.dropout(hidden, self.dropout.output, self.training)), state

    def open(self, sequences: int) -> LayerStates:
        """The state before the first step of some sequences: zeros."""
        return [
            tuple(self.output.weight.new_zeros(sequences, size) for size in cell.state_sizes) for cell in self.cells
        ]

    def begin(self, one_hot: bool, watchers: Sequence[Watch | None] | None = None) -> Step:
        """Prepares weights once, and returns the function that makes a step, without gradients.

        Args:
            one_hot: whether inputs are integers, which stand for one-hot inputs.
            watchers: one for each layer, or None; it is called with the factors of the rows of W_h and W_x and the
                biases of each step, [B, 3, 4, H].
        """
        watchers = watchers or [None] * len(self.cells)
        layers = [
            cell.begin(one_hot and not number, watch)
            for number, (cell, watch) in enumerate(zip(self.cells, watchers, strict=True))
        ]

        def step(inputs: Tensor, states: LayerStates) -> tuple[Tensor, LayerStates]:
            after = []
            for steps, state in zip(layers, states, strict=True):
                state, _ = steps.forward(steps.inputs.prepare(inputs), state)
                after.append(state)
                inputs = state[0]
            return self.output(inputs), after

        return torch.no_grad()(step)

    @property
    def cells(self) -> list[Cell]:
        """The layers, first to last."""
        return [cell for cell in self.recurrent.layers if isinstance(cell, Cell)]
