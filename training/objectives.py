"""Losses.

Shapes: S sampled networks, B images, K classes, n draws, d numbers in the joint code of a draw.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of S networks, logits [S, B, K], each on images of its own, labels [S, B]."""
    return F.cross_entropy(logits.flatten(0, 1), labels.flatten())


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
