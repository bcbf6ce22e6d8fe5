"""APD: Wang, Vicol, Lucas, Gu, Grosse & Zemel, "Adversarial Distillation of Bayesian Neural Network Posteriors",
ICML 2018. A generator of all weights at once, trained as a GAN on networks that Langevin dynamics visited.

Deviation from the authors' code: the samples are standardised, coordinate by coordinate, before the GAN sees them, and
what it generates is brought back. Langevin's samples lie close together; without this the generator has to find their
mean to a precision that its steps do not have.

Shapes: S sampled networks, D weights of one.
"""

import math
from collections.abc import Collection
from itertools import pairwise
from typing import Literal

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from models.samplers.sampler import WeightSampler
from models.schema import STRICT, Size
from models.targets.target import TargetNetwork, Weights


@dataclass(frozen=True, config=STRICT)
class APDConfig:
    """Sizes of the authors' MNIST experiment."""

    latent_size: Size = 100
    hidden_size: Size = 100
    method: Literal["apd"] = "apd"

    def build(self, target: TargetNetwork) -> "APD":
        return APD(self, target)


class APD(WeightSampler):
    """The generator: a perceptron with three hidden layers."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, config: APDConfig, target: TargetNetwork) -> None:
        super().__init__(target, config.latent_size)
        self.config = config
        self.layers = make_perceptron(config.latent_size, config.hidden_size, target.num_weights)
        self.register_buffer("mean", torch.zeros(target.num_weights))  # of the samples that it learned from
        self.register_buffer("deviation", torch.ones(target.num_weights))

    def generate_standardized(self, latents: Tensor) -> Tensor:
        """Networks as vectors, in units of the samples' deviation: [S, Z] → [S, D]."""
        vectors: Tensor = self.layers(latents)
        return vectors

    def generate(self, latents: Tensor, names: Collection[str] | None = None) -> Weights:
        vectors = self.mean + self.deviation * self.generate_standardized(latents)
        return self.target.split_weights(vectors, names)


def make_perceptron(inputs: int, hidden_size: int, outputs: int) -> nn.Sequential:
    """Three hidden layers of rectifiers, which generator and critic share, initialised after He."""
    modules: list[nn.Module] = []
    for fan_in, fan_out in pairwise((inputs, hidden_size, hidden_size, hidden_size, outputs)):
        linear = nn.Linear(fan_in, fan_out)
        nn.init.normal_(linear.weight, std=math.sqrt(2 / fan_in))
        nn.init.zeros_(linear.bias)
        modules += [linear, nn.ReLU()]
    return nn.Sequential(*modules[:-1])
