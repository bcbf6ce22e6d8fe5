"""One training command on sequences: runs the updates, saves, and makes a checkpoint of the result."""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from models.checkpoint_files import dump_json, write_file
from models.precision import Precision, choose_precision
from models.sequences.checkpoint import (
    SequenceCheckpoint,
    SequenceConfig,
    SequenceTraining,
    load_sequence_checkpoint,
    save_sequence_checkpoint,
)
from training.denormals import flush_denormals
from training.runs.loop import run_steps
from training.runs.output import LOGS, STATE_FILE, check_output, choose_first, count_steps, make_output
from training.runs.state import read_identity
from training.sequences.card import save_sequence_card
from training.sequences.problem import SequenceProblem
from training.sequences.recipe import SequenceRecipe
from training.sequences.run import SequenceRun


@dataclass(frozen=True)
class SequenceSession:
    """What the user asked for."""

    recipe: SequenceRecipe
    out: Path
    device: torch.device
    seed: int | None
    updates: int | None
    minutes: float | None
    precision: Precision | None
    resume: bool
    argument: str = ""
    """What the command names before its options, as a shell reads it."""


@flush_denormals()
def train_sequences(session: SequenceSession, problem: SequenceProblem) -> bool:
    """Trains, evaluates on the test split, and writes the checkpoint with its metrics.

    An interrupt stops the training after the current update. The checkpoint of that update is written, but not
    evaluated, and the run can be resumed.

    Returns:
        Whether the run was finished.

    Raises:
        TrainingError: if there is nothing to resume, if something would be overwritten, or if the loss is not finite.
    """
    check_output(session.out, session.resume)
    make_output(session.out)
    run = _begin(session, problem)
    started = time.perf_counter()
    complete = run_steps(run, session.recipe.name, session.out / STATE_FILE, session.out / LOGS)
    seconds = time.perf_counter() - started
    checkpoint = _export(session, run)
    if not complete:
        save_sequence_card(session.out, checkpoint.config, None)
        return False
    problem.calibrate(session.out, checkpoint)
    trained: dict[str, float | str] = {
        "precision": run.precision,
        "seconds of the last command": round(seconds),
        "symbols per second": round(run.symbols / seconds),
    }
    _measure(session.out, problem, session.device, trained)
    (session.out / STATE_FILE).unlink()
    return True


@flush_denormals()
def calibrate_sequences(directory: Path, problem: SequenceProblem, device: torch.device) -> bool:
    """Calibrates a checkpoint's flags again; returns whether it can raise any."""
    return problem.calibrate(directory, load_sequence_checkpoint(directory, device))


@flush_denormals()
def evaluate_sequences(directory: Path, problem: SequenceProblem, device: torch.device) -> None:
    """Measures a checkpoint on the validation and test splits, and writes its metrics and card.

    What its metrics say of its training is kept.
    """
    kept = "precision", "seconds of the last command", "symbols per second"
    metrics = load_sequence_checkpoint(directory, device).metrics or {}
    _measure(directory, problem, device, {name: value for name, value in metrics.items() if name in kept})


def _measure(
    directory: Path, problem: SequenceProblem, device: torch.device, trained: Mapping[str, float | str]
) -> None:
    """Writes metrics and card of a checkpoint.

    Args:
        directory: the checkpoint's directory.
        problem: what it was trained on.
        device: where to compute.
        trained: what is known of its training.
    """
    checkpoint = load_sequence_checkpoint(directory, device)
    sampler, config = checkpoint.sampler, checkpoint.config
    metrics: dict[str, float | str] = {
        **problem.measure(checkpoint, sampler.draw_latents(config.training.seed, range(config.sampler.modes))),
        "parameters": sum(parameter.numel() for parameter in sampler.parameters()),
        "parameters of a network": sum(map(math.prod, config.sampler.target.parameter_shapes.values())),
        **trained,
    }
    write_file(directory / "metrics.json", dump_json(metrics))
    save_sequence_card(directory, config, metrics)


def _begin(session: SequenceSession, problem: SequenceProblem) -> SequenceRun:
    """Starts a new run, or loads the saved one, whose seed, updates and precision are then the defaults."""
    state = session.out / STATE_FILE
    saved = read_identity(state) if session.resume else {}
    seed = choose_first(session.seed, saved.get("seed"), 0)
    assert seed is not None
    precision: Precision = session.precision or saved.get("precision") or choose_precision(session.device)

    def make(updates: int) -> SequenceRun:
        return SequenceRun(session.recipe, problem, seed, updates, session.device, precision)

    updates = choose_first(session.updates, saved.get("planned_steps"))
    if updates is None:
        first = session.recipe.updates
        updates = first if session.minutes is None else count_steps(make(first), session.minutes)
    run = make(updates)
    if session.resume:
        run.load(state)
    return run


def _export(session: SequenceSession, run: SequenceRun) -> SequenceCheckpoint:
    """Writes the checkpoint of the run in its current state, and reads what was written."""
    recipe = session.recipe
    updates = f" --updates {run.planned_steps}" if run.planned_steps != recipe.updates else ""
    seed = f" --seed {run.seed}" if run.seed else ""
    argument = f" {session.argument}" if session.argument else ""
    config = SequenceConfig(
        kind="sequence",
        sampler=run.sampler.config,
        input=run.problem.spec,
        training=SequenceTraining(
            recipe=recipe.name + recipe.options,
            command=f"hyperdraw-train {recipe.name}{argument} --out DIR{recipe.options}{seed}{updates}",
            dataset=recipe.dataset,
            updates=run.steps,
            planned_updates=run.planned_steps,
            seed=run.seed,
            licence=run.problem.licence,
        ),
    )
    save_sequence_checkpoint(session.out, config, run.sampler, recipe.storage)
    return load_sequence_checkpoint(session.out, session.device)
