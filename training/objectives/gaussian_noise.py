"""Training for certificates: each network sees images with Gaussian noise, and learns to say the same of all copies.

Cohen, Rosenfeld & Kolter, "Certified Adversarial Robustness via Randomized Smoothing", ICML 2019, with the regulariser
of Jeong & Shin, "Consistency Regularization for Certified Robustness of Smoothed Classifiers", NeurIPS 2020.

Shapes: S sampled networks, B images each, m noisy copies of each, K classes.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from models.inputs.image import ImageSpec


@dataclass(frozen=True)
class GaussianNoise:
    """Settings of the noise."""

    deviation: float = 0.5
    """Standard deviation σ, in units of the pixels' range."""
    copies: int = 2
    """m."""
    consistency_weight: float = 5.0
    """λ, the weight of the regulariser."""
    entropy_weight: float = 0.5
    """η, the weight of the entropy in it."""


def add_noise(spec: ImageSpec, images: Tensor, draws: Tensor, noise: GaussianNoise) -> Tensor:
    """Noisy copies of images, copy after copy. No pixel is clipped, as none is in a certificate.

    Args:
        spec: describes the images.
        images: normalised, [S, B, C, H, W].
        draws: standard normal, [S, m · B, C, H, W].
        noise: the settings.
    """
    deviations = noise.deviation / torch.tensor(spec.std, device=images.device).view(-1, 1, 1)
    return images.repeat(1, noise.copies, 1, 1, 1) + deviations * draws


def consistency_loss(logits: Tensor, noise: GaussianNoise) -> Tensor:
    """λ (mean KL divergence of the copies' probabilities from their mean + η · entropy of the mean), averaged.

    Args:
        logits: of the copies, copy after copy, [S, m · B, K].
        noise: the settings.
    """
    logs = logits.unflatten(1, (noise.copies, -1)).log_softmax(-1)
    mean = logs.exp().mean(1, keepdim=True)
    log_mean = logs.logsumexp(1, keepdim=True) - torch.tensor(float(noise.copies)).log()
    divergence = (mean * (log_mean - logs)).sum(-1).mean()
    entropy = -(mean * log_mean).sum(-1).mean()
    loss: Tensor = noise.consistency_weight * (divergence + noise.entropy_weight * entropy)
    return loss
