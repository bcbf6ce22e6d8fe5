"""What a checkpoint is worth: figures on the test set, for the model card.

Shapes: S sampled networks, B inputs, K outputs.
"""

import math
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import Field, TypeAdapter
from pydantic.dataclasses import dataclass
from sklearn.metrics import log_loss, roc_auc_score
from torch import Tensor
from torchmetrics.functional.classification import multiclass_calibration_error

from models.checkpoint import Checkpoint, dump_json, write_file
from models.prediction import evaluate_members
from models.target import TargetNetwork, Weights
from models.task import Classification, Regression
from training.datasets import Dataset, Examples, Mixture
from training.objectives import entropy

ENSEMBLE_SIZES = (5, 10, 100)
NETWORKS = 100
SEED = 0
NEAR_PEAK = 1.0
"""Distance from the peak of a density; the mixture's Gaussians have a σ just above."""


@dataclass(frozen=True)
class SingleMetrics:
    """Single networks, one by one."""

    accuracy_mean: float
    accuracy_std: float
    accuracy_min: float
    accuracy_max: float
    nll: float


@dataclass(frozen=True)
class EnsembleMetrics:
    """Ensembles of one size that average probabilities; means over disjoint ensembles."""

    size: int
    ensembles: int
    accuracy: float
    nll: float
    ece: float
    """Expected calibration error, 15 bins."""


@dataclass(frozen=True)
class OutlierMetrics:
    """Images of another kind, told apart from the test images by the whole ensemble."""

    dataset: str
    images: int
    mutual_information: float
    auroc_predictive_entropy: float
    auroc_mutual_information: float
    flagged: float


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation."""

    mean: float
    std: float


@dataclass(frozen=True)
class ClassificationMetrics:
    """Shares lie in [0, 1], entropies are in nats."""

    test_images: int
    networks: int
    seed: int
    single: SingleMetrics
    ensembles: tuple[EnsembleMetrics, ...]
    disagreement: float
    """Share of test images on which two sampled networks differ."""
    mutual_information: float
    false_alarm_rate: float
    """Share of test images flagged as out of distribution."""
    layer_norms: dict[str, Spread]
    """2-norm of a layer's weights and biases together, over sampled networks (HyperGAN, Table 1)."""
    outliers: OutlierMetrics | None
    kind: Literal["classification"] = "classification"


@dataclass(frozen=True)
class BeyondMetrics:
    """Inputs of a regression from where there was no data, told apart from the test inputs by the whole ensemble."""

    dataset: str
    examples: int
    deviation: float
    """Root mean square of the members' standard deviation."""
    auroc: float
    flagged: float


@dataclass(frozen=True)
class RegressionMetrics:
    """Errors and deviations are in the outputs' own units."""

    test_examples: int
    networks: int
    seed: int
    single_error: float
    """Root mean square error of a single network."""
    ensemble_error: float
    """Root mean square error of the mean of all networks."""
    nll: float
    """Of the mixture of the members' normal distributions, a test example, in nats."""
    covered: float
    """Share of test examples within three standard deviations of the predictive mean."""
    deviation: float
    """Root mean square of the members' standard deviation."""
    false_alarm_rate: float
    layer_norms: dict[str, Spread]
    beyond: BeyondMetrics | None
    kind: Literal["regression"] = "regression"


@dataclass(frozen=True)
class PeakMetrics:
    """How close sampled points come to one peak of a density."""

    position: tuple[float, float]
    distance: float
    """From the peak to the sampled point that is nearest."""
    density: float
    """The largest density of a sampled point near the peak, or 0, relative to the peak's own."""


@dataclass(frozen=True)
class DensityMetrics:
    """Of a sampler that was fitted to a density over weights."""

    networks: int
    seed: int
    density: float
    """Mean over sampled points."""
    entropy: float
    """Of the points along their one-dimensional curve, in nats."""
    passed: int
    """Peaks with a sampled point near them."""
    peaks: tuple[PeakMetrics, ...]
    kind: Literal["density"] = "density"


Metrics = Annotated[ClassificationMetrics | RegressionMetrics | DensityMetrics, Field(discriminator="kind")]
"""What `metrics.json` holds."""


def measure_disagreement(member_probabilities: Tensor) -> float:
    """Share of images on which two distinct members, drawn at random, choose different classes; from [S, B, K]."""
    size, _, classes = member_probabilities.shape
    counts = torch.nn.functional.one_hot(member_probabilities.argmax(-1), classes).sum(0).double()
    agreeing = (counts * (counts - 1)).sum(-1) / (size * (size - 1))
    return float(1 - agreeing.mean())


