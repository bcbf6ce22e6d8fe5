"""What a checkpoint is worth: figures on the test set, for the model card.

Shapes: S sampled networks, B images, K classes.
"""

from pathlib import Path

import torch
from pydantic.dataclasses import dataclass
from sklearn.metrics import log_loss, roc_auc_score
from torch import Tensor
from torchmetrics.functional.classification import multiclass_calibration_error

from models.checkpoint import Checkpoint, dump_json, write_file
from models.prediction import predict_members
from models.target import Weights
from models.uncertainty import measure_uncertainty
from training.datasets import LabelledImages

ENSEMBLE_SIZES = (5, 10, 100)
NETWORKS = 100
SEED = 0


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
class LayerNorm:
    """2-norm of a layer's weights and biases over sampled networks (HyperGAN, Table 1)."""

    mean: float
    std: float


@dataclass(frozen=True)
class Metrics:
    """What `metrics.json` holds; shares lie in [0, 1], entropies are in nats."""

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
    layer_norms: dict[str, LayerNorm]
    outliers: OutlierMetrics | None


def measure_disagreement(member_probabilities: Tensor) -> float:
    """Share of images on which two distinct members, drawn at random, choose different classes; from [S, B, K]."""
    size, _, classes = member_probabilities.shape
    counts = torch.nn.functional.one_hot(member_probabilities.argmax(-1), classes).sum(0).double()
    agreeing = (counts * (counts - 1)).sum(-1) / (size * (size - 1))
    return float(1 - agreeing.mean())


def measure_diversity(weights: Weights) -> float:
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


def evaluate(checkpoint: Checkpoint, test: LabelledImages, outliers: tuple[str, Tensor] | None) -> Metrics:
    """Evaluates a calibrated checkpoint, as it is served.

    Args:
        checkpoint: with its calibration.
        test: the test split.
        outliers: name and images uint8 [B, C, H, W] of something else, if there is something.
    """
    assert checkpoint.calibration is not None
    normalize = checkpoint.config.input.normalize
    members = predict_members(checkpoint.sampler, normalize(test.images), SEED, NETWORKS)
    uncertainty = measure_uncertainty(members)
    detection = checkpoint.calibration.out_of_distribution
    accuracies = (members.argmax(-1) == test.labels).double().mean(1)

    outlier_metrics = None
    if outliers is not None:
        name, images = outliers
        other = measure_uncertainty(predict_members(checkpoint.sampler, normalize(images), SEED, NETWORKS))
        outlier_metrics = OutlierMetrics(
            dataset=name,
            images=len(images),
            mutual_information=float(other.mutual_information.mean()),
            auroc_predictive_entropy=_auroc(uncertainty.predictive_entropy, other.predictive_entropy),
            auroc_mutual_information=_auroc(uncertainty.mutual_information, other.mutual_information),
            flagged=float(detection.judge(other, NETWORKS).flagged.double().mean()),
        )
    return Metrics(
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
        layer_norms=_measure_layer_norms(checkpoint),
        outliers=outlier_metrics,
    )


def save_metrics(directory: Path, metrics: Metrics) -> None:
    """Writes metrics.json."""
    write_file(directory / "metrics.json", dump_json(metrics))


def _measure_layer_norms(checkpoint: Checkpoint) -> dict[str, LayerNorm]:
    weights = checkpoint.sampler.sample(SEED, range(NETWORKS))
    norms: dict[str, LayerNorm] = {}
    for layer in checkpoint.config.target.weighted_layers:
        parameters = [weights[f"{layer}.{p}"].flatten(1) for p in ("weight", "bias")]
        norm = torch.cat(parameters, dim=1).norm(dim=1)
        norms[layer] = LayerNorm(float(norm.mean()), float(norm.std()))
    return norms


def _negative_log_likelihood(probabilities: Tensor, labels: Tensor) -> float:
    probabilities = probabilities.double()
    probabilities = probabilities / probabilities.sum(-1, keepdim=True)  # members' probabilities are float32
    return float(log_loss(labels.numpy(), probabilities.numpy(), labels=range(probabilities.shape[1])))


def _auroc(inside: Tensor, outside: Tensor) -> float:
    is_outside = torch.cat([torch.zeros(len(inside)), torch.ones(len(outside))])
    return float(roc_auc_score(is_outside.numpy(), torch.cat([inside, outside]).numpy()))


def _mean(values: list[Tensor] | list[float]) -> float:
    return sum(map(float, values)) / len(values)
