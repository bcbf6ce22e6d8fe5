"""What is done with finished checkpoints: calibrate, evaluate, attack."""

from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import torch
from torch import Tensor

from models.checkpoint import Checkpoint, CheckpointError, digest_config, load_checkpoint, save_calibration
from models.inputs.image import ImageSpec
from models.predictions.detection import list_scores
from models.predictions.perturbation import Norm
from models.tasks.classification import Classification
from training.data.dataset import Dataset
from training.data.datasets import load_training_data
from training.data.foreign import make_foreign_images
from training.data.mixture import Mixture
from training.data.outlier_sets import load_outliers
from training.denormals import flush_denormals
from training.evaluation.attack import EPSILONS, attack, list_attempts
from training.evaluation.attack_report import FILE, AttackReport, Budget
from training.evaluation.calibration import calibrate
from training.evaluation.evaluation import evaluate_parts, evaluate_sets
from training.evaluation.evidence import gather_evidence, save_evidence, trace_origin
from training.evaluation.measurement import measure_checkpoint
from training.evaluation.metrics import Metrics, keep_sets, load_metrics, save_metrics
from training.report.card import save_card

CALIBRATION_SEED = 10**15
"""Seed of the first calibration input; each has one of its own, far from those that people choose."""


VALIDATION_SEEDS = range(CALIBRATION_SEED + 10**9, CALIBRATION_SEED + 10**9 + 50)
"""Draws, each for a fiftieth of the inputs, that temperatures are fitted and scores chosen with; nothing is promised of
these, so inputs may share networks."""


FOREIGN_IMAGES = 1000
"""Made-up images that tell which score raises a flag."""


FOREIGN_SEED = 11


@flush_denormals()
def calibrate_directory(directory: Path, data: Path, device: torch.device) -> None:
    """Measures a checkpoint's thresholds anew, which makes another version of it; its metrics are dropped.

    Raises:
        CheckpointError: if the checkpoint cannot be loaded, or has no data to calibrate with.
        DatasetError: if data is missing or damaged.
    """
    checkpoint = load_checkpoint(directory, device, with_measurements=False)  # they may be what is to be mended
    dataset = load_training_data(checkpoint.config, data)
    if isinstance(dataset, Mixture):
        raise CheckpointError(directory / "config.json", "was trained on a density; there is no data to calibrate with")
    checkpoint = calibrate_checkpoint(checkpoint, directory, dataset)
    save_card(directory, checkpoint, None)


@flush_denormals()
def evaluate_directory(directory: Path, data: Path, device: torch.device, folders: Collection[Path]) -> Metrics:
    """Measures a finished checkpoint on the test set of the dataset that it was trained on; writes figures and card.

    What was measured on other foreign sets, at this version of the checkpoint, stays in both.

    Args:
        directory: of the checkpoint.
        data: folder of the datasets.
        device: to compute on.
        folders: of images that are something else.

    Raises:
        CheckpointError: if the checkpoint cannot be loaded, or has no calibration.
        DatasetError: if data is missing or damaged.
    """
    checkpoint, dataset = load_with_dataset(directory, data, device)
    outliers = load_outliers(checkpoint.config.training.dataset, data, folders, checkpoint.config.input)
    if checkpoint.calibration is None and not isinstance(dataset, Mixture):
        raise CheckpointError(directory / "calibration.json", "is missing, so there are no flags to evaluate")
    try:
        return measure_directory(directory, checkpoint, dataset, outliers)
    except ValueError as error:
        raise CheckpointError(directory / "config.json", str(error)) from error


@flush_denormals()
def attack_directory(
    directory: Path,
    data: Path,
    device: torch.device,
    surrogate: Path | None,
    budget: Budget,
    epsilons: dict[Norm, tuple[float, ...]],
    report: Callable[[str], None],
    networks: int | None,
) -> AttackReport:
    """Attacks a classifier on test images, by the usual ε if none is given; writes attack.json, and a table of it to
    the card.

    Raises:
        CheckpointError: if a checkpoint cannot be loaded, or attacked.
        DatasetError: if data is missing or damaged.
    """
    checkpoint, dataset = load_with_dataset(directory, data, device)
    other = load_checkpoint(surrogate, device) if surrogate else None
    if isinstance(dataset, Mixture):
        raise CheckpointError(directory, "was fitted to a density; there are no answers to attack")
    if not any(epsilons.values()) and isinstance(dataset.input, ImageSpec):
        epsilons = EPSILONS[dataset.input.channels]
    attempts = list_attempts(epsilons, with_surrogate=surrogate is not None)
    try:
        found = attack(checkpoint, dataset.test, other, budget, attempts, directory / FILE, report, networks)
    except ValueError as error:
        raise CheckpointError(directory, str(error)) from error
    save_card(directory, checkpoint, load_metrics(checkpoint))
    return found


def load_with_dataset(directory: Path, data: Path, device: torch.device) -> tuple[Checkpoint, Dataset | Mixture]:
    """A checkpoint, and the dataset that it was trained on.

    Raises:
        CheckpointError: if the checkpoint cannot be loaded.
        DatasetError: if data is missing or damaged.
    """
    checkpoint = load_checkpoint(directory, device)
    return checkpoint, load_training_data(checkpoint.config, data)


def calibrate_checkpoint(checkpoint: Checkpoint, directory: Path, dataset: Dataset) -> Checkpoint:
    """Measures thresholds on the calibration split, writes them, and loads it all again."""
    config, validation, foreign = checkpoint.config, None, None
    if isinstance(config.task, Classification):
        outputs = evaluate_parts(checkpoint, dataset.validation.inputs, VALIDATION_SEEDS, "fitting temperatures")
        validation = f"{config.training.dataset}/validation", outputs, dataset.validation.labels
        if isinstance(config.input, ImageSpec):
            images = make_foreign_images(dataset.validation.inputs, FOREIGN_IMAGES, FOREIGN_SEED)
            foreign = evaluate_parts(checkpoint, images, VALIDATION_SEEDS, "choosing scores")
    seeds = range(CALIBRATION_SEED, CALIBRATION_SEED + len(dataset.calibration))
    try:
        calibration = calibrate(
            checkpoint=digest_config(directory),
            split=f"{config.training.dataset}/calibration",
            seeds=seeds,
            scores=list_scores(config.task, config.input),
            task=config.task,
            outputs=evaluate_parts(checkpoint, dataset.calibration.inputs, seeds, "calibrating"),
            labels=dataset.calibration.labels,
            foreign=foreign,
            validation=validation,
        )
    except ValueError as error:
        raise CheckpointError(directory, str(error)) from error
    save_calibration(directory, calibration)
    return load_checkpoint(directory, checkpoint.sampler.device)


def measure_directory(
    directory: Path, checkpoint: Checkpoint, dataset: Dataset | Mixture, outliers: Mapping[str, Tensor]
) -> Metrics:
    """Evaluates a checkpoint; writes its figures, its card and, of a classifier, the evidence for comparisons."""
    earlier = load_metrics(checkpoint)
    outputs = evaluate_sets(checkpoint, dataset, outliers)
    metrics = keep_sets(measure_checkpoint(checkpoint, dataset, outputs), earlier)
    if isinstance(dataset, Dataset) and isinstance(dataset.task, Classification):
        origin = trace_origin(checkpoint, dataset, outliers)
        save_evidence(directory, gather_evidence(checkpoint, dataset, origin, outputs))
    save_metrics(directory, metrics)
    save_card(directory, checkpoint, metrics)
    return metrics
