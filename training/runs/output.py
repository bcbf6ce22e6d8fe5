"""What a training command plans: where it writes, and how many steps it makes."""

import os
import time
from pathlib import Path

from training.runs.loop import Run
from training.runs.state import TrainingError

STATE_FILE = Path("training", "state.safetensors")
"""Path of an unfinished run's state, below its directory. The states of its folds lie beside it."""

LOGS = Path("training", "logs")

FIRST_STEPS, TIMED_STEPS = 5, 20
"""Steps that are slower than the others, and steps that are timed."""


def check_output(out: Path, resume: bool) -> None:
    """Checks that a training may write to a directory.

    Raises:
        TrainingError: if there is nothing to resume, if something would be overwritten, or if nothing can be written.
    """
    state = out / STATE_FILE
    unfinished = state.exists()
    if resume and not unfinished:
        raise TrainingError(f"there is nothing to resume: {state} does not exist")
    if not resume and (unfinished or (out / "config.json").exists()):
        hint = "Continue it with --resume, or choose" if unfinished else "Choose"
        raise TrainingError(f"{out} already holds a training run. {hint} another --out.")
    existing = next(path for path in (out, *out.absolute().parents) if path.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise TrainingError(f"{existing} is not a folder that can be written to. Choose another --out.")


def make_output(out: Path) -> None:
    """Creates the directory of a training.

    Raises:
        TrainingError: if that is not possible.
    """
    try:
        (out / STATE_FILE).parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TrainingError(f"{out} cannot be created ({error.strerror}). Choose another --out.") from error


def count_steps(run: Run, minutes: float) -> int:
    """How many steps fit into the minutes, measured on a few steps of a throw-away run."""
    for _ in range(FIRST_STEPS):
        run.step()
    start = time.perf_counter()
    for _ in range(TIMED_STEPS):
        run.step()
    return max(1, round(60 * minutes * TIMED_STEPS / (time.perf_counter() - start)))


def choose_first(*values: int | None) -> int | None:
    """The first value that is given."""
    return next((value for value in values if value is not None), None)
