"""Commands on finished checkpoints: calibrate, evaluate, attack."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from models.checkpoint import DENSITY_FILE, Checkpoint, load_checkpoint, save_calibration
from models.checkpoint_files import CheckpointError, digest_config
from models.inputs.image import ImageSpec
from models.inputs.table import TableSpec
from models.inputs.vector import VectorSpec
from models.precision import Precision, limit_precision
from models.predictions.anchor import Anchor
from models.predictions.density import FeatureDensity, fit_density, fit_feature_density
from models.predictions.detection import Calibration, list_scores
from models.predictions.perturbation import Norm
from models.predictions.prediction import Outputs, join_outputs
from models.predictions.stopping import Stopping
from models.samplers.sampler import WeightSampler
from models.tasks.classification import Classification
from training.data.dataset import Dataset
from training.data.datasets import load_training_data
from training.data.features import cache_features
from training.data.foreign import make_foreign_images, make_foreign_rows
from training.data.mixture import Mixture
from training.data.outlier_sets import load_outliers
from training.denormals import flush_denormals
from training.evaluation.attack import EPSILONS, attack, list_attempts
from training.evaluation.attack_report import FILE, AttackReport, Budget
from training.evaluation.calibration import calibrate
from training.evaluation.evaluation import evaluate_parts, evaluate_sets
from training.evaluation.evidence import gather_evidence, save_evidence, trace_origin
from training.evaluation.measurement import measure_checkpoint
from training.evaluation.metrics import (
    ClassificationMetrics,
    Metrics,
    RoundingMetrics,
    keep_sets,
    load_metrics,
    save_metrics,
)
from training.evaluation.rounding import measure_rounding
from training.evaluation.stopping import can_pass, learn_rules
from training.progress import track
from training.report.card import save_card

CALIBRATION_SEED = 10**15
"""Seed for the first calibration input. Each input has its own seed, far from those that people choose."""

VALIDATION_SEEDS = range(CALIBRATION_SEED + 10**9, CALIBRATION_SEED + 10**9 + 50)
"""Seeds of the draws that temperatures are fitted and scores are chosen with; each draw sees a fiftieth of the inputs.
Nothing is guaranteed for these inputs, so they may share networks."""

STOPPING_SEED, STOPPING_DRAWS = CALIBRATION_SEED + 2 * 10**9, 4
"""First seed, and number of draws for each input, that rules for when to stop are tested with."""

SHORT = 128
"""Most numbers of a vector that are taken for measurements rather than an embedding."""

MOST_DESCRIBED, PER_BLOCK = 20_000, 500
"""Most training images that the density of maps is fitted to, and how many are looked at in one go."""

MOST_FITTED = 100_000
"""Most training examples that the density of rows, vectors or a backbone's features is fitted to."""

FOREIGN_INPUTS = 1000
"""Number of made-up inputs that decide which score raises a flag."""

FOREIGN_SEED = 11


@flush_denormals()
def calibrate_directory(directory: Path, data: Path, device: torch.device) -> None:
    """Measures a checkpoint's thresholds again. This makes another version of it and removes its metrics.

    The density is fitted again, or kept if the dataset has no training examples, as that of imported networks.

    Raises:
        CheckpointError: if the checkpoint cannot be loaded, or if no data was held out to calibrate it with.
        DatasetError: if data is missing or damaged.
    """
    # Measurements may be damaged.
    checkpoint = cache_features(load_checkpoint(directory, device, with_measurements=False))
    if checkpoint.config.training.folds is not None:
        raise CheckpointError(
            directory / "config.json",
            "was trained on all examples but those of the test set, so none are left to calibrate it with. Its folds "
            f"are calibrated when it is trained: {checkpoint.config.training.command}",
        )
    dataset = load_training_data(checkpoint.config, data)
    if isinstance(dataset, Mixture):
        raise CheckpointError(
            directory / "config.json", "was fitted to a density; there is no data to calibrate it with"
        )
    if not len(dataset.train):
        checkpoint = replace(checkpoint, density=_load_density(directory))
    checkpoint = calibrate_checkpoint(checkpoint, directory, dataset)
    save_card(directory, checkpoint, None)


