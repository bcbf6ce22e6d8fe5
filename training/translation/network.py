"""An encoder and a decoder with attention, of LSTM or HyperLSTM cells.

The encoder has one layer in each direction (Schuster & Paliwal 1997). The decoder has one layer, whose outputs look at
the encoder's by the "general" global attention of Luong, Pham & Manning ("Effective Approaches to Attention-based
Neural Machine Translation", 2015, section 3.1). Their input feeding is left out: without it, the decoder reads a whole
target in one window when it is trained, which is much faster.

Shapes: B sentences, S steps of sources, T steps of targets, Q queries of a sentence, E numbers of a symbol's embedding,
H units, P numbers of a state, V symbols of targets.
"""

import dataclasses
from enum import StrEnum
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence, pad_sequence

from models.schema import STRICT, Size
from models.sequences.hyper_lstm import HyperLSTM
from models.sequences.lstm import LSTM
from models.sequences.recurrent import Cell, Recurrent
from training.translation.vocabulary import END, Vocabulary

State = tuple[Tensor, Tensor]
"""Of the decoder, [1, B, P] each."""

Share = Annotated[float, Field(ge=0, lt=1)]


class CellKind(StrEnum):
    """Kind of the recurrent cells, all with layer normalisation."""

    LSTM = "lstm"
    HYPER_LSTM = "hyper-lstm"


@dataclass(frozen=True, config=STRICT)
class TranslatorConfig:
    """Everything that a network's parameters need to translate texts."""

    cell: CellKind
    hidden: Size
    """H."""
    hyper: Size
    """Units of the small cell of a HyperLSTM."""
    embedding: Size
    """Numbers of the embeddings that make the weights of a HyperLSTM."""
    symbol: Size
    """E."""
    dropout: Share
    """Share of the embeddings of symbols, and of the numbers that make the output, that are zeroed in training."""
    recurrent_dropout: Share
    """Share of a cell's candidate that is zeroed at each step in training."""
    longest: Size
    """Most symbols of a translation, with its end."""
    source: Vocabulary
    target: Vocabulary

    def make_cells(self) -> Recurrent:
        """A layer of cells."""
        if self.cell is CellKind.LSTM:
            return LSTM(self.symbol, self.hidden, layer_norm=True, recurrent_dropout=self.recurrent_dropout)
        return HyperLSTM(
            self.symbol,
            self.hidden,
            hyper_size=self.hyper,
            embedding_size=self.embedding,
            recurrent_dropout=self.recurrent_dropout,
        )


@dataclasses.dataclass(frozen=True)
class Texts:
    """Symbols of sentences, each with its end."""

    symbols: Tensor
    """[B, S], with ends after the last symbol."""
    lengths: Tensor
    """[B]."""

    @property
    def real(self) -> Tensor:
        """Which symbols belong to the sentences, [B, S]."""
        steps = torch.arange(self.symbols.shape[1], device=self.symbols.device)
        return steps < self.lengths[:, None]


@dataclasses.dataclass(frozen=True)
class Batch:
    """Sentences and their translations."""

    sources: Texts
    targets: Texts

    @property
    def num_symbols(self) -> int:
        """Number of symbols of both sides."""
        return int(self.sources.lengths.sum() + self.targets.lengths.sum())


@dataclasses.dataclass(frozen=True)
class Memory:
    """What attention looks at."""

    values: Tensor
    """Outputs of both directions of the encoder, [B, S, 2H]."""
    keys: Tensor
    """The same as queries are compared with, [B, S, H]."""
    real: Tensor
    """Which steps belong to the sentences, [B, S]."""

    def select(self, sentences: Tensor) -> "Memory":
        """The memory of some of the sentences."""
        return Memory(self.values[sentences], self.keys[sentences], self.real[sentences])


