"""Objectives: a training run minimises a sum of terms, and each term is a function here.

* The fit: cross-entropy, the Gaussian likelihood, or the energy of a density over weights.
* The diversity of the sampled weights, as entropy or variance, after gauge fixing. Deutsch ("Generating Neural Networks
  With Neural Networks", 2018) minimises λ · accuracy loss − H(weights). If the loss is the mean over examples and λ is
  the size of the training set, this is variational inference with a flat prior: the negative evidence lower bound.
  Other values of λ temper the posterior. This is exact if the sampler can reach any weights and no gauge is fixed.
  Otherwise H is the entropy of the gauge-fixed weights on the manifold that the sampler reaches, and so is the
  posterior. We divide by λ, so that the fit keeps its scale.
* The predictive entropy on synthetic outliers, which should be high.
* Regularisers of the mixed codes: adversarial (HyperGAN) or moment matching.

Shapes: S sampled networks, B inputs, K outputs, n draws, d numbers of a draw.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from models.targets.gauge import GaugeStep, fix_gauge
from models.targets.target import TargetNetwork, Weights
from models.tasks.probabilities import average_logits

Measure = Literal["entropy", "variance"]


@dataclass(frozen=True)
class Diversity:
    """A term that keeps the sampled networks apart: −diversity / λ, added to the mean loss.

    Raises:
        ValueError: if λ is not positive.
    """

    accuracy_weight: float
    """λ, the weight of the fit when diversity has weight 1."""
    measure: Measure = "entropy"
    gauge: tuple[GaugeStep, ...] = ("scaling", "logit_bias")
    equal_layers: bool = False
    """Whether each layer's vectors are divided by their root mean square norm over networks. Otherwise distances are
    dominated by the layer with most weights, or by the last layer, whose scale no gauge fixes. The paper does not
    divide."""
    initial_share: float = 1.0
    """Share of λ at the start. λ rises over the first 70 % of a run, so that networks explore before they settle."""
    floor: float = 0.0
    """Added to distances, for samplers that can draw the same network twice in float32. With 0 that is an error."""

    def __post_init__(self) -> None:
        if not self.accuracy_weight > 0:
            raise ValueError(f"the weight of accuracy, λ, must be positive, not {self.accuracy_weight}")

    def measure_loss(self, target: TargetNetwork, weights: Weights, latent_size: int, progress: float = 1.0) -> Tensor:
        """−diversity / λ of S networks.

        Args:
            target: the target network.
            weights: S networks.
            latent_size: dimension of the latents.
            progress: share of the run that is done.

        Raises:
            ValueError: if there are fewer than two networks, or if two are equal.
        """
        layers = list(target.layer_vectors(fix_gauge(target, weights, self.gauge)).values())
        if self.equal_layers:
            layers = [vectors / vectors.square().sum(1).mean().sqrt() for vectors in layers]
        samples = torch.cat(layers, dim=1)
        if self.measure == "variance":
            diversity = relative_variance(samples)
        else:
            diversity = estimate_entropy(samples, latent_size, self.floor)
        share: float = self.initial_share ** (1 - min(1.0, progress / 0.7))
        return -diversity / (share * self.accuracy_weight)


def balance_classes(labels: Tensor, classes: int) -> Tensor:
    """Class weights [K] that make all classes of labels [n] weigh the same; the mean weight of an example is 1."""
    counts = labels.bincount(minlength=classes)
    return len(labels) / (classes * counts.clamp(min=1))


def outlier_loss(logits: Tensor, group_size: int | None = None) -> Tensor:
    """ln K − predictive entropy of groups of networks on outliers, averaged over groups and B.

    It is 0 where a group's mean is uniform: because each network is undecided, or because they decide differently. If
    every network by itself has to be undecided, networks lose accuracy and agree where they should differ. If all
    networks form one group, a few dissent on behalf of the others, also on training images, and become bad networks.

    Args:
        logits: of S networks, [S, B, K], in random order.
        group_size: the most networks of a group, or None for one group of all. Groups are as equal as possible.
    """
    groups = logits.tensor_split(math.ceil(len(logits) / (group_size or len(logits))))
    log_means = torch.stack([average_logits(group) for group in groups])
    loss: Tensor = math.log(logits.shape[-1]) + (log_means.exp() * log_means).sum(-1).mean()
    return loss


def estimate_entropy(samples: Tensor, dimension: int | None = None, floor: float = 0.0) -> Tensor:
    """Estimates differential entropy in nats from nearest neighbours (Kozachenko and Leonenko).

    H = ψ(n) − ψ(1) + log V_d + d · mean_i log ε_i, with ε_i the Euclidean distance from sample i to its nearest
    neighbour and V_d the volume of the unit ball (Kraskov, Stögbauer & Grassberger 2004, equation 20, k = 1, where ε
    is twice this distance). Its bias falls with n, so estimates at different n are not comparable.

    Args:
        samples: [n, D]. Distances come from differences of coordinates, so float32 is precise enough.
        dimension: d, the dimension of the manifold that the samples lie on; D if not given. For generated weights it is
            at most that of the latents (Deutsch 2018, section 3.3).
        floor: added to distances; the author's code adds 1e-8.

    Raises:
        ValueError: if n < 2, or if two samples are equal and the floor is 0, so that the estimate is −∞.
    """
    n, d = len(samples), dimension or samples.shape[1]
    if n < 2:
        raise ValueError(f"an entropy estimate needs at least 2 samples, not {n}")
    with torch.no_grad():
        distances = torch.cdist(samples, samples, compute_mode="donot_use_mm_for_euclid_dist")
        nearest = distances.fill_diagonal_(math.inf).argmin(dim=1)
        same = distances.amin(dim=1) == 0
        if floor == 0 and bool(same.any()):
            first = int(same.nonzero()[0])
            raise ValueError(
                f"samples {first} and {int(nearest[first])} of {n} are equal, so their entropy is −∞: "
                "the sampler has collapsed, or received the same latent twice"
            )
    distance = floor + (samples - samples[nearest]).norm(dim=1)  # to neighbours alone: the gradient has no root of 0
    log_volume = d / 2 * math.log(math.pi) - math.lgamma(d / 2 + 1)
    psi = torch.digamma(torch.tensor([float(n), 1.0]))
    estimate: Tensor = d * distance.log().mean() + log_volume + float(psi[0] - psi[1])
    return estimate


def relative_variance(samples: Tensor) -> Tensor:
    """The variance of samples [n, D] divided by their mean square, both summed over coordinates.

    It lies between 0 and n / (n − 1). Unlike entropy, it cannot grow with a scale that the gauge leaves free.

    Raises:
        ValueError: if n < 2.
    """
    if len(samples) < 2:
        raise ValueError(f"a variance estimate needs at least 2 samples, not {len(samples)}")
    return samples.var(0).sum() / samples.square().mean(0).sum()


def moment_distance(codes: Tensor) -> Tensor:
    """Squared distance of the codes' mean and covariance from those of N(0, I), divided by d.

    (‖μ‖² + ‖Σ − I‖²) / d, estimated without bias: the two factors of each square come from different halves of the
    draws. The plain estimate is too large by about d/n, and minimising it would shrink the codes.

    Args:
        codes: [n, d], n even.

    Returns:
        A scalar. It can be slightly negative, because its expectation is 0 for N(0, I).
    """
    means, deviations = zip(*((half.mean(0), half - half.mean(0)) for half in codes.chunk(2)), strict=True)
    identity = torch.eye(codes.shape[1], device=codes.device)
    first, second = (d.T @ d / (len(d) - 1) - identity for d in deviations)
    distance: Tensor = (means[0] @ means[1] + (first * second).sum()) / codes.shape[1]
    return distance


def discriminator_loss(prior_logits: Tensor, code_logits: Tensor) -> Tensor:
    """−log D(p) − log(1 − D(q)) from logits [n] of prior draws p and of mixed codes q, which carry no gradient."""
    return F.softplus(-prior_logits).mean() + F.softplus(code_logits).mean()


def adversarial_loss(code_logits: Tensor) -> Tensor:
    """−log D(q), which the mixer minimises (HyperGAN, equation 3, in the form that does not saturate)."""
    return F.softplus(-code_logits).mean()
