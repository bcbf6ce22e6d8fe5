"""The density of training features, which tells inputs that resemble no training example.

Shapes: N training examples, B inputs, D features, k directions.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from models.predictions.anchor import Anchor

SHRINKAGE = 0.05
"""Share of the covariance that is replaced by its diagonal, so that directions without variance count less."""

DIRECTIONS = 64
"""Most directions of the features of a backbone that have variances of their own."""

HEADER_BYTES = 2**12

LEAST_VARIANCE = 1e-4
"""Least variance of a feature, in units of the mean variance."""


@dataclass(frozen=True, eq=False)
class FeatureDensity:
    """A normal distribution of features.

    Those that another network gave are averaged over the positions of a map, and scaled to length 1, as in
    "Mahalanobis++" (Müller & Hein, ICML 2025). Few directions have variances of their own; all others share one
    (probabilistic principal components: Tipping & Bishop 1999).
    """

    mean: Tensor
    """float32 [D]."""
    directions: Tensor
    """Orthonormal: float32 [D, k]."""
    deviations: Tensor
    """Standard deviations in these directions: float32 [k]."""
    residual: Tensor | None = None
    """Standard deviation in each other direction, float32 []. With it, features are scaled to length 1."""
    anchor: Anchor | None = None
    """What makes features of prepared images, if these are not features themselves. It is not stored."""

    @property
    def nbytes(self) -> int:
        """Size in memory, in bytes."""
        tensors = pack_density(self).values()
        return sum(tensor.nbytes for tensor in tensors) + (self.anchor.nbytes if self.anchor else 0)

    def measure_distance(self, prepared: Tensor) -> Tensor:
        """Mahalanobis distance of prepared inputs [B, …] from the mean, divided by √D, [B] (Lee et al., "A Simple
        Unified Framework for Detecting Out-of-Distribution Samples", NeurIPS 2018, without classes)."""
        features = self.anchor.describe(prepared) if self.anchor else prepared
        flat = features.cpu() if self.residual is None else _scale(features.cpu())
        centred = flat - self.mean
        inside = centred @ self.directions
        total = (inside / self.deviations).double().square().sum(-1)
        if self.residual is not None:
            outside = (centred.double().square().sum(-1) - inside.double().square().sum(-1)).clamp(min=0)
            total = total + outside / self.residual.double().square()
        return (total / len(self.mean)).sqrt()


def fit_density(features: Tensor) -> FeatureDensity:
    """Fits a normal distribution to few numbers of each training example, [N, D]."""
    flat = features.double().cpu()
    mean = flat.mean(0)
    covariance = (flat - mean).mT @ (flat - mean) / len(flat)
    variances = covariance.diagonal()
    least = LEAST_VARIANCE * variances.mean().clamp(min=torch.finfo(torch.float64).tiny)
    covariance = (1 - SHRINKAGE) * covariance + torch.diag(SHRINKAGE * variances + least)
    values, vectors = torch.linalg.eigh(covariance)
    return FeatureDensity(mean.float(), vectors.float().contiguous(), values.clamp(min=least).sqrt().float())


def fit_feature_density(features: Tensor) -> FeatureDensity:
    """Fits a normal distribution to features that another network gave, [N, D] or [N, D, rows, columns]."""
    flat = _scale(features.cpu())
    mean = flat.mean(0)
    centred = flat - mean
    count, size = centred.shape
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # of the directions that the search begins with
        _, values, directions = torch.svd_lowrank(centred, min(DIRECTIONS, count, size), niter=8)
    variances = values.double().square() / count
    rest = (centred.double().square().sum() / count - variances.sum()) / max(1, size - len(values))
    least = LEAST_VARIANCE * (variances.sum() / size).clamp(min=torch.finfo(torch.float32).tiny)
    deviations = variances.clamp(min=least).sqrt().float()
    return FeatureDensity(mean, directions.contiguous(), deviations, rest.clamp(min=least).sqrt().float())


def pack_density(density: FeatureDensity) -> dict[str, Tensor]:
    """The tensors of a density's file."""
    tensors = {"mean": density.mean, "directions": density.directions, "deviations": density.deviations}
    return tensors if density.residual is None else tensors | {"residual": density.residual}


def unpack_density(tensors: dict[str, Tensor], features: int) -> FeatureDensity:
    """Reads what `pack_density` returned.

    Args:
        tensors: the tensors of the file.
        features: D.

    Raises:
        ValueError: if they are not a density of D features.
    """
    if not features:
        raise ValueError("its inputs have no features")
    found = tensors.get("deviations", torch.empty(0))
    count = len(found) if found.ndim == 1 and 0 < len(found) <= features else features
    shapes = {"mean": (features,), "directions": (features, count), "deviations": (count,)}
    if "residual" in tensors:
        shapes["residual"] = ()
    for name in shapes.keys() | tensors.keys():
        tensor = tensors.get(name)
        if name not in shapes or tensor is None or tensor.shape != shapes[name] or tensor.dtype != torch.float32:
            expected = ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())
            raise ValueError(f"it must hold float32 tensors {expected}, unlike its {name}")
        if not torch.isfinite(tensor).all():
            raise ValueError(f"its {name} has numbers that are not finite")
        if name in {"deviations", "residual"} and not (tensor > 0).all():
            raise ValueError(f"its {name} must be positive")
    return FeatureDensity(tensors["mean"], tensors["directions"], tensors["deviations"], tensors.get("residual"))


def bound_density_bytes(features: int) -> int:
    """Largest size of the file of a density of D features."""
    return 4 * (features * features + 2 * features + 1) + HEADER_BYTES


def _scale(features: Tensor) -> Tensor:
    """Vectors of length 1, [B, D], from features [B, D] or [B, D, rows, columns]."""
    return F.normalize(features.flatten(2).mean(-1) if features.ndim > 2 else features, dim=-1)
