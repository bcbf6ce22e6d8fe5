"""Sequences of a model that go on together: each step of the networks gives every one of them its next element.

Reading what a client has given, writing more and scoring are the same: at each step, a sequence's networks see its last
element, and the next is given or drawn. So all sequences share steps, wherever they are, and join and leave at any.

Shapes: S networks of a sequence, R rows of a step (a row for each network of each sequence), H units.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from models.device import limit_threads
from models.sequences.frozen import Outlook, freeze
from models.sequences.hyper_lstm import HyperLSTMCell
from models.sequences.network import LayerStates, SequenceNetwork, Step
from models.sequences.products import GATES
from models.sequences.sampler import SequenceSampler
from models.sequences.sketching import StrokesScript, StrokesWriter
from models.sequences.writing import Integers, Sampling, Stops, TextScript, TextWriter
from models.tasks.probabilities import NotFiniteError

NOISE_BLOCK = 256
"""Positions for which random numbers are drawn at a time."""

FIRST_SECONDS = 1e-4
"""Seconds of a step for each row, before it was measured."""

MOST_PADDING = 1.5
"""Most rows of a step, in rows that are needed. The others let networks have equally many rows, or are those of
sequences that have left."""

FinishReason = Literal["stop", "length", "end"]
"""Why a sequence has ended: by a stop string, its length, or its last element."""

Script = TextScript | StrokesScript
"""How a model's networks read and write elements of its kind."""

Network = tuple[float, ...]
"""The latent of a network, which tells it from others."""


class Element(NamedTuple):
    """An element of a sequence and what its networks said of it before they knew it."""

    value: Any
    """The number of a symbol, or a point: Δx, Δy, and whether the pen is lifted and the drawing ends after it."""
    measures: list[float]
    """The script's measures."""
    changes: list[float] | None
    """How much the weights of each gate changed, if asked for."""
    likely: list[tuple[int, float]] | None = None
    """For text, the most probable symbols and the logarithms of their probabilities in nats, if asked for."""


@dataclass(eq=False)
class LiveSequence:
    """A sequence that goes on."""

    networks: list[Network]
    """Its S networks."""
    given: Sequence[Any]
    """Its first elements, if they are known."""
    length: int
    """Number of elements after which it ends."""
    sampling: Sampling
    stops: Stops | None = None
    first: int = 0
    """Position of the first element to report."""
    changes: bool = False
    """Whether to report how much weights change."""
    likely: int = 0
    """Number of the most probable symbols to report with each element."""
    keeps: bool = False
    """Whether its state is kept when it has ended, for `LiveSequences.look_ahead`."""
    last: Any = None
    """The element that the networks see next; None for what comes before the first."""
    position: int = 0
    """Number of elements so far."""
    fresh: list[Element] = field(default_factory=list)
    """Reported elements that nobody has taken yet."""
    written: str = ""
    """The end of what was drawn, as far as stop strings need it."""
    ended: FinishReason | None = None
    cut: int = 0
    """Number of last elements that belong to a stop string."""
    error: NotFiniteError | None = None
    """Why it cannot go on, if so."""
    _noise: list[Any] = field(default_factory=list)
    _state: LayerStates | None = None
    """State of its networks while it is not among those that go on."""

    @property
    def finished(self) -> bool:
        return self.ended is not None or self.error is not None

    def take(self, element: Element, ends: bool = False) -> bool:
        """Takes the next element, with which the sequence may end. Returns whether it is the last, or the first to
        report."""
        position = self.position
        self.position = position + 1
        self.last = element.value
        if position >= self.first:
            self.fresh.append(element)
        if self.stops is not None and position >= len(self.given):
            self.written = self.stops.append(self.written, element.value)
            if cut := self.stops.find(self.written):
                self.cut, self.ended = cut, "stop"
                return True
        if ends:
            self.ended = "end"
            return True
        if self.position == self.length:
            self.ended = "length"
            return True
        return position == self.first

    def draw_noise(self, script: Script) -> Any:
        """The random numbers for the next element."""
        index = self.position % NOISE_BLOCK
        if not index or not self._noise:
            start = self.position - index
            self._noise = script.draw_noise(self.sampling, range(start, start + NOISE_BLOCK))
        return self._noise[index]