@flush_denormals()
def evaluate_directory(
    directory: Path, data: Path, device: torch.device, folders: Collection[Path], precision: Precision = "float32"
) -> Metrics:
    """Evaluates a finished checkpoint on its dataset's test set, and writes its metrics and card.

    Metrics on other sets of outliers stay if they are of this version of the checkpoint.

    Args:
        directory: directory of the checkpoint.
        data: folder of the datasets.
        device: device to compute on.
        folders: folders of images that are outliers.
        precision: a precision that is compared with float32, unless it is that.

    Raises:
        CheckpointError: if the checkpoint cannot be loaded, or if it has no calibration.
        DatasetError: if data is missing or damaged.
    """
    checkpoint, dataset = load_with_dataset(directory, data, device)
    if limit_precision(precision, checkpoint.config.target) != precision:
        reason = "is not for images, so services answer in float32; leave out --precision"
        raise CheckpointError(directory / "config.json", reason)
    outliers = load_outliers(checkpoint.config.training.dataset, data, folders, checkpoint.config.input)
    if checkpoint.calibration is None and not isinstance(dataset, Mixture):
        training = checkpoint.config.training
        hint = "calibrate the checkpoint first" if training.folds is None else "continue the training with --resume"
        raise CheckpointError(directory / "calibration.json", f"is missing; {hint}")
    try:
        return measure_directory(directory, checkpoint, dataset, outliers, precision)
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
    networks: int | None,
    most_networks: int | None = None,
) -> AttackReport:
    """Attacks a classifier on test images, and writes attack.json and the card.

    Without any ε, the usual ones are tried. Attackers with more than `most_networks` in a step are left out.

    Raises:
        CheckpointError: if a checkpoint cannot be loaded or attacked.
        DatasetError: if data is missing or damaged.
    """
    checkpoint, dataset = load_with_dataset(directory, data, device)
    other = load_checkpoint(surrogate, device) if surrogate else None
    if isinstance(dataset, Mixture):
        raise CheckpointError(directory, "was fitted to a density; it gives no answers to attack")
    if not any(epsilons.values()) and isinstance(dataset.input, ImageSpec):
        epsilons = EPSILONS[dataset.input.channels]
    attempts = list_attempts(epsilons, with_surrogate=surrogate is not None, most_networks=most_networks)
    try:
        found = attack(checkpoint, dataset.test, other, budget, attempts, directory / FILE, networks)
    except ValueError as error:
        raise CheckpointError(directory, str(error)) from error
    save_card(directory, checkpoint, load_metrics(checkpoint))
    return found


def load_with_dataset(directory: Path, data: Path, device: torch.device) -> tuple[Checkpoint, Dataset | Mixture]:
    """Loads a checkpoint and the dataset that it was trained on.

    Raises:
        CheckpointError: if the checkpoint cannot be loaded.
        DatasetError: if data is missing or damaged.
    """
    checkpoint = cache_features(load_checkpoint(directory, device))
    return checkpoint, load_training_data(checkpoint.config, data)


def calibrate_checkpoint(
    checkpoint: Checkpoint, directory: Path, dataset: Dataset, fold_samplers: Sequence[WeightSampler] = ()
) -> Checkpoint:
    """Measures thresholds on the calibration split or crosswise, writes them, and loads the checkpoint again.

    Args:
        checkpoint: the checkpoint in `directory`.
        directory: its directory.
        dataset: the dataset that it was trained on.
        fold_samplers: of a dataset in folds, the sampler that was trained without each fold.
    """
    config = checkpoint.config
    density = _fit_density(checkpoint, dataset)
    parts: list[_Judged] = []
    seed = CALIBRATION_SEED
    for sampler, part in zip(fold_samplers or [checkpoint.sampler], dataset.list_parts(), strict=True):
        own = _fit_density(replace(checkpoint, sampler=sampler), part) if fold_samplers else density
        parts.append(_judge(replace(checkpoint, sampler=sampler, density=own), part, seed, len(parts), dataset.folds))
        seed += len(part.calibration)
    splits = ("calibration", "validation") if dataset.folds is None else ("train", "train")
    split, usual_split = (f"{config.training.dataset}/{name}" for name in splits)
    usual, usual_labels = _join([part.usual for part in parts]), torch.cat([part.usual_labels for part in parts])
    try:
        calibration = calibrate(
            checkpoint=digest_config(directory),
            split=split,
            seeds=range(CALIBRATION_SEED, seed),
            scores=list_scores(config.task, checkpoint.input, density=density is not None),
            task=config.task,
            outputs=join_outputs([part.outputs for part in parts], dim=1),
            labels=torch.cat([part.labels for part in parts]),
            foreign=_join([part.foreign for part in parts]),
            validation=None if usual is None else (usual_split, usual, usual_labels),
            folds=dataset.folds,
        )
    except ValueError as error:
        raise CheckpointError(directory, str(error)) from error
    if usual is not None and dataset.folds is None:
        judging = replace(checkpoint, density=density)
        calibration = replace(calibration, stopping=_learn_rules(judging, calibration, dataset, usual, parts[0]))
    save_calibration(directory, calibration, density)
    calibrated = load_checkpoint(directory, checkpoint.sampler.device)
    return replace(calibrated, backbone=checkpoint.backbone)  # which may keep features


