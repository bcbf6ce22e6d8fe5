"""Batches of sentence pairs of like length."""

from collections.abc import Iterator, Sequence
from itertools import count, islice

import numpy as np

SPREAD = 0.1
"""Share by which lengths are made longer or shorter at random when they are sorted, so that batches differ."""


def stream_batches(lengths: Sequence[tuple[int, int]], size: int, seed: int, skip: int = 0) -> Iterator[list[int]]:
    """Batches without an end, pass by pass over all pairs; a pure function of the arguments.

    Args:
        lengths: numbers of symbols of each pair's source and target.
        size: most symbols of a batch, with padding. A longer pair is a batch by itself.
        seed: seed of the order.
        skip: number of batches to leave out.

    Yields:
        Indices of a batch's pairs.
    """
    batches = (batch for number in count() for batch in _divide(lengths, size, np.random.default_rng((seed, number))))
    return islice(batches, skip, None)


def sort_batches(lengths: Sequence[tuple[int, int]], size: int) -> list[list[int]]:
    """Batches for one pass over all pairs in the order of their lengths."""
    return _cut(lengths, size, sorted(range(len(lengths)), key=lambda index: sum(lengths[index])))


def _divide(lengths: Sequence[tuple[int, int]], size: int, generator: np.random.Generator) -> list[list[int]]:
    varied = np.asarray(lengths).sum(1) * generator.uniform(1 - SPREAD, 1 + SPREAD, len(lengths))
    batches = _cut(lengths, size, varied.argsort().tolist())
    return [batches[index] for index in generator.permutation(len(batches))]


def _cut(lengths: Sequence[tuple[int, int]], size: int, order: Sequence[int]) -> list[list[int]]:
    batches: list[list[int]] = []
    longest = (0, 0)
    for index in order:
        source, target = lengths[index]
        longest = max(longest[0], source), max(longest[1], target)
        if not batches or (len(batches[-1]) + 1) * sum(longest) > size:
            batches.append([])
            longest = source, target
        batches[-1].append(index)
    return batches
