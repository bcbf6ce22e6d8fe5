"""The command that calibrates a checkpoint with the feedback of its users."""

from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.checkpoint import Checkpoint, load_checkpoint, save_calibration
from models.checkpoint_files import CheckpointError
from models.feedback.labels import FeedbackError
from models.feedback.store import Store
from training.evaluation.recalibration import CollectedAnswers, recalibrate
from training.report.card import save_card


def recalibrate_directory(directory: Path, place: str, device: torch.device) -> None:
    """Calibrates a checkpoint with the labelled answers of its version. This makes another version of it and removes
    its metrics.

    Args:
        directory: directory of the checkpoint, at the version that answered.
        place: path or URL of the feedback store.
        device: device to load the checkpoint on.

    Raises:
        CheckpointError: if the checkpoint cannot be loaded, or there are not enough labelled answers of its version.
        FeedbackError: if there is no such store, or it cannot be used.
    """
    checkpoint = load_checkpoint(directory, device)
    if checkpoint.calibration is None:
        raise CheckpointError(directory / "calibration.json", "is missing, so no flag of its answers has a score")
    try:
        collected = _collect(directory, checkpoint, place)
        calibration = recalibrate(checkpoint.calibration, checkpoint.version, collected)
    except ValueError as error:
        raise CheckpointError(directory, str(error)) from error
    save_calibration(directory, calibration, checkpoint.density)
    save_card(directory, load_checkpoint(directory, device), None)


def _collect(directory: Path, checkpoint: Checkpoint, place: str) -> CollectedAnswers:
    """The labelled answers of a checkpoint, by the ensembles that gave most of them."""
    if "://" not in place and not Path(place).exists():  # a store would make the file
        raise FeedbackError(f"there is no feedback store {place}")
    store = Store(place)
    try:
        rows = store.read_labelled(checkpoint.version)
        others = [stored.model.version for stored in store.list_models() if stored.labels]
    finally:
        store.close()
    if not rows and checkpoint.version in others:
        reason = (
            "cannot be calibrated with ensembles that grew (ensemble_size=auto), which gave all answers with labels"
        )
        raise CheckpointError(directory, f"{reason}; label answers of a fixed number of networks")
    if not rows:
        known = f"labels of {', '.join(others)}" if others else "no labels"
        raise CheckpointError(directory, f"is at version {checkpoint.version}, but the feedback store has {known}")
    (size, _), *_ = Counter(row.calibrated_size for row in rows).most_common(1)
    rows = [row for row in rows if row.calibrated_size == size]
    flags = checkpoint.calibration.flags if checkpoint.calibration else ()
    has_classes, outputs = checkpoint.config.task.has_classes, len(checkpoint.config.task.outputs)
    judged = _join([row.judged for row in rows], outputs)
    return CollectedAnswers(
        ensemble_size=size,
        judged=judged[:, 0] if has_classes else judged,
        labels=torch.tensor([row.label for row in rows], dtype=torch.int64 if has_classes else torch.float64),
        scores={flag: torch.tensor([row.scores[flag] for row in rows], dtype=torch.float64) for flag in flags},
        days=(_name_day(rows[0]), _name_day(rows[-1])),
    )


def _join(blocks: list[bytes], outputs: int) -> Tensor:
    """Numbers of K outputs from the store, [n, …, K]."""
    numbers = np.frombuffer(b"".join(blocks), np.float32).reshape(len(blocks), -1, outputs)
    return torch.from_numpy(numbers.astype(np.float64))


def _name_day(row: Any) -> str:
    return datetime.fromtimestamp(row.time, UTC).date().isoformat()