def _learn_rules(
    checkpoint: Checkpoint, calibration: Calibration, dataset: Dataset, usual: Outputs, judged: "_Judged"
) -> Stopping | None:
    """Rules by which ensembles stop growing, if there are enough validation inputs to test them.

    A fifth of these, as they were judged before, shows how answers change; the others test the rules.
    """
    guides = torch.arange(len(dataset.validation)) % 5 == 0
    inputs = dataset.validation.inputs[~guides]
    if not can_pass(len(inputs)):
        return None
    seeds = range(STOPPING_SEED, STOPPING_SEED + STOPPING_DRAWS * len(inputs))
    return learn_rules(
        calibration,
        checkpoint.config.task,
        guide=usual.of_inputs(guides.nonzero()[:, 0]),
        judged=judged.outputs,
        labels=judged.labels,
        tests=[
            evaluate_parts(checkpoint, inputs, seeds[draw::STOPPING_DRAWS], f"testing when to stop, draw {draw + 1}")
            for draw in range(STOPPING_DRAWS)
        ],
        split=f"{checkpoint.config.training.dataset}/validation",
    )


@dataclass(frozen=True)
class _Judged:
    """Outputs of networks on inputs that they were not trained on."""

    outputs: Outputs
    """On calibration inputs, each by networks of its own seed."""
    labels: Tensor
    usual: Outputs | None
    """On validation inputs, if scores or temperatures are chosen."""
    usual_labels: Tensor
    foreign: Outputs | None
    """On made-up inputs, if scores are chosen by them."""