class LiveSequences:
    """The sequences of a model that go on. Its owner decides who steps; it is not thread-safe."""

    def __init__(self, sampler: SequenceSampler, script: Script) -> None:
        self._sampler = sampler
        self._script = script
        parameter = next(sampler.parameters())
        self._device = parameter.device
        self._input_type = torch.int64 if script.one_hot else parameter.dtype
        self._num_weights = sum(math.prod(shape) for shape in sampler.config.target.parameter_shapes.values())
        self._sequences: list[LiveSequence] = []
        self._networks: tuple[Network, ...] = ()
        """The networks of a step. Each has equally many rows, one after the other."""
        self._network: SequenceNetwork | None = None
        self._step: Step | None = None
        self._watch: _Watch | None = None
        self._states: LayerStates = []
        self._rows: Integers = np.zeros(0, dtype=np.int64)
        """Rows of the sequences, those of the first sequence first."""
        self._counts: Integers = np.zeros(0, dtype=np.int64)
        self._last: Any = self._begin(0)
        """The last element of each row."""
        self._writer: TextWriter | StrokesWriter | None = None
        self.seconds_per_row = FIRST_SECONDS
        """Seconds of a step for each of its rows, as measured of late."""

    def arrange(self, sequences: Sequence[LiveSequence]) -> None:
        """Lets these sequences go on and no others, whose states are kept for when they do again."""
        if len(sequences) == len(self._sequences) and all(map(lambda a, b: a is b, sequences, self._sequences)):
            return
        old = self._split_rows()
        for sequence in self._sequences:
            if sequence not in sequences and (sequence.keeps or not sequence.finished):
                own = torch.from_numpy(old[sequence]).to(self._device)
                sequence._state = [tuple(part[own] for part in layer) for layer in self._states]
        if not sequences:
            self._sequences, self._states = [], []
            return
        counts = np.array([len(sequence.networks) for sequence in sequences])
        if len(self._last) <= MOST_PADDING * counts.sum() and old.keys() >= set(sequences):
            self._rows = np.concatenate([old[sequence] for sequence in sequences])  # to lay out anew takes longer
        else:
            networks, self._rows, total = _lay_out([sequence.networks for sequence in sequences])
            self._prepare(networks, any(sequence.changes for sequence in sequences))
            self._states = self._collect(sequences, old, self._rows, total)
            self._last = self._begin(total)
        for sequence in sequences:
            sequence._state = None
        self._sequences, self._counts = list(sequences), counts
        self._writer = self._script.prepare([sequence.sampling for sequence in sequences], self._counts)

    def advance(self) -> bool:
        """Goes on by one element with every sequence. Returns whether one has ended, or reports its first element."""
        start = time.perf_counter()
        script, sequences = self._script, self._sequences
        assert self._step is not None
        assert self._writer is not None
        last = [script.start if sequence.last is None else sequence.last for sequence in sequences]
        self._last[self._rows] = np.repeat(np.array(last, dtype=script.dtype), self._counts, axis=0)
        inputs = torch.from_numpy(script.read(self._last)).to(self._device, self._input_type)
        with limit_threads(len(inputs) * self._num_weights):
            outputs, states = self._step(inputs, self._states[: len(self._states) - (self._watch is not None)])
        logits = outputs.cpu().numpy()[self._rows].astype(np.float64)
        changes: list[list[float]] | None = None
        if self._watch is not None:
            (before,) = self._states[-1]
            moved, scales = self._watch.measure(before)
            offsets = self._counts.cumsum() - self._counts
            changes = (np.add.reduceat(moved[self._rows], offsets) / self._counts[:, None]).tolist()
            states = [*states, (scales,)]
        self._states = states
        if not np.isfinite(logits).all():
            self._exclude(logits)
        known = [s.position < len(s.given) for s in sequences]
        given = [s.given[s.position] if k else script.unknown for s, k in zip(sequences, known, strict=True)]
        noise = [script.silence if k else s.draw_noise(script) for s, k in zip(sequences, known, strict=True)]
        values, measures = self._writer.write(logits, np.array(given), np.array(noise))
        notable = False
        for i, (sequence, value, said) in enumerate(zip(sequences, values.tolist(), measures.tolist(), strict=True)):
            if sequence.finished:
                notable = True
                continue
            moves = None
            if sequence.changes and changes is not None:
                moves = changes[i] if sequence.position else [0.0] * len(GATES)
            likely = None
            if sequence.likely and isinstance(self._writer, TextWriter):
                likely = self._writer.rank(i, sequence.likely)
            notable |= sequence.take(Element(value, said, moves, likely), script.ends(value))
        self.seconds_per_row += 0.05 * ((time.perf_counter() - start) / len(self._rows) - self.seconds_per_row)
        return notable

    def _begin(self, rows: int) -> Any:
        """What comes before the first element, for each row."""
        start = np.array(self._script.start, dtype=self._script.dtype)
        return np.full((rows, *start.shape), start)

    def look_ahead(self, sequence: LiveSequence) -> Outlook:
        """What the networks of a sequence that has ended, and keeps its state, say of what would come next.

        Raises:
            NotFiniteError: if their outputs are not finite.
        """
        network = self._sampler.assemble(torch.tensor(sequence.networks, device=self._device))
        seen: list[list[Tensor]] = [[] for _ in network.cells]
        step = network.begin(self._script.one_hot, [own.append for own in seen])
        count = len(sequence.networks)
        last = self._begin(count)
        if sequence.last is not None:
            last[:] = sequence.last
        states = (sequence._state or network.open(count))[: len(seen)]
        inputs = torch.from_numpy(self._script.read(last)).to(self._device, self._input_type)
        outputs = step(inputs, states)[0].double().cpu()
        if not outputs.isfinite().all():
            raise NotFiniteError("a sampled network gave outputs that are not finite")
        return Outlook(outputs, freeze(network, [own[0][0] for own in seen]) if seen[0] else None)

    def _split_rows(self) -> "dict[LiveSequence, Integers]":
        parts = np.split(self._rows, self._counts.cumsum()[:-1]) if self._sequences else []
        return dict(zip(self._sequences, parts, strict=True))

    def _prepare(self, networks: tuple[Network, ...], watched: bool) -> None:
        """Assembles networks, unless they are those of the last step."""
        changed, watches = networks != self._networks, self._watch is not None
        if not changed and watched == watches and self._step is not None:
            return
        if changed or self._network is None:
            self._network = self._sampler.assemble(torch.tensor(networks, device=self._device))
            self._networks = networks
        cell = self._network.cells[0]
        if watches != watched:  # the scales of the step before are the last part of a state
            self._watch = _Watch(cell) if watched and isinstance(cell, HyperLSTMCell) else None
            if watches:
                self._states = self._states[:-1]
            elif self._states:
                self._states = [*self._states, self._open_watch(len(self._states[0][0]))]
        others = [None] * (len(self._network.cells) - 1)
        self._step = self._network.begin(self._script.one_hot, [self._watch, *others])

    def _open_watch(self, rows: int) -> tuple[Tensor, ...]:
        assert self._network is not None
        cell = self._network.cells[0]
        return (next(cell.parameters()).new_zeros(rows, len(GATES), cell.hidden_size),)

    def _open(self, rows: int) -> LayerStates:
        assert self._network is not None
        return [*self._network.open(rows), *([self._open_watch(rows)] if self._watch is not None else [])]

    def _collect(
        self, sequences: Sequence[LiveSequence], old: dict[LiveSequence, Integers], rows: Integers, total: int
    ) -> LayerStates:
        """The states of all rows of a step, from those of the last step and of sequences that join."""
        pool = [self._states] if self._states else []
        size = len(self._states[0][0]) if self._states else 0
        sources = np.zeros(total, dtype=np.int64)  # rows that nobody needs may have any state
        start = 0
        for sequence in sequences:
            count = len(sequence.networks)
            if sequence in old:
                found = old[sequence]
            else:
                pool.append(self._adapt(sequence._state) if sequence._state else self._open(count))
                found = np.arange(size, size + count)
                size += count
            sources[rows[start : start + count]] = found
            start += count
        index = torch.from_numpy(sources).to(self._device)
        return [
            tuple(torch.cat(parts).index_select(0, index) for parts in zip(*layers, strict=True))
            for layers in zip(*pool, strict=True)
        ]

    def _adapt(self, state: LayerStates) -> LayerStates:
        """A state that was kept, with or without scales as it is needed now."""
        assert self._network is not None
        plain = state[: len(self._network.cells)]
        if self._watch is None:
            return plain
        return state if len(state) > len(plain) else [*plain, self._open_watch(len(plain[0][0]))]

    def _exclude(self, logits: Any) -> None:
        """Ends sequences whose networks gave outputs that are not finite."""
        good = np.isfinite(logits).all(1)
        logits[~good] = 0
        offsets = self._counts.cumsum() - self._counts
        for sequence, fine in zip(self._sequences, np.logical_and.reduceat(good, offsets), strict=True):
            if not fine:
                sequence.error = NotFiniteError("a sampled network gave logits that are not finite")


