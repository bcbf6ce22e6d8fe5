"""The density of training features, which tells inputs that resemble no training example.

Shapes: N training examples, B inputs, D features.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

SHRINKAGE = 0.05
"""Share of the covariance that is replaced by its diagonal, so that directions without variance count less."""

HEADER_BYTES = 2**12

LEAST_VARIANCE = 1e-4
"""Least variance of a feature, in units of the mean variance."""


@dataclass(frozen=True, eq=False)
class FeatureDensity:
    """A normal distribution of features."""

    mean: Tensor
    """float32 [D]."""
    whitening: Tensor
    """float32 [D, D]. Products with it have covariance 1."""

    def measure_distance(self, features: Tensor) -> Tensor:
        """Root mean square of whitened features [B, …], [B]: the Mahalanobis distance divided by √D (Lee et al., "A
        Simple Unified Framework for Detecting Out-of-Distribution Samples", NeurIPS 2018, without classes)."""
        whitened = (features.flatten(1).cpu() - self.mean) @ self.whitening
        return whitened.double().square().mean(-1).sqrt()


def fit_density(features: Tensor) -> FeatureDensity:
    """Fits a normal distribution to features of training examples, [N, …]."""
    flat = features.flatten(1).double().cpu()
    mean = flat.mean(0)
    covariance = (flat - mean).mT @ (flat - mean) / len(flat)
    variances = covariance.diagonal()
    least = LEAST_VARIANCE * variances.mean().clamp(min=torch.finfo(torch.float64).tiny)
    covariance = (1 - SHRINKAGE) * covariance + torch.diag(SHRINKAGE * variances + least)
    values, vectors = torch.linalg.eigh(covariance)
    return FeatureDensity(mean.float(), (vectors / values.clamp(min=least).sqrt()).float().contiguous())


def pack_density(density: FeatureDensity) -> dict[str, Tensor]:
    """The tensors of a density's file."""
    return {"mean": density.mean, "whitening": density.whitening}


def unpack_density(tensors: dict[str, Tensor], features: int) -> FeatureDensity:
    """Reads what `pack_density` returned.

    Args:
        tensors: the tensors of the file.
        features: D.

    Raises:
        ValueError: if they are not a density of D features.
    """
    shapes = {"mean": (features,), "whitening": (features, features)}
    for name in shapes.keys() | tensors.keys():
        tensor = tensors.get(name)
        if name not in shapes or tensor is None or tensor.shape != shapes[name] or tensor.dtype != torch.float32:
            raise ValueError(f"it must hold mean and whitening of {features} features as float32, unlike its {name}")
        if not torch.isfinite(tensor).all():
            raise ValueError(f"its {name} has numbers that are not finite")
    return FeatureDensity(tensors["mean"], tensors["whitening"])


def bound_density_bytes(features: int) -> int:
    """Largest size of the file of a density of D features."""
    return 4 * (features * features + features) + HEADER_BYTES
