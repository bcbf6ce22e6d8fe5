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

ALL = SYMBOLS * (SYMBOLS - 1) ** (LONGEST - 1)
"""Number of continuations of all beginnings."""
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
def test_a_beam_that_holds_all_continuations_is_exact(cell: CellKind, alpha: float) -> None:
    found = set()
    for seed in range(3):
        network = make_small(seed, cell)
        expected = [search_exhaustively(network, source, alpha) for source in SOURCES]
        assert search(network, collate(SOURCES, CPU), ALL, alpha) == expected
        found |= {len(symbols) for symbols in expected}
    assert len(found) > 1


def test_a_narrow_beam_finds_nothing_better() -> None:
    """And sometimes something worse."""
    found: dict[int, list[float]] = {1: [], 3: [], ALL: []}
    for width, scores in found.items():
        for seed in range(4):
            network = make_small(seed)
            for source, translation in zip(SOURCES, search(network, collate(SOURCES, CPU), width, LONG), strict=True):
                scores.append(float(score(network, source, [translation], LONG)))
    for width in (1, 3):
        assert all(ours <= best + 1e-9 for ours, best in zip(found[width], found[ALL], strict=True))
    assert sum(found[1]) < sum(found[ALL]) - 0.1


def test_sentences_are_searched_apart() -> None:
    network = make_small(0)
    together = search(network, collate(SOURCES, CPU), 3, 0.6)
    assert together == [search(network, collate([source], CPU), 3, 0.6)[0] for source in SOURCES]


def test_a_beam_of_one_takes_the_most_probable_symbol() -> None:
    network = make_small(1)
    for source in SOURCES:
        greedy: list[int] = []
        while len(greedy) < LONGEST - 1:
            batch = Batch(collate([source], CPU), collate([greedy], CPU))
            with torch.no_grad():
                symbol = int(network(batch)[-1].argmax())
            if symbol == END:
                break
            greedy.append(symbol)
        assert search(network, collate([source], CPU), 1, 0.6) == [greedy]


def test_an_improbable_end_is_not_taken_early() -> None:
    """Else a short translation would win that the penalty does not make worse than a long one of likely symbols."""
    network = make_small(0)
    with torch.no_grad():
        network.readout.weight.zero_()
        network.readout.bias.copy_(torch.tensor([-1.0, -9, 0, 0]))  # the end, an unknown symbol, two others
    assert [len(found) for found in search(network, collate(SOURCES, CPU), 2, 0.0)] == [LONGEST - 1] * len(SOURCES)
    assert search(network, collate(SOURCES, CPU), ALL, 0.0) == [[]] * len(SOURCES)


def test_the_penalty_is_that_of_wu_et_al() -> None:
    assert penalize(1, 0.6) == 1
    assert penalize(7, 1) == 2
    assert penalize(100, 0) == 1