class _Watch:
    """Measures how much the recurrent weights of the first layer change from step to step."""

    def __init__(self, cell: HyperLSTMCell) -> None:
        self._norms = cell.weight_h.detach().unflatten(0, (len(GATES), -1)).norm(dim=-1)
        self._scales: Tensor | None = None

    def __call__(self, scales: Tensor) -> None:
        self._scales = scales[:, 0]

    def measure(self, before: Tensor) -> tuple[Any, Tensor]:
        """Norms of the changes of each gate's weights, [R, 4], and the scales of this step, [R, 4, H].

        A row of weights w that is scaled by d changes by |Δd| · ‖w‖.
        """
        assert self._scales is not None
        return ((self._scales - before) * self._norms).norm(dim=-1).double().cpu().numpy(), self._scales


def _lay_out(wanted: Sequence[list[Network]]) -> tuple[tuple[Network, ...], Integers, int]:
    """Which networks make a step, the row of each network of each sequence, and the number of rows.

    If many sequences use the same networks, rows of one network are computed together; otherwise each row has its own.
    """
    every = [network for networks in wanted for network in networks]
    distinct = sorted(set(every))
    uses = dict.fromkeys(distinct, 0)
    places = []
    for network in every:
        places.append(uses[network])
        uses[network] += 1
    most = max(uses.values())
    if len(distinct) * most > MOST_PADDING * len(every):
        return tuple(every), np.arange(len(every)), len(every)
    numbers = {network: number for number, network in enumerate(distinct)}
    rows = [numbers[network] * most + place for network, place in zip(every, places, strict=True)]
    return tuple(distinct), np.array(rows), len(distinct) * most
