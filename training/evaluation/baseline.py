"""Baselines for own images: a plain network, or a logistic regression on the features of a backbone.

Shapes: N examples, D numbers of a feature.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic.dataclasses import dataclass
from torch import Tensor

from training.data.dataset import Dataset
from training.evaluation.measures import measure_nll
from training.evaluation.summaries import Share, estimate_share, measure_share
from training.progress import track

STRENGTHS = tuple(10.0**power for power in (-4, -3.5, -3, -2.5, -2, -1.5, -1, -0.5, 0))
"""Inverse strengths of regularisation to choose from; scikit-learn's own is 1."""

PART = 512
"""Images whose features are looked at in one go."""


@dataclass(frozen=True)
class PlainNetwork:
    """A network of the same target, trained alone on the same images."""

    accuracy: Share
    nll: float
    """At the temperature that suits the validation images best."""
    processor_seconds: float
    """Processor time of its training."""


@dataclass(frozen=True)
class Baseline:
    """A logistic regression on standardised features of the training images; maps are averaged over positions."""

    accuracy: Share
    nll: float
    strength: float
    """Inverse strength C of its regularisation, with the least NLL on the validation images."""


def measure_baseline(dataset: Dataset) -> Baseline:
    """Fits logistic regressions to a dataset with a backbone, and measures the best one on the test split.

    In folds, the best one is that of which the models without a fold have the least NLL on it.
    """
    from sklearn.linear_model import LogisticRegression  # takes long to import
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    def fit(strength: float, features: NDArray[np.float32], labels: Tensor) -> Any:
        model = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=1_000))
        return model.fit(features, labels.numpy())

    parts = [
        [(_take_features(part, split.inputs), split.labels) for split in (part.train, part.validation)]
        for part in dataset.list_parts()
    ]
    held_out = torch.cat([labels for _, (_, labels) in parts])
    best = None
    for strength in track(STRENGTHS, "logistic regression", "fit"):
        models = [fit(strength, *train) for train, _ in parts]
        found = [model.predict_log_proba(features) for model, (_, (features, _)) in zip(models, parts, strict=True)]
        nll = measure_nll(torch.from_numpy(np.concatenate(found)), held_out)
        if best is None or nll < best[0]:
            best = nll, strength, models[0]
    assert best is not None
    _, strength, model = best
    if dataset.folds is not None:
        model = fit(strength, _take_features(dataset, dataset.train.inputs), dataset.train.labels)
    logs = torch.from_numpy(model.predict_log_proba(_take_features(dataset, dataset.test.inputs)))
    right = logs.argmax(-1) == dataset.test.labels
    accuracy = estimate_share(measure_share(right), len(right))
    return Baseline(accuracy, measure_nll(logs, dataset.test.labels), strength)


def _take_features(dataset: Dataset, images: Tensor) -> NDArray[np.float32]:
    """Features as vectors, [N, D]."""
    features = torch.cat([dataset.view.prepare(part) for part in images.split(PART)])
    vectors = features.flatten(2).mean(2) if features.dim() == 4 else features
    return vectors.numpy()
