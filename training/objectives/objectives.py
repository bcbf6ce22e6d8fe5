"""Objectives: what a training run minimises is a sum of terms, each a function here.

* The fit: cross-entropy, the Gaussian likelihood, or the energy of a density over weights.
* The diversity of the sampled weights, as entropy or variance, after gauge fixing. Deutsch ("Generating Neural Networks
  With Neural Networks", 2018) minimises λ · accuracy loss − H(weights). With the mean loss of an example and λ = the
  size of the training set this is variational inference with a flat prior, the negative evidence lower bound; other
  λ temper the posterior. That is exact where a sampler can reach any weights and no gauge is fixed. Otherwise H is the
  entropy of the gauge-fixed weights along the manifold that the sampler reaches, and the posterior is one on it. We
  divide by λ, so that the fit keeps its scale.
* The predictive entropy on synthetic outliers, of which there ought to be much.
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
from models.tasks.classification import Classification
from models.tasks.probabilities import average_logits
from models.tasks.regression import Regression
from models.tasks.task import Task

Measure = Literal["entropy", "variance"]


@dataclass(frozen=True)
class Diversity:
    """What is added to a mean loss to keep the sampled networks apart: −diversity / λ.

    Raises:
        ValueError: if λ is not positive.
    """

    accuracy_weight: float
    """λ, the weight of the fit against a diversity of weight 1."""
    measure: Measure = "entropy"
    gauge: tuple[GaugeStep, ...] = ("scaling", "logit_bias")
    equal_layers: bool = False
    """Whether each layer's vectors are divided by their root mean square norm over networks, so that neither the layer
    with most weights rules distances, nor the last one, whose scale no gauge fixes; the paper does without."""
    initial_share: float = 1.0
    """λ starts at this share of itself and rises over the first 70 % of a run: diversity first, so that the networks
    have been everywhere before they settle."""
    floor: float = 0.0
    """Added to distances, for samplers that may well draw a network twice in float32; else that is an error."""

    def __post_init__(self) -> None:
        if not self.accuracy_weight > 0:
            raise ValueError(f"the weight of accuracy, λ, must be positive, not {self.accuracy_weight}")

    def measure_loss(self, target: TargetNetwork, weights: Weights, latent_size: int, progress: float = 1.0) -> Tensor:
        """−diversity / λ of S networks whose latents have some number of dimensions, at some share of a run.

        Raises:
            ValueError: if there are fewer than two networks, or two are the same.
        """
        layers = list(target.layer_vectors(fix_gauge(target, weights, self.gauge)).values())
        if self.equal_layers:
            layers = [vectors / vectors.square().sum(1).mean().sqrt() for vectors in layers]
        samples = torch.cat(layers, dim=1)
        diversity = (
            relative_variance(samples) if self.measure == "variance" else entropy(samples, latent_size, self.floor)
        )
        share: float = self.initial_share ** (1 - min(1.0, progress / 0.7))
        return -diversity / (share * self.accuracy_weight)


def measure_fit(task: Task, outputs: Tensor, labels: Tensor, class_weights: Tensor | None = None) -> Tensor:
    """The mean loss of an example: outputs [S, B, K] of networks, each with labels of its own, [S, B] or [S, B, K].

    The examples of a class may have a weight, [K].
    """
    match task:
        case Classification():
            if class_weights is None:
                return cross_entropy(outputs, labels)
            return weighted_cross_entropy(outputs, labels, class_weights)
        case Regression():
            return gaussian_loss(task.predict(outputs), labels, torch.tensor(task.noise_std, device=outputs.device))


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of S networks, logits [S, B, K], each on inputs of its own, labels [S, B]."""
    return F.cross_entropy(logits.flatten(0, 1), labels.flatten())


def weighted_cross_entropy(logits: Tensor, labels: Tensor, class_weights: Tensor) -> Tensor:
    """The mean of cross-entropy times the weight of its class, [K]; in expectation that of all examples, for any B."""
    return F.cross_entropy(logits.flatten(0, 1), labels.flatten(), class_weights, reduction="none").mean()


def balance_classes(labels: Tensor, classes: int) -> Tensor:
    """Weights of classes, [K], by which all weigh the same in labels [n], and an example weighs 1 in the mean."""
    counts = labels.bincount(minlength=classes)
    return len(labels) / (classes * counts.clamp(min=1))


def gaussian_loss(expectations: Tensor, observations: Tensor, noise_std: Tensor) -> Tensor:
    """−log N(y; f, σ²) of an example without its constant: ½ ‖(f − y)/σ‖², [S, B, K] and σ [K], averaged over S, B."""
    return ((expectations - observations) / noise_std).square().sum(-1).mean() / 2


