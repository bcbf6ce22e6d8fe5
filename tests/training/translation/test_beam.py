"""Beam search against exhaustive search."""

from itertools import product

import pytest
import torch
import torch.nn.functional as F

from tests.training.translation.networks import make_config, make_network
from training.translation.beam import penalize, search
from training.translation.network import Batch, CellKind, Translator, collate
from training.translation.vocabulary import END

CPU = torch.device("cpu")
SYMBOLS, LONGEST = 4, 4
LONG = 3.0
"""A penalty that prefers long translations."""

BEGINNINGS = (SYMBOLS - 1) ** (LONGEST - 1)
SOURCES = [[2, 3, 4, 5], [6, 2], [3, 3, 3, 6, 5, 4], [2], [6, 6]]


def make_small(seed: int, cell: CellKind = CellKind.LSTM) -> Translator:
    torch.manual_seed(seed)
    return make_network(make_config(cell, target="xy", longest=LONGEST))


def search_exhaustively(network: Translator, source: list[int], alpha: float) -> list[int]:
    """The best of all translations."""
    others = [symbol for symbol in range(SYMBOLS) if symbol != END]
    every = [list(symbols) for length in range(LONGEST) for symbols in product(others, repeat=length)]
    return every[int(score(network, source, every, alpha).argmax())]


def score(network: Translator, source: list[int], translations: list[list[int]], alpha: float) -> torch.Tensor:
    batch = Batch(collate([source] * len(translations), CPU), collate(translations, CPU))
    with torch.no_grad():
        losses = F.cross_entropy(network(batch), batch.targets.symbols[batch.targets.real], reduction="none")
    lengths = batch.targets.lengths.tolist()
    logs = torch.stack([-part.sum() for part in losses.split(lengths)])
    return logs / torch.tensor([penalize(length, alpha) for length in lengths])


@pytest.mark.parametrize("alpha", [0.0, 0.6, LONG])
@pytest.mark.parametrize("cell", CellKind)
def test_a_beam_that_holds_all_beginnings_is_exact(cell: CellKind, alpha: float) -> None:
    found = set()
    for seed in range(3):
        network = make_small(seed, cell)
        expected = [search_exhaustively(network, source, alpha) for source in SOURCES]
        assert search(network, collate(SOURCES, CPU), BEGINNINGS, alpha) == expected
        found |= {len(symbols) for symbols in expected}
    assert len(found) > 1


def test_wider_beams_find_better_translations() -> None:
    """On average; a beam of one is not enough."""
    means = []
    for width in (1, 3, BEGINNINGS):
        found: list[float] = []
        for seed in range(4):
            network = make_small(seed)
            for source, translation in zip(SOURCES, search(network, collate(SOURCES, CPU), width, LONG), strict=True):
                found.append(float(score(network, source, [translation], LONG)))
        means.append(sum(found) / len(found))
    assert means[0] < means[1] <= means[2]


def test_sentences_are_searched_apart() -> None:
    network = make_small(0)
    together = search(network, collate(SOURCES, CPU), 3, 0.6)
    assert together == [search(network, collate([source], CPU), 3, 0.6)[0] for source in SOURCES]


def test_a_beam_of_one_takes_the_most_probable_symbol() -> None:
    """Until some end of what it passed is better than what it can still reach."""
    network = make_small(1)
    for source in SOURCES:
        beginning: list[int] = []
        passed = []
        for _ in range(LONGEST):
            passed.append(beginning)
            batch = Batch(collate([source], CPU), collate([[*beginning, 2]], CPU))
            with torch.no_grad():
                logits = network(batch)[len(beginning)]
            logits[END] = -torch.inf
            beginning = [*beginning, int(logits.argmax())]
        best = passed[int(score(network, source, passed, 0.6).argmax())]
        assert search(network, collate([source], CPU), 1, 0.6) == [best]


def test_the_penalty_is_that_of_wu_et_al() -> None:
    assert penalize(1, 0.6) == 1
    assert penalize(7, 1) == 2
    assert penalize(100, 0) == 1
