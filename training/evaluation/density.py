"""Metrics of a sampler that was fitted to a density over weights."""

from models.checkpoint import Checkpoint
from training.data.mixture import Mixture
from training.evaluation.evaluation import SEED
from training.evaluation.metrics import DensityMetrics, PeakMetrics
from training.objectives.objectives import estimate_entropy

NEAR_PEAK = 1.0
"""Distance from a peak that counts as near; the σ of the mixture's Gaussians is slightly larger."""


def measure_density_fit(checkpoint: Checkpoint, mixture: Mixture, networks: int = 1000) -> DensityMetrics:
    """Metrics of a sampler's first networks, which are points of the plane."""
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
        entropy=float(estimate_entropy(points, dimension=1)),
        passed=sum(peak.density > 0 for peak in peaks),
        peaks=tuple(peaks),
    )
