"""Telling foreign text from text like that of the training, by what networks say about passages of it.

A passage begins anywhere, and is read as a text of its own.

Shapes: n passages of W symbols, S networks.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from models.sequences.calibration import average_passages
from models.sequences.checkpoint import SequenceCheckpoint
from models.sequences.sampler import SequenceSampler
from models.sequences.scores import SymbolScores, join_scores, score_symbols
from models.sequences.text import TextSpec
from training.data.dataset import DatasetError
from training.data.text import Text, read_text
from training.evaluation.measures import measure_auroc
from training.progress import track

PASSAGE = 100
"""Symbols that are judged together."""

MOST_SYMBOLS = 100_000
"""Symbols of each text that are scored."""

TEST, SHUFFLED_WORDS, SHUFFLED_LETTERS = "test split", "its words, shuffled", "its words' letters, shuffled"

AT_ONCE = 512
"""Passages × networks that are read side by side."""


@dataclass(frozen=True)
class ForeignReport:
    """How well scores tell foreign passages from those of the test split."""

    passage: int
    networks: int
    passages: dict[str, int]
    """Number of passages of each text."""
    aurocs: dict[str, dict[str, float]]
    """By foreign text, then by score."""
    means: dict[str, dict[str, float]]
    """Mean of each score in bits per symbol, by text."""


def compare_with_foreign_texts(
    checkpoint: SequenceCheckpoint, text: Text, foreign: Mapping[str, Path], seed: int, networks: int
) -> ForeignReport:
    """Scores passages of the test split, of shuffled versions of it, and of foreign texts.

    Args:
        checkpoint: a model for text.
        text: the text that it was trained on.
        foreign: files of foreign texts, by name.
        seed: seed of the networks.
        networks: size of the ensemble, S.

    Raises:
        DatasetError: if a file cannot be read.
    """
    spec = text.spec
    usual = spec.decode(text.test[:MOST_SYMBOLS].tolist())
    texts = {
        TEST: usual,
        SHUFFLED_WORDS: shuffle_words(usual),
        SHUFFLED_LETTERS: shuffle_letters(usual),
        **{name: _read(path, spec) for name, path in foreign.items()},
    }
    latents = checkpoint.sampler.draw_latents(seed, range(networks))
    found = {}
    for name, content in texts.items():
        numbers = torch.tensor(spec.encode(content[:MOST_SYMBOLS]))
        (scores,) = score_passages(checkpoint.sampler, latents, spec.start_number, numbers, [networks], name)
        found[name] = measure_passages(scores)
    inside = found.pop(TEST)
    return ForeignReport(
        PASSAGE,
        networks,
        {name: len(content[:MOST_SYMBOLS]) // PASSAGE for name, content in texts.items()},
        {
            name: {score: measure_auroc(inside[score], values) for score, values in passages.items()}
            for name, passages in found.items()
        },
        {
            name: {score: values.mean().item() for score, values in passages.items()}
            for name, passages in {TEST: inside, **found}.items()
        },
    )


@torch.no_grad()
def score_passages(
    sampler: SequenceSampler, latents: Tensor, start: int, text: Tensor, sizes: Sequence[int], title: str
) -> list[SymbolScores]:
    """Scores of all symbols of a text's passages, by ensembles of its first networks.

    Args:
        sampler: in evaluation mode.
        latents: latents of the networks, [S, …].
        start: the symbol before a passage.
        text: numbers of symbols. What is left after the last whole passage is not read.
        sizes: sizes of the ensembles.
        title: what to call the progress.
    """
    network, networks = sampler.assemble(latents), len(latents)
    count = len(text) // PASSAGE
    passages = text[: count * PASSAGE].long().view(count, PASSAGE).to(latents.device)
    found: list[list[SymbolScores]] = [[] for _ in sizes]
    for rows in track(passages.split(max(1, AT_ONCE // networks)), title, "part"):
        inputs = torch.cat([torch.full_like(rows[:, :1], start), rows[:, :-1]], dim=1).T
        logits, _ = network(inputs.repeat(1, networks))
        logits = logits.unflatten(1, (networks, -1)).permute(1, 2, 0, 3).flatten(1, 2)
        for size, parts in zip(sizes, found, strict=True):
            parts.append(score_symbols(logits[:size], rows.flatten()))
    return [join_scores(parts) for parts in found]


def measure_passages(scores: SymbolScores) -> dict[str, Tensor]:
    """Means of scores over passages, [n] each, in bits per symbol."""
    by_symbol = {
        "surprisal of one network": scores.member_surprisal[0],
        "surprisal": scores.surprisal,
        "entropy": scores.entropy,
        "disagreement": scores.disagreement,
    }
    return {name: average_passages(values, PASSAGE) / math.log(2) for name, values in by_symbol.items()}


def shuffle_words(text: str) -> str:
    """A text whose words stand in another order, on lines of as many words."""
    lines = [line.split(" ") for line in text.split("\n")]
    words = _shuffle([word for line in lines for word in line], np.random.default_rng(0))
    return "\n".join(" ".join(words.pop() for _ in line) for line in lines)


def shuffle_letters(text: str) -> str:
    """A text whose words' letters stand in another order."""
    draw = np.random.default_rng(0)
    lines = [["".join(_shuffle(list(word), draw)) for word in line.split(" ")] for line in text.split("\n")]
    return "\n".join(map(" ".join, lines))


def _shuffle(items: list[str], draw: np.random.Generator) -> list[str]:
    return [items[index] for index in draw.permutation(len(items))]


def _read(path: Path, spec: TextSpec) -> str:
    """A text of which the model knows each character, if it has no symbol for others."""
    text = read_text(path)
    if not spec.has_other:
        known = set(spec.symbols)
        text = "".join(symbol for symbol in text if symbol in known)
    if len(text) < PASSAGE:
        raise DatasetError(f"{path} has fewer than {PASSAGE} characters that the model knows")
    return text


def describe_foreign(report: ForeignReport) -> str:
    """The report as a table."""
    scores = list(next(iter(report.aurocs.values())))
    rows = [["AUROC", *scores]]
    rows += [[name, *(f"{values[score]:.3f}" for score in scores)] for name, values in report.aurocs.items()]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)