def measure_spread(weights: Weights) -> float:
    """Standard deviation of a weight over networks relative to the weights' root mean square, averaged over layers."""
    matrices = [tensor for name, tensor in weights.items() if name.endswith(".weight")]
    return _mean([(m.var(0).mean() / m.square().mean()).sqrt() for m in matrices])


def measure_ensembles(member_probabilities: Tensor, labels: Tensor, size: int) -> EnsembleMetrics:
    """Metrics of the S // size disjoint ensembles among the members, [S, B, K], on labels [B]."""
    means = [part.double().mean(0) for part in member_probabilities.split(size) if len(part) == size]
    return EnsembleMetrics(
        size=size,
        ensembles=len(means),
        accuracy=_mean([(mean.argmax(-1) == labels).double().mean() for mean in means]),
        nll=_mean([_negative_log_likelihood(mean, labels) for mean in means]),
        ece=_mean([multiclass_calibration_error(mean, labels, mean.shape[1], n_bins=15) for mean in means]),
    )


def evaluate(checkpoint: Checkpoint, dataset: Dataset | Mixture, outliers: tuple[str, Tensor] | None) -> Metrics:
    """Evaluates a checkpoint, as it is served, by what it was trained for.

    Args:
        checkpoint: calibrated, unless it was trained on a density.
        dataset: that it was trained on.
        outliers: name and inputs [B, …] of something else, if there is something.

    Raises:
        ValueError: if the checkpoint was made for inputs or for a task that are not the dataset's.
    """
    config = checkpoint.config
    if config.task != dataset.task:
        raise ValueError(f"a checkpoint for {config.task} cannot be evaluated on a dataset for {dataset.task}")
    if config.input.shape != dataset.input.shape:
        raise ValueError(f"a checkpoint for inputs {config.input.shape} cannot be evaluated on {dataset.input.shape}")
    if isinstance(dataset, Mixture):
        return _evaluate_density(checkpoint, dataset)
    if isinstance(dataset.task, Classification):
        return _evaluate_classification(checkpoint, dataset.test, outliers)
    return _evaluate_regression(checkpoint, dataset.test, outliers)


def _evaluate_classification(
    checkpoint: Checkpoint, test: Examples, outliers: tuple[str, Tensor] | None
) -> ClassificationMetrics:
    task = checkpoint.config.task
    assert isinstance(task, Classification)
    assert checkpoint.calibration is not None
    members = _predict(checkpoint, test.inputs)
    uncertainty = task.measure(members)
    detection = checkpoint.calibration.out_of_distribution
    accuracies = (members.argmax(-1) == test.labels).double().mean(1)

    outlier_metrics = None
    if outliers is not None:
        name, images = outliers
        other = task.measure(_predict(checkpoint, images))
        outlier_metrics = OutlierMetrics(
            dataset=name,
            images=len(images),
            mutual_information=float(other.mutual_information.mean()),
            auroc_predictive_entropy=_auroc(uncertainty.predictive_entropy, other.predictive_entropy),
            auroc_mutual_information=_auroc(uncertainty.mutual_information, other.mutual_information),
            flagged=float(detection.judge(other, NETWORKS).flagged.double().mean()),
        )
    return ClassificationMetrics(
        test_images=len(test),
        networks=NETWORKS,
        seed=SEED,
        single=SingleMetrics(
            accuracy_mean=float(accuracies.mean()),
            accuracy_std=float(accuracies.std()),
            accuracy_min=float(accuracies.min()),
            accuracy_max=float(accuracies.max()),
            nll=_mean([_negative_log_likelihood(member, test.labels) for member in members]),
        ),
        ensembles=tuple(measure_ensembles(members, test.labels, size) for size in ENSEMBLE_SIZES),
        disagreement=measure_disagreement(members),
        mutual_information=float(uncertainty.mutual_information.mean()),
        false_alarm_rate=float(detection.judge(uncertainty, NETWORKS).flagged.double().mean()),
        layer_norms=measure_layer_norms(checkpoint.config.target, checkpoint.sampler.sample(SEED, range(NETWORKS))),
        outliers=outlier_metrics,
    )


