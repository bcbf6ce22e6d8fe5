"""A density over the weights of a network, instead of data.

Shapes: D Gaussians.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from models.inputs.vector import VectorSpec
from models.noise import uniform
from models.tasks.regression import Regression

MIXTURE_SEED = 0


@dataclass(frozen=True)
class Mixture:
    """A density over the weights of a network: a mixture of D Gaussians in the plane.

    The network is a line; a point of the plane is its slope and intercept.
    """

    centers: Tensor
    """float32 [D, 2]."""
    deviations: Tensor
    """σ, [D]."""
    shares: Tensor
    """p, [D]."""
    decay: float = 0.05

    input = VectorSpec(names=("x",), mean=(0.0,), std=(1.0,))
    task = Regression(names=("y",), mean=(0.0,), std=(1.0,), noise_std=(0.0,))

    def measure_density(self, points: Tensor) -> Tensor:
        """f = Σ p · exp(−r² / 2σ²) at points [..., 2]. Each Gaussian has the height p, not the integral p."""
        squares = (points[..., None, :] - self.centers).square().sum(-1)
        return (self.shares * (-squares / (2 * self.deviations.square())).exp()).sum(-1)

    def find_peaks(self) -> Tensor:
        """The density's local maxima, [peaks, 2]. There are fewer than Gaussians, because close ones share a peak.

        Mean shift finds them from every centre (Carreira-Perpiñán, "Mode-finding for mixtures of Gaussian
        distributions", 2000); it reaches all maxima of this mixture.
        """
        points = self.centers.double()
        precisions = self.deviations.double() ** -2
        for _ in range(10_000):
            squares = (points[:, None] - self.centers).square().sum(-1)
            pulls = self.shares * precisions * (-squares * precisions / 2).exp()
            points = pulls @ self.centers.double() / pulls.sum(1, keepdim=True)
        peaks: list[Tensor] = []
        for point in points:
            if all((point - peak).norm() > 1e-3 for peak in peaks):
                peaks.append(point)
        return torch.stack(peaks).float()

    def measure_energy(self, points: Tensor) -> Tensor:
        """−f + 0.05 ‖y‖² at points [..., 2], which a sampler minimises against its entropy."""
        return self.decay * points.square().sum(-1) - self.measure_density(points)

    def to(self, device: torch.device) -> "Mixture":
        return Mixture(self.centers.to(device), self.deviations.to(device), self.shares.to(device), self.decay)


def load_mixture(data: Path) -> Mixture:
    """Ten Gaussians: centres uniform in (−5, 5)², σ in (1, 1.1), weights in (1, 3) (Deutsch 2018, section 4.1)."""
    x, y, deviation, share = uniform(MIXTURE_SEED, range(10), 4).T
    return Mixture(5 * torch.stack([x, y], dim=1), 1.05 + 0.05 * deviation, 2 + share)
