"""Perturbations of images that change the networks' answer: projected gradient descent within a ball of pixels.

Mądry, Makelov, Schmidt, Tsipras & Vladu, "Towards Deep Learning Models Resistant to Adversarial Attacks", ICLR 2018,
with momentum (Dong et al., "Boosting Adversarial Attacks with Momentum", CVPR 2018) and shrinking steps.

Gradients in expectation over networks are noisy, and so are their signs. The momentum therefore averages gradients, not
signs: a pixel whose gradient is small counts little.

Shapes: K networks, n images, C classes.
"""

import math
from collections.abc import Generator
from typing import Literal

import torch
from torch import Tensor

from models.inputs.spec import InputSpec
from models.noise import uniform
from models.samplers.sampler import WeightSampler
from models.tasks.probabilities import NotFiniteError, average_logits

ATTACK_STREAM = 13
MOMENTUM = 0.75

Norm = Literal["linf", "l2"]


class Descent:
    """Descends a loss from a random start, within epsilon of the images and within the pixels' range.

    Args:
        images: [n, C, H, W], between 0 and 1.
        start: offset of the start in units of epsilon, uniform on (−1, 1), of the same shape.
        norm: norm of epsilon.
        epsilon: largest change, in units of the pixels' range.
        steps: number of steps; they shrink from a quarter of epsilon to almost nothing.
    """

    def __init__(self, images: Tensor, start: Tensor, norm: Norm, epsilon: float, steps: int) -> None:
        self.images, self.norm, self.epsilon, self.steps = images, norm, epsilon, steps
        self.current = project(images + epsilon * start, images, norm, epsilon)
        """Images after the last step, [n, C, H, W]."""
        self._momentum = torch.zeros_like(images)
        self._taken = 0

    def step(self, gradient: Tensor, running: Tensor | None = None) -> None:
        """Takes a step, given the loss's gradient at `current`. Images stay where `running`, bool [n], is false."""
        epsilon = self.epsilon
        self._momentum = MOMENTUM * self._momentum + find_steepest(gradient, "l2")
        size = 0.25 * epsilon * (1 + math.cos(math.pi * self._taken / self.steps)) / 2 + 0.002 * epsilon
        current = self.current.detach()
        moved = project(current - size * find_steepest(self._momentum, self.norm), self.images, self.norm, epsilon)
        self.current = moved if running is None else torch.where(running.view(-1, 1, 1, 1), moved, current)
        self._taken += 1


def perturb(
    sampler: WeightSampler, spec: InputSpec, pixels: Tensor, seed: int, size: int, epsilon: float, steps: int
) -> Generator[None, None, Tensor]:
    """Perturbs images so that an ensemble changes its answer, if these few steps suffice. Failure proves nothing.

    The loss is the logarithm of the mean probability of the class that the ensemble chooses for the original image,
    minus that of the best other class. Where a probability rounds to 1, its own gradient vanishes, but the loss's does
    not. The attack ignores flags, and networks outside the ensemble.

    Args:
        sampler: a sampler in evaluation mode.
        spec: the target's input.
        pixels: uint8 [n, C, H, W].
        seed: seed of the attacked networks, and of the start.
        size: K.
        epsilon: largest change of a pixel, in units of the pixels' range.
        steps: number of steps of the descent.

    Yields:
        after each step, so that other work can run in between.

    Returns:
        uint8 [n, C, H, W], rounded so that no pixel changes by more than ⌊255 ε⌋.

    Raises:
        NotFiniteError: if an output is not finite.
    """
    images, target = pixels / 255, sampler.target
    with torch.no_grad():
        weights = target.arrange(sampler.generate(sampler.draw_latents(seed, range(size))))

    def evaluate(current: Tensor) -> Tensor:
        logits = target.forward(weights, spec.prepare(255 * current).to(sampler.device)).cpu()
        if not torch.isfinite(logits).all():
            raise NotFiniteError("a sampled network gave logits that are not finite")
        return average_logits(logits)

    with torch.no_grad():
        labels = evaluate(images).argmax(-1)
    yield
    start = uniform(seed, range(len(images)), images[0].numel(), ATTACK_STREAM).view_as(images)
    reach = round_down(epsilon)
    descent = Descent(images, start, "linf", reach, steps)
    for _ in range(steps):
        current = descent.current.requires_grad_()
        (gradient,) = torch.autograd.grad(measure_margin(evaluate(current), labels).sum(), current)
        descent.step(gradient)
        yield
    return (255 * descent.current).round().to(torch.uint8)


def measure_margin(log_probabilities: Tensor, labels: Tensor) -> Tensor:
    """ln p of the label minus that of the most probable other class, [n], from [n, C]."""
    label = labels[:, None]
    others = log_probabilities.scatter(1, label, -math.inf).amax(1)
    return log_probabilities.gather(1, label)[:, 0] - others


def find_steepest(gradient: Tensor, norm: Norm) -> Tensor:
    """Steepest direction of length 1 in a norm, for each image of [n, C, H, W]."""
    if norm == "linf":
        return gradient.sign()
    lengths = gradient.flatten(1).norm(dim=1).clamp(min=1e-30)
    unit: Tensor = gradient / lengths.view(-1, 1, 1, 1)
    return unit


def round_down(epsilon: float) -> float:
    """Largest change of a pixel within epsilon that is left when pixels are rounded to 8 bits."""
    return math.floor(255 * epsilon + 1e-9) / 255


def project(images: Tensor, around: Tensor, norm: Norm, epsilon: float) -> Tensor:
    """Nearest images within epsilon of others, [n, C, H, W], between 0 and 1. For L2, not always the nearest."""
    if norm == "linf":
        return torch.minimum(torch.maximum(images, around - epsilon), around + epsilon).clamp(0, 1)
    difference = (images.clamp(0, 1) - around).flatten(1)
    shares = (epsilon / difference.norm(dim=1).clamp(min=1e-30)).clamp(max=1)
    projected: Tensor = around + (difference * shares[:, None]).view_as(around)
    return projected