def outlier_loss(logits: Tensor, group_size: int | None = None) -> Tensor:
    """ln K less the predictive entropy of groups of networks on outliers, logits [S, B, K], averaged over groups and B.

    It is 0 where a group's mean is uniform, be it that each network is undecided, or that they decide differently.
    Asked one by one to be undecided, networks lose accuracy, and agree where they should differ. All in one group, some
    dissent for the others, on the images of the data too, and are bad networks by themselves.

    Args:
        logits: of S networks, in an order in which each group is as good as another.
        group_size: most networks of a group, if not all; the groups are as equal as can be.
    """
    groups = logits.tensor_split(math.ceil(len(logits) / (group_size or len(logits))))
    log_means = torch.stack([average_logits(group) for group in groups])
    loss: Tensor = math.log(logits.shape[-1]) + (log_means.exp() * log_means).sum(-1).mean()
    return loss


def entropy(samples: Tensor, dimension: int | None = None, floor: float = 0.0) -> Tensor:
    """Differential entropy in nats, by Kozachenko and Leonenko's nearest-neighbour estimator.

    H = ψ(n) − ψ(1) + log V_d + d · mean_i log ε_i, with ε_i the Euclidean distance from sample i to its nearest
    neighbour and V_d the volume of the unit ball (Kraskov, Stögbauer & Grassberger 2004, equation 20, k = 1, where ε
    is twice this distance). Its bias falls with n, so estimates at different n are not comparable.

    Args:
        samples: [n, D]. Distances are differences of coordinates, not of squares: float32 is precise enough.
        dimension: d, of the manifold that the samples lie on, D if not given. Generated weights lie on one of the
            latents' dimension at most (Deutsch 2018, section 3.3).
        floor: added to distances; the author's code adds 1e-8.

    Raises:
        ValueError: if n < 2, or two samples are the same and the floor is 0, so that the estimate is −∞.
    """
    n, d = len(samples), dimension or samples.shape[1]
    if n < 2:
        raise ValueError(f"the entropy of {n} sample(s) cannot be estimated; it takes at least 2")
    with torch.no_grad():
        distances = torch.cdist(samples, samples, compute_mode="donot_use_mm_for_euclid_dist")
        nearest = distances.fill_diagonal_(math.inf).argmin(dim=1)
        same = distances.amin(dim=1) == 0
        if floor == 0 and bool(same.any()):
            first = int(same.nonzero()[0])
            raise ValueError(
                f"samples {first} and {int(nearest[first])} of {n} are the same, so their entropy is −∞: "
                "the sampler has collapsed, or was given the same latent twice"
            )
    distance = floor + (samples - samples[nearest]).norm(dim=1)  # of the neighbours alone: no root of 0 in the gradient
    log_volume = d / 2 * math.log(math.pi) - math.lgamma(d / 2 + 1)
    psi = torch.digamma(torch.tensor([float(n), 1.0]))
    estimate: Tensor = d * distance.log().mean() + log_volume + float(psi[0] - psi[1])
    return estimate


def relative_variance(samples: Tensor) -> Tensor:
    """The samples' variance, [n, D], as a share of their mean square, both summed over coordinates.

    Between 0 and n / (n − 1), so that no scale that the gauge leaves free can make it grow, unlike entropy.

    Raises:
        ValueError: if n < 2.
    """
    if len(samples) < 2:
        raise ValueError(f"the variance of {len(samples)} sample(s) cannot be estimated; it takes at least 2")
    return samples.var(0).sum() / samples.square().mean(0).sum()


def moment_distance(codes: Tensor) -> Tensor:
    """Squared distance of the codes' mean and covariance from those of N(0, I), for each of d dimensions.

    (‖μ‖² + ‖Σ − I‖²) / d, estimated without bias: each factor of a square comes from its own half of the draws. The
    plain estimate exceeds the truth by about d/n, which its minimiser pays for by shrinking the codes.

    Args:
        codes: [n, d], n even.

    Returns:
        a scalar; it may be slightly negative, as its expectation is 0 for N(0, I).
    """
    means, deviations = zip(*((half.mean(0), half - half.mean(0)) for half in codes.chunk(2)), strict=True)
    identity = torch.eye(codes.shape[1], device=codes.device)
    first, second = (d.T @ d / (len(d) - 1) - identity for d in deviations)
    distance: Tensor = (means[0] @ means[1] + (first * second).sum()) / codes.shape[1]
    return distance


def discriminator_loss(prior_logits: Tensor, code_logits: Tensor) -> Tensor:
    """−log D(p) − log(1 − D(q)), from logits [n] of prior draws p and of mixed codes q that carry no gradient."""
    return F.softplus(-prior_logits).mean() + F.softplus(code_logits).mean()


def adversarial_loss(code_logits: Tensor) -> Tensor:
    """−log D(q), what the mixer minimises (HyperGAN, equation 3, in the form that does not saturate)."""
    return F.softplus(-code_logits).mean()
