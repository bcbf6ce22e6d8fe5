"""Metrics of any checkpoint."""

from collections.abc import Mapping

from models.checkpoint import Checkpoint
from models.predictions.prediction import Outputs
from training.data.dataset import Dataset
from training.data.mixture import Mixture
from training.evaluation.classification import measure_classification
from training.evaluation.density import measure_density_fit
from training.evaluation.metrics import Metrics
from training.evaluation.regression import measure_regression


def measure_checkpoint(checkpoint: Checkpoint, dataset: Dataset | Mixture, outputs: Mapping[str, Outputs]) -> Metrics:
    """Metrics of a checkpoint for its task.

    Args:
        checkpoint: a calibrated checkpoint, or one that was trained on a density.
        dataset: the dataset that it was trained on.
        outputs: outputs by set, from `evaluate_sets`.
    """
    if isinstance(dataset, Mixture):
        return measure_density_fit(checkpoint, dataset)
    if dataset.task.has_classes:
        return measure_classification(checkpoint, dataset.test, outputs)
    return measure_regression(checkpoint, dataset.test, outputs)