def _evaluate_regression(
    checkpoint: Checkpoint, test: Examples, beyond: tuple[str, Tensor] | None
) -> RegressionMetrics:
    task, calibration = checkpoint.config.task, checkpoint.calibration
    assert isinstance(task, Regression)
    assert calibration is not None
    members = _predict(checkpoint, test.inputs).double()
    uncertainty = task.measure(members)
    errors = (members - test.labels).square()
    noise = uncertainty.noise_variance
    log_likelihoods = -(errors / noise + (2 * math.pi * noise).log()).sum(-1) / 2
    mixture = log_likelihoods.logsumexp(0) - math.log(len(members))
    misses = (uncertainty.mean - test.labels).abs()

    beyond_metrics = None
    if beyond is not None:
        name, inputs = beyond
        other = task.measure(_predict(checkpoint, inputs))
        beyond_metrics = BeyondMetrics(
            dataset=name,
            examples=len(inputs),
            deviation=float(other.epistemic_variance.mean().sqrt()),
            auroc=_auroc(uncertainty.relative_deviation, other.relative_deviation),
            flagged=float(calibration.out_of_distribution.judge(other, NETWORKS).flagged.double().mean()),
        )
    return RegressionMetrics(
        test_examples=len(test),
        networks=NETWORKS,
        seed=SEED,
        single_error=float(errors.mean().sqrt()),
        ensemble_error=float(misses.square().mean().sqrt()),
        nll=float(-mixture.mean()),
        covered=float((misses <= 3 * uncertainty.variance.sqrt()).double().mean()),
        deviation=float(uncertainty.epistemic_variance.mean().sqrt()),
        false_alarm_rate=float(calibration.out_of_distribution.judge(uncertainty, NETWORKS).flagged.double().mean()),
        layer_norms=measure_layer_norms(checkpoint.config.target, checkpoint.sampler.sample(SEED, range(NETWORKS))),
        beyond=beyond_metrics,
    )


def _evaluate_density(checkpoint: Checkpoint, mixture: Mixture, networks: int = 1000) -> DensityMetrics:
    points = checkpoint.config.target.flatten_weights(checkpoint.sampler.sample(SEED, range(networks))).cpu()
    densities = mixture.measure_density(points)
    peaks = []
    for peak in mixture.find_peaks():
        distances = (points - peak).norm(dim=1)
        near = densities[distances <= NEAR_PEAK] / mixture.measure_density(peak)
        peaks.append(
            PeakMetrics(
                position=(float(peak[0]), float(peak[1])),
                distance=float(distances.min()),
                density=float(near.max()) if len(near) else 0.0,
            )
        )
    return DensityMetrics(
        networks=networks,
        seed=SEED,
        density=float(densities.mean()),
        entropy=float(entropy(points, dimension=1)),
        passed=sum(peak.density > 0 for peak in peaks),
        peaks=tuple(peaks),
    )


def save_metrics(directory: Path, metrics: Metrics) -> None:
    """Writes metrics.json."""
    write_file(directory / "metrics.json", dump_json(metrics))


def load_metrics(checkpoint: Checkpoint) -> Metrics | None:
    """The metrics that were saved with a checkpoint, if any."""
    if checkpoint.metrics is None:
        return None
    metrics: Metrics = TypeAdapter(Metrics).validate_python(checkpoint.metrics)
    return metrics


def measure_layer_norms(target: TargetNetwork, weights: Weights) -> dict[str, Spread]:
    """2-norms of each layer's weights and biases together, over S networks."""
    return {layer: summarize(vectors.norm(dim=1)) for layer, vectors in target.layer_vectors(weights).items()}


def summarize(values: Tensor) -> Spread:
    """Of at least two values, [n]."""
    return Spread(float(values.mean()), float(values.std()))


def _predict(checkpoint: Checkpoint, inputs: Tensor) -> Tensor:
    config = checkpoint.config
    return config.task.predict(evaluate_members(checkpoint.sampler, config.input.normalize(inputs), SEED, NETWORKS))


def _negative_log_likelihood(probabilities: Tensor, labels: Tensor) -> float:
    probabilities = probabilities.double()
    probabilities = probabilities / probabilities.sum(-1, keepdim=True)  # members' probabilities are float32
    return float(log_loss(labels.numpy(), probabilities.numpy(), labels=range(probabilities.shape[1])))


def _auroc(inside: Tensor, outside: Tensor) -> float:
    is_outside = torch.cat([torch.zeros(len(inside)), torch.ones(len(outside))])
    return float(roc_auc_score(is_outside.numpy(), torch.cat([inside, outside]).numpy()))


def _mean(values: list[Tensor] | list[float]) -> float:
    return sum(map(float, values)) / len(values)