class Translator(nn.Module):
    """The network."""

    def __init__(self, config: TranslatorConfig) -> None:
        super().__init__()
        self.config = config
        hidden = config.hidden
        self.source_symbols = nn.Embedding(config.source.size, config.symbol)
        self.target_symbols = nn.Embedding(config.target.size, config.symbol)
        self.onward, self.backward_, self.decoder = (config.make_cells() for _ in range(3))
        cell = self.decoder.layers[0]
        assert isinstance(cell, Cell)
        self.bridge = nn.Linear(2 * hidden, 2 * sum(cell.state_sizes[::2]))
        self.align = nn.Linear(2 * hidden, hidden, bias=False)
        self.combine = nn.Linear(3 * hidden, hidden, bias=False)
        self.readout = nn.Linear(hidden, config.target.size)

    def forward(self, batch: Batch) -> Tensor:
        """Logits [n, V] of the n symbols of the targets, given the sources and the symbols before."""
        memory, state = self.encode(batch.sources)
        given = F.pad(batch.targets.symbols[:, :-1], (1, 0), value=END)
        outputs, _ = self._read(self.decoder, self._embed(self.target_symbols, given), batch.targets.lengths, state)
        return self.readout(self._attend(outputs, memory)[batch.targets.real])  # type: ignore[no-any-return]

    def encode(self, sources: Texts) -> tuple[Memory, State]:
        """What the decoder needs of the sources: a memory, and the state that it begins with."""
        steps = torch.arange(sources.symbols.shape[1], device=sources.symbols.device)
        turned = torch.where(sources.real, sources.lengths[:, None] - 1 - steps, steps)[..., None]
        embedded = self._embed(self.source_symbols, sources.symbols)
        onward, last = self._read(self.onward, embedded, sources.lengths)
        turned_symbols = embedded.gather(1, turned.expand_as(embedded))
        backward, first = self._read(self.backward_, turned_symbols, sources.lengths)
        values = torch.cat([onward, backward.gather(1, turned.expand_as(backward))], -1)
        ends = torch.cat([state[0][0, :, : self.config.hidden] for state in (last, first)], -1)
        h, c = self.bridge(ends)[None].chunk(2, -1)
        return Memory(values, self.align(values), sources.real), (h.tanh(), c)

    def advance(self, symbols: Tensor, state: State, memory: Memory) -> tuple[Tensor, State]:
        """A step of the decoder for Q hypotheses of each sentence.

        Args:
            symbols: their last symbols, [B, Q].
            state: their states, [B, Q, P] each.
            memory: of the B sentences.

        Returns:
            Logarithms of the next symbols' probabilities [B, Q, V], and the next states.
        """
        embedded = self._embed(self.target_symbols, symbols).flatten(0, 1)
        h, c = (part.flatten(0, 1)[None] for part in state)
        outputs, (h, c) = self.decoder(embedded[None], (h, c))
        logits = self.readout(self._attend(outputs.view(*symbols.shape, -1), memory))
        return logits.log_softmax(-1), (h.view(*symbols.shape, -1), c.view(*symbols.shape, -1))

    def _embed(self, embedding: nn.Module, symbols: Tensor) -> Tensor:
        return F.dropout(embedding(symbols), self.config.dropout, self.training)

    def _read(
        self, cells: Recurrent, inputs: Tensor, lengths: Tensor, state: State | None = None
    ) -> tuple[Tensor, State]:
        """Outputs [B, S, H] of inputs [B, S, E], and each sentence's last state."""
        packed = pack_padded_sequence(inputs, lengths.cpu(), batch_first=True, enforce_sorted=False)
        outputs, last = cells(packed, state)
        assert isinstance(outputs, PackedSequence)
        return pad_packed_sequence(outputs, batch_first=True)[0], last

    def _attend(self, queries: Tensor, memory: Memory) -> Tensor:
        """What the readout sees for queries [B, Q, H]: [B, Q, H]."""
        scores = queries @ memory.keys.mT
        shares = scores.masked_fill(~memory.real[:, None], -torch.inf).softmax(-1)
        seen = self.combine(torch.cat([shares @ memory.values, queries], -1)).tanh()
        return F.dropout(seen, self.config.dropout, self.training)


def collate(sentences: list[list[int]], device: torch.device) -> Texts:
    """Sentences without their ends, as they are read by a network."""
    ended = [torch.tensor([*symbols, END]) for symbols in sentences]
    lengths = torch.tensor([len(symbols) for symbols in ended])
    return Texts(pad_sequence(ended, batch_first=True, padding_value=END).to(device), lengths.to(device))