def _judge(checkpoint: Checkpoint, dataset: Dataset, seed: int, fold: int, folds: int | None) -> _Judged:
    """Evaluates what a dataset holds out.

    Args:
        checkpoint: networks that were trained on the dataset's training examples, and their density.
        dataset: the dataset, or a part of one in folds.
        seed: seed of the first calibration input.
        fold: number of the fold that is held out, from 0.
        folds: number of folds, if any.
    """
    config, spec = checkpoint.config, checkpoint.config.input
    of_fold = "" if folds is None else f", fold {fold + 1} of {folds}"
    validation_seeds = VALIDATION_SEEDS[: max(1, len(VALIDATION_SEEDS) // (folds or 1))]
    count, foreign_seed = FOREIGN_INPUTS // (folds or 1), FOREIGN_SEED + fold
    usual = foreign = others = None
    if config.task.has_classes or checkpoint.density is not None:
        usual = evaluate_parts(checkpoint, dataset.validation.inputs, validation_seeds, f"validating{of_fold}")
    if isinstance(spec, ImageSpec) and config.task.has_classes:
        others = make_foreign_images(dataset.validation.inputs, count, foreign_seed)
    elif isinstance(spec, TableSpec | VectorSpec) and checkpoint.density is not None:
        others = make_foreign_rows(spec, dataset.train.inputs, count, foreign_seed)
    if others is not None:
        foreign = evaluate_parts(checkpoint, others, validation_seeds, f"choosing scores{of_fold}")
    seeds = range(seed, seed + len(dataset.calibration))
    outputs = evaluate_parts(checkpoint, dataset.calibration.inputs, seeds, f"calibrating{of_fold}")
    return _Judged(outputs, dataset.calibration.labels, usual, dataset.validation.labels, foreign)


def _join(parts: Sequence[Outputs | None]) -> Outputs | None:
    known = [part for part in parts if part is not None]
    return join_outputs(known, dim=1) if known else None


def _load_density(directory: Path) -> FeatureDensity | None:
    """The density of a finished checkpoint, which its calibration must vouch for."""
    density = load_checkpoint(directory).density
    if density is None and (directory / DENSITY_FILE).exists():
        reason = f"does not name the {DENSITY_FILE} beside it; import the networks again, or delete that file"
        raise CheckpointError(directory / "calibration.json", reason)
    return density


def _fit_density(checkpoint: Checkpoint, dataset: Dataset) -> FeatureDensity | None:
    """The density of what the networks take, or of the maps that one of them makes of an image.

    Long vectors are taken for embeddings. There is none of a single number, or without maps. Without training examples
    it stays what it was.
    """
    spec, train = checkpoint.config.input, dataset.train.inputs
    if not len(train):
        return checkpoint.density
    if isinstance(spec, ImageSpec) and not checkpoint.backbone:
        return _fit_map_density(checkpoint, _choose(train, MOST_DESCRIBED))
    train = _choose(train, MOST_FITTED)
    if checkpoint.backbone:
        return fit_feature_density(checkpoint.input.prepare(train))
    numbers = len(spec.names) if isinstance(spec, VectorSpec) else 0
    if not isinstance(spec, TableSpec) and numbers < 2:
        return None
    fit = fit_density if numbers <= SHORT else fit_feature_density
    return fit(checkpoint.input.prepare(train))


def _fit_map_density(checkpoint: Checkpoint, train: Tensor) -> FeatureDensity | None:
    anchor, spec = Anchor(checkpoint.sampler), checkpoint.input
    if not anchor.num_features:
        return None
    blocks = track(train.split(PER_BLOCK), "describing images", "block")
    features = torch.cat([anchor.describe(spec.prepare(block)) for block in blocks])
    return replace(fit_density(features), anchor=anchor)


def _choose(examples: Tensor, most: int) -> Tensor:
    """Random examples, the same in every run, or all of them if there are no more."""
    if len(examples) <= most:
        return examples
    return examples[torch.randperm(len(examples), generator=torch.Generator().manual_seed(0))[:most]]


def measure_directory(
    directory: Path,
    checkpoint: Checkpoint,
    dataset: Dataset | Mixture,
    outliers: Mapping[str, Tensor],
    precision: Precision = "float32",
) -> Metrics:
    """Evaluates a checkpoint; writes its metrics and card and, for a classifier, evidence for comparisons."""
    earlier = load_metrics(checkpoint)
    outputs = evaluate_sets(checkpoint, dataset, outliers)
    metrics = measure_checkpoint(checkpoint, dataset, outputs)
    if precision != "float32" and isinstance(metrics, ClassificationMetrics):
        metrics = replace(metrics, rounding=_compare(checkpoint, dataset, outliers, outputs, precision))
    metrics = keep_sets(metrics, earlier)
    if isinstance(dataset, Dataset) and dataset.task.has_classes:
        origin = trace_origin(checkpoint, dataset, outliers)
        save_evidence(directory, gather_evidence(checkpoint, dataset, origin, outputs))
    save_metrics(directory, metrics)
    save_card(directory, checkpoint, metrics)
    return metrics


def _compare(
    checkpoint: Checkpoint,
    dataset: Dataset | Mixture,
    outliers: Mapping[str, Tensor],
    exact: Mapping[str, Outputs],
    precision: Precision,
) -> RoundingMetrics:
    """What a precision changes, beside the outputs in float32."""
    task, calibration = checkpoint.config.task, checkpoint.calibration
    assert isinstance(dataset, Dataset)
    assert isinstance(task, Classification)
    assert calibration is not None
    rounded = evaluate_sets(checkpoint, dataset, outliers, precision)
    return measure_rounding(task, calibration, precision, dataset.test.labels, exact, rounded)
