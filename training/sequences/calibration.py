"""Thresholds for foreign passages of a text, and how they hold on the test split.

Shapes: n passages, S networks.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from models.checkpoint_files import digest_config
from models.predictions.detection import RATES, conformal_quantile
from models.sequences.calibration import (
    SCORES,
    PassageCalibration,
    PassageScore,
    SizeThresholds,
    average_passages,
)
from models.sequences.checkpoint import SequenceCheckpoint
from models.sequences.scores import SymbolScores
from models.sequences.text import TextSpec
from training.data.text import Text
from training.evaluation.measures import measure_auroc
from training.sequences.foreign import PASSAGE, score_passages, shuffle_letters, shuffle_words

MOST_NETWORKS = 8
"""Size of the largest ensemble that is calibrated."""

SEEDS = 4
"""Seeds of networks, each of which judges an equal part of the passages."""


def calibrate_passages(directory: Path, checkpoint: SequenceCheckpoint, text: Text) -> PassageCalibration:
    """Calibrates flags for foreign passages on the calibration split.

    Which score raises the flag is chosen on the validation split and shuffled versions of it.

    Args:
        directory: the checkpoint's directory.
        checkpoint: a model for text.
        text: the text that it was trained on.
    """
    sizes = range(1, min(MOST_NETWORKS, checkpoint.config.sampler.modes) + 1)
    best = _choose_score(checkpoint, text, max(sizes))
    judged = _score_by_seeds(checkpoint, text.spec, text.calibration, sizes)
    count = len(text.calibration) // PASSAGE
    rates = tuple(rate for rate in RATES if (count + 1) * rate >= 1)
    return PassageCalibration(
        checkpoint=digest_config(directory),
        passage=PASSAGE,
        n=count,
        rates=rates,
        sizes=tuple(
            SizeThresholds(
                size,
                score := best if size > 1 else "surprisal",
                tuple(conformal_quantile(_measure(parts, score), rate) for rate in rates),
            )
            for size, parts in zip(sizes, judged, strict=True)
        ),
    )


def measure_false_alarms(checkpoint: SequenceCheckpoint, calibration: PassageCalibration, text: Text) -> float:
    """Share of the test split's passages that the largest calibrated ensemble flags by default."""
    size = calibration.sizes[-1].ensemble_size
    (parts,) = _score_by_seeds(checkpoint, text.spec, text.test, [size])
    judged = [calibration.judge(_list_scores(part), size) for part in parts]
    return torch.cat([each.flagged for each in judged if each]).double().mean().item()


def _score_by_seeds(
    checkpoint: SequenceCheckpoint, spec: TextSpec, text: Tensor, sizes: Sequence[int]
) -> list[list[SymbolScores]]:
    """Scores of a text's passages by ensembles of some sizes: for each size, those of each seed's part of the text."""
    sampler = checkpoint.sampler
    seeds = 1 if sampler.num_networks is not None else SEEDS
    count = len(text) // PASSAGE
    found: list[list[SymbolScores]] = [[] for _ in sizes]
    for seed, part in enumerate(text[: count * PASSAGE].view(count, PASSAGE).chunk(seeds)):
        latents = sampler.draw_latents(seed, range(max(sizes)))
        scores = score_passages(sampler, latents, spec.start_number, part.flatten(), sizes, "scoring passages")
        for parts, own in zip(found, scores, strict=True):
            parts.append(own)
    return found


def _choose_score(checkpoint: SequenceCheckpoint, text: Text, size: int) -> PassageScore:
    """The score that tells shuffled text from usual text best, on average over both ways to shuffle it."""
    spec = text.spec
    usual = spec.decode(text.validation.tolist())
    inside, *outside = (
        _score_by_seeds(checkpoint, spec, torch.tensor(spec.encode(content)), [size])[0]
        for content in (usual, shuffle_words(usual), shuffle_letters(usual))
    )
    return max(
        SCORES,
        key=lambda score: sum(measure_auroc(_measure(inside, score), _measure(parts, score)) for parts in outside),
    )


def _measure(parts: list[SymbolScores], score: PassageScore) -> Tensor:
    return torch.cat([average_passages(_list_scores(part)[score], PASSAGE) for part in parts])


def _list_scores(scores: SymbolScores) -> dict[PassageScore, Tensor]:
    return {"surprisal": scores.surprisal, "disagreement": scores.disagreement}
