"""APD: Wang, Vicol, Lucas, Gu, Grosse & Zemel, "Adversarial Distillation of Bayesian Neural Network Posteriors",
ICML 2018. A generator of all weights at once, trained as a GAN on networks that Langevin dynamics visited.

Deviation from the authors' code: each coordinate of the samples is standardised before the GAN sees it, and restored in
what the GAN generates. Langevin samples lie close together, so without this the generator would have to find their mean
more precisely than its steps allow.

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
        self.register_buffer("mean", torch.zeros(target.num_weights))  # of the samples used in training
        self.register_buffer("deviation", torch.ones(target.num_weights))

    def generate_standardized(self, latents: Tensor) -> Tensor:
        """Networks as vectors, in units of the samples' deviation: [S, Z] → [S, D]."""
        vectors: Tensor = self.layers(latents)
        return vectors

    def generate(self, latents: Tensor, names: Collection[str] | None = None) -> Weights:
        vectors = self.mean + self.deviation * self.generate_standardized(latents)
        return self.target.split_weights(vectors, names)


def make_perceptron(inputs: int, hidden_size: int, outputs: int) -> nn.Sequential:
    """A perceptron with three hidden layers of rectifiers, with He's initialisation, for generator and critic."""
    modules: list[nn.Module] = []
    for fan_in, fan_out in pairwise((inputs, hidden_size, hidden_size, hidden_size, outputs)):
        linear = nn.Linear(fan_in, fan_out)
        nn.init.normal_(linear.weight, std=math.sqrt(2 / fan_in))
        nn.init.zeros_(linear.bias)
        modules += [linear, nn.ReLU()]
    return nn.Sequential(*modules[:-1])
