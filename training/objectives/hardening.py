"""Adversarial training: some of each network's images are perturbed against it before it learns from them.

Mądry, Makelov, Schmidt, Tsipras & Vladu, "Towards Deep Learning Models Resistant to Adversarial Attacks", ICLR 2018,
with few steps from a random start (Wong, Rice & Kolter, "Fast is better than free", ICLR 2020).

Shapes: S sampled networks, B images each.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from models.inputs.image import ImageSpec
from models.targets.target import TargetNetwork, Weights


@dataclass(frozen=True)
class Hardening:
    """Settings of the perturbation."""

    epsilon: float = 0.1
    """Largest change of a pixel, as a share of the pixels' range."""
    steps: int = 3
    share: float = 0.5
    """Share of a network's images that are perturbed."""
    stride: float = 0.5
    """Length of a step, in units of epsilon."""


def harden(
    target: TargetNetwork,
    arranged: Weights,
    spec: ImageSpec,
    images: Tensor,
    labels: Tensor,
    noise: Tensor,
    hardening: Hardening,
) -> Tensor:
    """Images that are perturbed so that the network that sees them errs.

    Args:
        target: the target network.
        arranged: S networks, arranged by `TargetNetwork.arrange`. They receive no gradient.
        spec: describes the images.
        images: normalised, [S, B, C, H, W].
        labels: [S, B].
        noise: the random start, uniform on (−1, 1), a number for each of the images' numbers.
        hardening: the settings, of which the share is the caller's.
    """
    frozen = {name: tensor.detach() for name, tensor in arranged.items()}
    low, high = (spec.prepare(torch.full((spec.channels, 1, 1), value)).to(images.device) for value in (0.0, 255.0))
    reach = hardening.epsilon * (high - low)
    current = images + reach * noise
    for _ in range(hardening.steps):
        current = current.clamp(low, high).detach().requires_grad_()
        logits = target.forward(frozen, current)
        loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten())
        (gradient,) = torch.autograd.grad(loss, current)
        moved = current.detach() + hardening.stride * reach * gradient.sign()
        current = torch.minimum(torch.maximum(moved, images - reach), images + reach)
    return current.clamp(low, high)
