"""Writing text with live sequences: the next symbols of many at once, and what their networks say about them.

Everything here is small, so NumPy is faster than PyTorch.

Shapes: n sequences, R networks of all sequences together, V symbols.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from models.noise import uniform
from models.sequences.text import OTHER, TextSpec

SAMPLING_STREAM = 31
"""Stream of the random numbers that choose symbols."""

LEAST_PROBABILITY = 1e-300
"""Smaller probabilities count as this in logarithms of means."""

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Sampling:
    """How elements are drawn: at a temperature; symbols then among the most probable."""

    seed: int
    """Seed of the random numbers. Those of an element depend on the seed, its position, and for a drawing the drawing's
    number alone."""
    temperature: float = 1.0
    """At 0, the most probable element is chosen."""
    top_k: int | None = None
    """Number of the most probable symbols from which one is drawn."""
    top_p: float | None = None
    """The least probability that those symbols from which one is drawn have together."""
    number: int = 0
    """Number of a drawing, among several of one seed."""


@dataclass(frozen=True)
class Stops:
    """Strings that end a text, at least one."""

    symbols: tuple[str, ...]
    """The symbols that the model knows."""
    strings: tuple[str, ...]

    @cached_property
    def longest(self) -> int:
        """Length of the longest string."""
        return max(map(len, self.strings))

    def append(self, written: str, number: int) -> str:
        """The end of a text after another symbol, as long as the longest string."""
        return (written + self.symbols[number])[-self.longest :]

    def find(self, written: str) -> int:
        """Length of the longest string with which a text ends; 0 if there is none."""
        if not written.endswith(self.strings):
            return 0
        return max(len(string) for string in self.strings if written.endswith(string))


class TextScript:
    """How networks for text read and write: numbers of symbols."""

    measures = ("probability", "bits", "entropy", "disagreement")
    """What is said of each symbol: its probability under the mean of the networks and that in bits, the entropy of the
    mean and the part of it on which networks disagree, in bits."""
    one_hot = True
    dtype = np.int64
    unknown = -1
    """Stands for an element to be drawn."""
    silence = 0.5
    """Stands for the random number of an element that is given."""

    def __init__(self, spec: TextSpec) -> None:
        self.start = spec.start_number
        self._never = [number for number, symbol in enumerate(spec.symbols) if symbol == OTHER]

    def read(self, symbols: Integers) -> Integers:
        """What networks read after some symbols, [R]: their numbers."""
        return symbols

    def ends(self, symbol: int) -> bool:  # noqa: ARG002  # as for drawings
        """Whether a sequence ends with a symbol; a text does with none."""
        return False

    def draw_noise(self, sampling: Sampling, positions: range) -> list[float]:
        """Random numbers in (0, 1) for the symbols at some positions."""
        shares = uniform(sampling.seed, positions, 1, SAMPLING_STREAM)[:, 0].double() / 2 + 0.5
        return shares.tolist()

    def prepare(self, samplings: Sequence[Sampling], counts: Integers) -> "TextWriter":
        """Prepares for the next symbols of some sequences, each written by a number of networks."""
        return TextWriter(self._never, samplings, counts)


class TextWriter:
    """Writes the next symbols of certain sequences."""

    def __init__(self, never: list[int], samplings: Sequence[Sampling], counts: Integers) -> None:
        self._never = never
        self._counts = counts
        self._offsets = counts.cumsum() - counts
        self._alone = bool((counts == 1).all())
        self._logarithms: Floats = np.empty((0, 0))
        """Those of the probabilities of the next symbols, [n, V]."""
        heat = np.array([sampling.temperature for sampling in samplings])
        self._cold = heat == 0
        self._any_cold = bool(self._cold.any())
        self._heat = np.where(self._cold, 1.0, heat)[:, None]
        self._top_k = [(i, each.top_k) for i, each in enumerate(samplings) if each.top_k is not None]
        self._top_p = [(i, each.top_p) for i, each in enumerate(samplings) if each.top_p is not None]

    def write(self, outputs: Floats, given: Integers, noise: Floats) -> tuple[Integers, Floats]:
        """The next symbols and what is said of them.

        Args:
            outputs: finite logits of all networks, those of a sequence together, [R, V].
            given: the symbols that are known already, and −1 for those to be drawn, [n].
            noise: [n], in (0, 1).

        Returns:
            numbers of symbols, [n], and `TextScript.measures`, [n, 4].
        """
        below = outputs - outputs.max(1, keepdims=True)
        powers = np.exp(below)
        sums = powers.sum(1, keepdims=True)
        probabilities = powers / sums
        below -= np.log(sums)  # logarithms of the probabilities
        mean = probabilities if self._alone else np.add.reduceat(probabilities, self._offsets) / self._counts[:, None]
        logarithms = self._logarithms = np.log(np.maximum(mean, LEAST_PROBABILITY))
        rows = np.arange(len(given))
        symbols = given if (given >= 0).all() else np.where(given >= 0, given, self._draw(logarithms, noise))
        entropy = -(mean * logarithms).sum(1)
        if self._alone:
            chosen, disagreement = below[rows, symbols], np.zeros(len(given))
        else:
            each = below[np.arange(len(below)), symbols.repeat(self._counts)]
            chosen = np.logaddexp.reduceat(each, self._offsets) - np.log(self._counts)
            own = -(probabilities * below).sum(1)
            disagreement = np.maximum(entropy - np.add.reduceat(own, self._offsets) / self._counts, 0.0)
        measures = np.stack([-chosen, entropy, disagreement], axis=1) / np.log(2)
        return symbols, np.concatenate([mean[rows, symbols, None], measures], axis=1)

    def rank(self, number: int, most: int) -> list[tuple[int, float]]:
        """The most probable of the symbols that a sequence could have had last, with logarithms of their probabilities.

        Args:
            number: number of the sequence.
            most: most symbols.
        """
        said = self._logarithms[number]
        order = (-said).argsort(kind="stable")[:most]
        return list(zip(order.tolist(), said[order].tolist(), strict=True))

    def _draw(self, logarithms: Floats, noise: Floats) -> Integers:
        """Numbers of symbols, by the inverse of their cumulative distribution."""
        if self._never:
            logarithms = logarithms.copy()
            logarithms[:, self._never] = -np.inf
        with np.errstate(over="ignore"):  # at a very low temperature
            weights = np.exp((logarithms - logarithms.max(1, keepdims=True)) / self._heat)
        for i, most in self._top_k:
            if most < weights.shape[1]:
                weights[i, weights[i] < np.partition(weights[i], -most)[-most]] = 0
        for i, share in self._top_p:
            order = (-weights[i]).argsort(kind="stable")
            before = weights[i, order].cumsum() - weights[i, order]
            weights[i, order[before >= share * weights[i].sum()]] = 0
        cumulative = weights.cumsum(1)
        drawn: Integers = (cumulative <= noise[:, None] * cumulative[:, -1:]).sum(1)
        return np.where(self._cold, logarithms.argmax(1), drawn) if self._any_cold else drawn
