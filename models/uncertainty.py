"""Predictive uncertainty of an ensemble, in nats.

Shapes: S members, B images, K classes.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


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


def entropy(probabilities: Tensor) -> Tensor:
    """−Σ p ln p over the last axis, with 0 ln 0 = 0."""
    return -torch.xlogy(probabilities, probabilities).sum(-1)


def measure_uncertainty(member_probabilities: Tensor) -> Uncertainty:
    """Uncertainty of an ensemble.

    Args:
        member_probabilities: [S, B, K].

    Raises:
        ValueError: if a probability is not finite, for an ensemble that computed nonsense is not certain.
    """
    if not torch.isfinite(member_probabilities).all():
        raise ValueError("a sampled network gave probabilities that are not finite")
    members = member_probabilities.double()
    mean = members.mean(0)
    predictive, expected = entropy(mean), entropy(members).mean(0)
    votes = torch.nn.functional.one_hot(members.argmax(-1), members.shape[-1]).double().mean(0)
    return Uncertainty(
        probabilities=mean,
        predictive_entropy=predictive,
        expected_entropy=expected,
        mutual_information=(predictive - expected).clamp(min=0),
        variation_ratio=1 - votes.amax(-1),
    )
