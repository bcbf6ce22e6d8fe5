"""Repulsion of features: networks are kept apart by what their layers make of inputs that they share.

Smerkous, Bai & Li, "Enhancing Diversity in Bayesian Deep Learning via Hyperspherical Energy Minimization of CKA",
NeurIPS 2024. A layer's features of a batch have a kernel matrix. Centred, and scaled to length 1, it is a point on a
sphere, and the cosine of two networks' points is their centred kernel alignment (CKA; Kornblith, Norouzi, Lee & Hinton,
"Similarity of Neural Network Representations Revisited", ICML 2019). It does not change when features are rotated,
scaled or permuted, so networks that compute the same in another order count as equal. Each pair of points has an energy
that falls with their angle. Training minimises the fit, plus energies on training examples and on outliers with weights
of their own, plus outlier exposure (`OutlierExposure`).

Deviations from the paper, and choices where it has several:

* The kernel is the cosine of features, as in the authors' runs on MNIST; elsewhere they use the inner product.
* The weights of layers rise with the square of their depth. In the authors' five layers they are chosen one by one,
  from 0.03 for the first to 6.8 for the outputs: about as steep.
* Angles are smoothed by ε_arc alone. The authors also add ε_dist = 0.0025 to powers of angles, which ε_arc already
  keeps above 0.12.
* Kernels are centred in rows and columns, as in the paper. The authors' code centres rows.
* The networks of a step learn from different examples here. Those of the first network are shown to all others, too.
* The weights are 1/25 of those of the authors' ensembles on MNIST, 0.25 and 1.25, and do not warm up. With theirs, our
  networks only repel each other and learn nothing: the kernel does not see how small outputs become.

Shapes: S sampled networks, n inputs.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Repulsion:
    """Settings of the repulsion."""

    weight: float = 0.01
    """γ, the weight of the energy on training examples."""
    outlier_weight: float = 0.05
    """The weight of the energy on a step's outliers, if the recipe has any."""
    examples_per_step: int = 32
    """The most training examples that all networks of a step see."""
    exponent: float = 2.0
    """s, the power of the angle that the energy falls with."""
    smoothing: float = 0.065
    """ε_arc: cosines are divided by 1 + ε_arc. It bounds the energy and its gradient where networks are equal."""

    def measure_loss(self, examples: Sequence[Tensor], outliers: Sequence[Tensor] = ()) -> Tensor:
        """The weighted energies on training examples and on outliers, if there are any.

        Args:
            examples: features as in `measure_energy`.
            outliers: likewise.
        """
        loss = self.weight * self.measure_energy(examples)
        return loss + self.outlier_weight * self.measure_energy(outliers) if outliers else loss

    def measure_energy(self, layers: Sequence[Tensor]) -> Tensor:
        """The mean energy of two networks, averaged over layers.

        Args:
            layers: features of each layer, from the first to the outputs, on inputs that all networks share,
                [S, n, …]. S is at least 2.
        """
        energies = torch.stack([self.measure_pairs(measure_alignment(features)) for features in layers])
        weights = torch.arange(1, len(layers) + 1, device=energies.device).square()
        return (weights * energies).sum() / weights.sum()

    def measure_pairs(self, cosines: Tensor) -> Tensor:
        """The mean energy θ⁻ˢ of pairs of points on a sphere, θ being their angle.

        Args:
            cosines: of all pairs, [S, S].
        """
        first, second = torch.triu_indices(len(cosines), len(cosines), offset=1)
        angles = (cosines[first, second] / (1 + self.smoothing)).acos()
        return angles.pow(-self.exponent).mean()


def measure_alignment(features: Tensor) -> Tensor:
    """CKA of each pair of networks: from 0, if their kernels are orthogonal, to 1.

    Args:
        features: on n inputs, [S, n, …]. Those of an input are divided by their norm.

    Returns:
        float32 [S, S].
    """
    directions = F.normalize(features.flatten(2).float(), dim=2)
    centred = directions - directions.mean(1, keepdim=True)
    points = F.normalize((centred @ centred.mT).flatten(1), dim=1)
    return points @ points.mT
