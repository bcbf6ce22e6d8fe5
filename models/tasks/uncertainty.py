"""Predictive uncertainty of an ensemble: of classes in nats, of numbers as variances.

A probability may be too small for a floating-point number; its logarithm is not. What takes logarithms is made of
logits, never of probabilities.

Shapes: S members, B inputs, K classes or numbers.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor


class NotFiniteError(ValueError):
    """Networks that computed nonsense, which must not pass for certainty."""


@dataclass(frozen=True)
class Uncertainty:
    """What S members' class probabilities say together; every tensor in double precision.

    The predictive entropy is the sum of the expected entropy, what the members agree is ambiguous, and the mutual
    information of prediction and network, where they disagree (Depeweg et al., ICML 2018).
    """

    probabilities: Tensor
    """[B, K], the mean over members."""
    predictive_entropy: Tensor
    """[B], entropy of the mean."""
    expected_entropy: Tensor
    """[B], mean of the members' entropies."""
    mutual_information: Tensor
    """[B], the difference, at least 0."""
    variation_ratio: Tensor
    """[B], the share of members that do not vote for the class with the most votes."""
    max_probability: Tensor
    """[B], 1 − the largest mean probability, so that it grows with uncertainty as the others do."""
    energy: Tensor
    """[B], −ln Σ exp of the mean logits (Liu et al., NeurIPS 2020); it may be negative."""


@dataclass(frozen=True)
class RegressionUncertainty:
    """What S members' expectations of K numbers say together; every tensor in double precision.

    The predictive distribution is the mixture of the members' normal ones. Its variance is the sum of the noise's,
    which no further data would lessen, and the variance of the members' expectations, their disagreement.
    """

    mean: Tensor
    """[B, K], the mean over members."""
    variance: Tensor
    """[B, K], of the predictive distribution."""
    noise_variance: Tensor
    """[B, K]."""
    epistemic_variance: Tensor
    """[B, K], of the members' expectations, with divisor S, as they are the whole mixture."""
    relative_deviation: Tensor
    """[B], the root of the epistemic variance in units of the numbers' variance in training, averaged over them."""


def entropy(probabilities: Tensor) -> Tensor:
    """−Σ p ln p over the last axis, with 0 ln 0 = 0."""
    return -torch.xlogy(probabilities, probabilities).sum(-1)


def average_logits(logits: Tensor) -> Tensor:
    """ln of the mean probabilities of S networks, [B, K], from their logits, or any logarithms, [S, B, K]."""
    return logits.log_softmax(-1).logsumexp(0) - math.log(len(logits))


def normalize_logits(logits: Tensor) -> Tensor:
    """Class probabilities in double precision, of the shape of the logits.

    Raises:
        NotFiniteError: if a logit is not finite.
    """
    if not torch.isfinite(logits).all():
        raise NotFiniteError("a sampled network gave logits that are not finite")
    return logits.double().softmax(-1)


def measure_uncertainty(logits: Tensor) -> Uncertainty:
    """Uncertainty of an ensemble.

    Args:
        logits: of the members, [S, B, K].

    Raises:
        NotFiniteError: if a logit is not finite.
    """
    members = normalize_logits(logits)
    mean = members.mean(0)
    predictive, expected = entropy(mean), entropy(members).mean(0)
    votes = torch.nn.functional.one_hot(members.argmax(-1), members.shape[-1]).double().mean(0)
    return Uncertainty(
        probabilities=mean,
        predictive_entropy=predictive,
        expected_entropy=expected,
        mutual_information=(predictive - expected).clamp(min=0),
        variation_ratio=1 - votes.amax(-1),
        max_probability=1 - mean.amax(-1),
        energy=-logits.double().mean(0).logsumexp(-1),
    )


def measure_regression_uncertainty(
    member_expectations: Tensor, noise_std: Tensor, unit: Tensor
) -> RegressionUncertainty:
    """Uncertainty of an ensemble.

    Args:
        member_expectations: [S, B, K].
        noise_std: [K], of the observations around their expectation.
        unit: [K], the numbers' standard deviation in training.

    Raises:
        NotFiniteError: if an expectation is not finite.
    """
    if not torch.isfinite(member_expectations).all():
        raise NotFiniteError("a sampled network gave an expectation that is not finite")
    members = member_expectations.double()
    epistemic = members.var(0, correction=0)
    noise = noise_std.double().square().expand_as(epistemic)
    return RegressionUncertainty(
        mean=members.mean(0),
        variance=noise + epistemic,
        noise_variance=noise,
        epistemic_variance=epistemic,
        relative_deviation=(epistemic / unit.double().square()).mean(-1).sqrt(),
    )
