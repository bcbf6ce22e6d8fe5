"""One training command: runs the steps, shows progress, saves, and makes a checkpoint of the result."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from models.checkpoint import Checkpoint, CheckpointConfig, Training, load_checkpoint, save_checkpoint
from models.samplers.sampler import WeightSampler
from training.data.dataset import Dataset
from training.data.datasets import load_dataset
from training.data.mixture import Mixture
from training.data.outlier_sets import load_outliers
from training.denormals import flush_denormals
from training.recipes.recipe import Recipe
from training.report.card import save_card
from training.runs.checkpoints import calibrate_checkpoint, measure_directory
from training.runs.distillation import DistillationRun
from training.runs.fitting import FittingRun
from training.runs.loop import run_steps
from training.runs.output import LOGS, STATE_FILE, check_output, choose_first, count_steps, make_output
from training.runs.ranks import ALONE, Ranks
from training.runs.run import Judged, TrainingRun, sharpen
from training.runs.state import TrainingError, read_identity


@dataclass(frozen=True)
class Session:
    """One training command: what the user asked for."""

    recipe: Recipe
    out: Path
    data: Path
    device: torch.device
    seed: int | None
    steps: int | None
    minutes: float | None
    resume: bool
    ranks: Ranks = ALONE

    @property
    def state_file(self) -> Path:
        return self.out / STATE_FILE


@dataclass(frozen=True)
class _Fold:
    """What was trained without one fold."""

    sampler: WeightSampler
    judged: list[Judged]
    """What it says about its fold, if networks are sharpened by that."""


@flush_denormals()
def train(session: Session, dataset: Dataset | None = None) -> bool:
    """Trains, calibrates, evaluates on the test set, and writes the checkpoint with its metrics and card.

    An interrupt stops the training after the current step. The checkpoint of that step is written and calibrated, but
    not evaluated, and the run can be resumed. If the dataset is in folds, a sampler is trained on all of them first,
    and then one without each; a checkpoint is calibrated once they are all trained.

    Several processes train together. Then all but the first end, and the first does the rest.

    Args:
        session: what the user asked for.
        dataset: the dataset that the recipe names; loaded if not given.

    Returns:
        Whether the run was finished.

    Raises:
        DatasetError: if data is missing or damaged.
        TrainingError: if there is nothing to resume, if something would be overwritten, or if the loss is not finite.
        SystemExit: in other processes than the first, once they are not needed.
    """
    ranks = session.ranks
    check_output(session.out, session.resume)
    make_output(session.out)
    with ranks.take_turns():  # the first downloads
        outliers = load_outliers(session.recipe.dataset, session.data)
        data = dataset or load_dataset(session.recipe.dataset, session.data)
    run = _begin(session, data)
    try:
        complete = run_steps(run, session.recipe.name, session.state_file, session.out / LOGS, ranks)
    except TrainingError as error:
        ranks.dismiss()
        if not run.return_to_good():
            raise TrainingError(f"{error}. No checkpoint was written, because no step is known to be good.") from error
        save_card(session.out, _export(session, run, failure=str(error)), None)
        raise TrainingError(
            f"{error}. {session.out} holds the checkpoint of step {run.steps}, the last that is known to be good."
        ) from error
    folds = _train_folds(session, run) if complete else None
    ranks.dismiss()
    checkpoint = _export(session, run, folds or ())
    if folds is None:
        save_card(session.out, checkpoint, None)
        return False
    measure_directory(session.out, checkpoint, run.dataset, outliers)
    session.state_file.unlink()
    for number in range(len(folds)):
        _name_fold_state(session, number).unlink()
    return True


def format_command(recipe: Recipe, seed: int, steps: int) -> str:
    """The command that repeats this training."""
    options = recipe.options
    options += f" --seed {seed}" if seed else ""
    options += f" --steps {steps}" if steps != recipe.steps else ""
    return f"hyperdraw-train {recipe.name} --out DIR{options}"


def check_repeated(session: Session) -> None:
    """Checks that a finished run is the one that a session would make.

    Raises:
        TrainingError: if its directory holds another run.
    """
    command = load_checkpoint(session.out).config.training.command
    assert session.seed is not None
    if command != format_command(session.recipe, session.seed, session.steps or session.recipe.steps):
        raise TrainingError(f"{session.out} holds another run, {command!r}. Choose another --out.")


def _train_folds(session: Session, run: TrainingRun) -> list[_Fold] | None:
    """Trains a sampler without each fold, as a finished run was trained on all of them. There may be no folds.

    Folds that are trained are kept, so a resumed training goes on with the others.

    Returns:
        The folds, or None if the training was interrupted.

    Raises:
        TrainingError: if a training fails; the message names the fold.
    """
    dataset, folds = run.dataset, list[_Fold]()
    if isinstance(dataset, Mixture) or dataset.folds is None:
        return folds
    for number, part in enumerate(dataset.list_parts()):
        name, state = f"fold {number + 1} of {dataset.folds}", _name_fold_state(session, number)
        recipe = replace(session.recipe, dataset=f"{session.recipe.dataset}/{name}")
        own = start_run(recipe, part, run.seed, run.planned_steps, session.device, session.ranks)
        try:
            if session.resume and state.exists():
                own.load(state)
            if not run_steps(own, name, state, session.out / LOGS / state.stem, session.ranks):
                return None
        except TrainingError as error:
            raise TrainingError(f"{name}: {error}. Without it no checkpoint can be calibrated.") from error
        own.recalibrate(())
        folds.append(_Fold(own.sampler.eval().requires_grad_(False), own.judge_validation()))
    return folds


def _name_fold_state(session: Session, number: int) -> Path:
    return session.state_file.with_name(f"fold-{number + 1}.safetensors")


def _begin(session: Session, dataset: Dataset | Mixture) -> TrainingRun:
    """Starts a new run, or loads the saved one, whose seed and steps are then the defaults."""
    saved = read_identity(session.state_file) if session.resume else {}
    seed = choose_first(session.seed, saved.get("seed"), 0)
    steps = choose_first(session.steps, saved.get("planned_steps"))
    if steps is None:
        steps = session.recipe.steps if session.minutes is None else _count_steps(session, dataset, session.minutes)
    assert seed is not None
    run = start_run(session.recipe, dataset, seed, steps, session.device, session.ranks)
    if session.resume:
        run.load(session.state_file)
    return run


def start_run(
    recipe: Recipe,
    dataset: Dataset | Mixture,
    seed: int,
    planned_steps: int,
    device: torch.device,
    ranks: Ranks = ALONE,
) -> TrainingRun:
    """Starts a run of the kind that the recipe needs.

    Raises:
        TrainingError: if the recipe does not fit the dataset, or several processes cannot divide its steps.
    """
    kind = FittingRun if recipe.distillation is None else DistillationRun
    return kind(recipe, dataset, seed, planned_steps, device, ranks)


def _count_steps(session: Session, dataset: Dataset | Mixture, minutes: float) -> int:
    """How many steps of each training fit into the minutes, as the first process measures."""
    trainings = 1 + (dataset.folds or 0) if isinstance(dataset, Dataset) else 1
    run = start_run(session.recipe, dataset, 0, session.recipe.steps, session.device, session.ranks)
    return session.ranks.agree(count_steps(run, minutes / trainings))


def _export(session: Session, run: TrainingRun, folds: Sequence[_Fold] = (), failure: str | None = None) -> Checkpoint:
    """Writes the checkpoint of the run in its current state, and calibrates what was written.

    Without its folds, a run on a dataset in folds is not calibrated.
    """
    recipe, dataset = session.recipe, run.dataset
    in_folds = dataset.folds if isinstance(dataset, Dataset) else None
    run.recalibrate([judged for fold in folds for judged in fold.judged] if in_folds else None)
    config = CheckpointConfig(
        method=recipe.method,
        target=recipe.target,
        input=dataset.input,
        task=dataset.task,
        backbone=dataset.backbone.spec if isinstance(dataset, Dataset) and dataset.backbone else None,
        training=Training(
            recipe=recipe.name + recipe.options,
            command=format_command(recipe, run.seed, run.planned_steps),
            dataset=recipe.dataset,
            steps=run.steps,
            planned_steps=run.planned_steps,
            seed=run.seed,
            failure=failure,
            largest_ensemble=recipe.largest_ensemble,
            folds=in_folds,
        ),
    )
    save_checkpoint(session.out, config, run.sampler, recipe.storage)
    checkpoint = load_checkpoint(session.out, session.device)
    if isinstance(dataset, Dataset) and dataset.backbone:
        checkpoint = replace(checkpoint, backbone=dataset.backbone)  # which keeps features
    if isinstance(dataset, Mixture) or (in_folds and not folds):
        return checkpoint
    for fold in folds:
        sharpen(fold.sampler, [judged for other in folds if other is not fold for judged in other.judged])
    return calibrate_checkpoint(checkpoint, session.out, dataset, [fold.sampler for fold in folds])
