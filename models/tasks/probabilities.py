"""Arithmetic of class probabilities.

A probability may be too small for a floating-point number, but its logarithm is not. Logarithms are therefore computed
from logits, never from probabilities.

Shapes: S members, B inputs, K classes.
"""

import math

import torch
from torch import Tensor

BINS = 15
"""Number of bins of confidence."""


class NotFiniteError(ValueError):
    """Network outputs that are not finite. They must not pass for certainty."""


def shannon_entropy(probabilities: Tensor) -> Tensor:
    """Shannon's entropy: −Σ p ln p over the last axis, with 0 ln 0 = 0."""
    return -torch.xlogy(probabilities, probabilities).sum(-1)


def average_logits(logits: Tensor) -> Tensor:
    """ln of the mean probabilities of S networks, [B, K], from their logits, or any logarithms, [S, B, K]."""
    return logits.log_softmax(-1).logsumexp(0) - math.log(len(logits))


def compute_probabilities(logits: Tensor) -> Tensor:
    """Class probabilities in double precision, with the shape of the logits.

    Raises:
        NotFiniteError: if a logit is not finite.
    """
    if not torch.isfinite(logits).all():
        raise NotFiniteError("a sampled network gave logits that are not finite")
    return logits.double().softmax(-1)


def measure_calibration_error(confidences: Tensor, right: Tensor) -> float:
    """Expected calibration error, in `BINS` bins of equal width (Guo et al., ICML 2017).

    Args:
        confidences: probabilities of the answers, [B].
        right: whether each is right, [B].
    """
    gaps = confidences.double() - right.double()
    bins = (confidences.double() * BINS).ceil().long().clamp(1, BINS) - 1
    return float(torch.zeros(BINS, dtype=torch.float64).index_add(0, bins, gaps).abs().sum() / len(gaps))


def measure_disagreement(member_probabilities: Tensor) -> float:
    """Share of images on which two random distinct members choose different classes; 0 for a single member.

    Args:
        member_probabilities: [S, B, K].
    """
    size, _, classes = member_probabilities.shape
    if size == 1:
        return 0.0
    counts = torch.nn.functional.one_hot(member_probabilities.argmax(-1), classes).sum(0).double()
    agreeing = (counts * (counts - 1)).sum(-1) / (size * (size - 1))
    return float(1 - agreeing.mean())
