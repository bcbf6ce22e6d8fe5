"""When the weights of a HyperLSTM change: at which characters of a text, and how much, as the paper's figures show.

Shapes: B passages of T symbols, H units.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from models.sequences.checkpoint import SequenceCheckpoint
from models.sequences.hyper_lstm import HyperLSTMCell
from models.sequences.products import GATES
from models.sequences.text import TextSpec
from training.data.dataset import DatasetError
from training.data.text import Text
from training.sequences.figures import render_changes

PASSAGE = 500
"""Symbols of a passage. The largest change of each gate in it has the intensity 1."""

PASSAGES = 40
AT_ONCE = 10


@dataclass(frozen=True)
class ChangeReport:
    """Mean intensity of changes, by gate and by kind of character."""

    passages: int
    passage: int
    counts: dict[str, int]
    """Characters of each kind."""
    intensities: dict[str, dict[str, float]]
    """By kind of character, then by gate."""


def measure_changes(checkpoint: SequenceCheckpoint, passages: Tensor, seed: int) -> Tensor:
    """How much the recurrent weights of the first layer change before each symbol, [B, T, 4], for a model's first
    network: from the step that predicted the symbol before it to the step that predicts it. At the first it is zero.

    The change of a gate's weights is the norm of the changes of its rows, each of which is its norm times the change of
    its factor.

    Args:
        checkpoint: a model whose weights change.
        passages: int64 [B, T].
        seed: seed of the network.

    Raises:
        DatasetError: if the weights do not change.
    """
    sampler = checkpoint.sampler
    network = sampler.assemble(sampler.draw_latents(seed, [0]))
    cell = network.cells[0]
    if not isinstance(cell, HyperLSTMCell):
        raise DatasetError("the weights of an LSTM do not change")
    assert isinstance(checkpoint.config.input, TextSpec)
    start = torch.full_like(passages[:, :1], checkpoint.config.input.start_number)
    read = torch.cat([start, passages[:, :-1]], dim=1).T
    norms = cell.weight_h.unflatten(0, (len(GATES), -1)).norm(dim=-1)
    with torch.no_grad():
        parts = [network.recurrent.trace(part.contiguous()).scales[0, :, :, 0] for part in read.split(AT_ONCE, dim=1)]
    moved = [(scales.diff(dim=0, prepend=scales[:1]) * norms).norm(dim=-1) for scales in parts]
    return torch.cat(moved, dim=1).transpose(0, 1)


def study_changes(checkpoint: SequenceCheckpoint, text: Text, seed: int) -> ChangeReport:
    """Measures changes in passages of the test split.

    Raises:
        DatasetError: if the model's weights do not change.
    """
    passages = _list_passages(text)
    changes = measure_changes(checkpoint, passages, seed).cpu()
    found: dict[str, list[Tensor]] = {}
    for passage, intensities in zip(passages.tolist(), changes / changes.amax(1, keepdim=True), strict=True):
        for kind, intensity in zip(classify(text.spec.decode(passage)), intensities, strict=True):
            found.setdefault(kind, []).append(intensity)
    return ChangeReport(
        len(passages),
        passages.shape[1],
        {kind: len(rows) for kind, rows in found.items()},
        {
            kind: dict(zip(GATES, torch.stack(rows).mean(0).tolist(), strict=True))
            for kind, rows in sorted(found.items())
        },
    )


def draw_changes(checkpoint: SequenceCheckpoint, text: Text, seed: int) -> str:
    """The first passage of the test split with its changes, as SVG.

    Raises:
        DatasetError: if the model's weights do not change.
    """
    passages = _list_passages(text)[:1]
    return render_changes(text.spec.decode(passages[0].tolist()), measure_changes(checkpoint, passages, seed)[0])


def _list_passages(text: Text) -> Tensor:
    """Passages of the test split, int64 [B, T]; one shorter one if there is no whole one."""
    size = min(PASSAGE, len(text.test))
    count = min(PASSAGES, len(text.test) // size)
    return text.test[: count * size].long().view(count, size)


def classify(text: str) -> list[str]:
    """The kind of each character: a space, a line end, the first letter of a word, one inside it, or another sign."""
    kinds = []
    for before, symbol in zip(" " + text, text, strict=False):
        if symbol == " ":
            kinds.append("space")
        elif symbol == "\n":
            kinds.append("line end")
        elif not symbol.isalnum():
            kinds.append("punctuation and brackets")
        else:
            kinds.append("inside a word" if before.isalnum() or before == "'" else "first letter")
    return kinds


def describe_changes(report: ChangeReport) -> str:
    """The report as a table."""
    rows = [["intensity", *GATES, "mean"]]
    for kind, by_gate in report.intensities.items():
        values = list(by_gate.values())
        rows.append([kind, *(f"{value:.3f}" for value in (*values, sum(values) / len(values)))])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)
