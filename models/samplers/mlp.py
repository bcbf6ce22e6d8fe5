"""The simplest hypernetwork: one perceptron from a latent to all weights of the target.

With tanh layers of 30, 10 and 10 units, biases, and one latent number, it is the one of Deutsch's toy problem
("Generating Neural Networks With Neural Networks", 2018, section 4.1), whose two weights are a point in the plane.
"""

import math
from collections.abc import Collection
from itertools import pairwise
from typing import Annotated, Literal

from pydantic import FailFast, Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from models.samplers.sampler import Hypernetwork
from models.schema import STRICT, Size
from models.targets.target import TargetNetwork, Weights

INITIAL_GAIN, INITIAL_BIAS_STD = 2.0, 1.0
"""σ of initial weights times the root of their fan-in, and σ of initial biases. One latent number must reach all of
weight space: a curve that starts wide and folded finds distant peaks, while a short one stays near a few."""


@dataclass(frozen=True, config=STRICT)
class MLPConfig:
    """Sizes of Deutsch's toy problem."""

    latent_size: Size = 1
    hidden_sizes: Annotated[tuple[Size, ...], Field(min_length=1, max_length=100), FailFast()] = (30, 10, 10)
    method: Literal["mlp"] = "mlp"

    def build(self, target: TargetNetwork) -> "MLPHypernetwork":
        return MLPHypernetwork(self, target)


class MLPHypernetwork(Hypernetwork):
    """One perceptron with tanh hidden layers. Its codes are the latents themselves, uniform on (−1, 1)."""

    latent_prior = "uniform"

    def __init__(self, config: MLPConfig, target: TargetNetwork) -> None:
        super().__init__(target, config.latent_size)
        self.config = config
        self.joint_code_size = config.latent_size
        modules: list[nn.Module] = []
        for fan_in, fan_out in pairwise((config.latent_size, *config.hidden_sizes, target.num_weights)):
            linear = nn.Linear(fan_in, fan_out)
            nn.init.normal_(linear.weight, std=INITIAL_GAIN / math.sqrt(fan_in))
            nn.init.normal_(linear.bias, std=INITIAL_BIAS_STD)
            modules += [linear, nn.Tanh()]
        self.layers = nn.Sequential(*modules[:-1])

    def mix(self, latents: Tensor) -> Tensor:
        return latents

    def generate_from_codes(self, codes: Tensor, names: Collection[str] | None = None) -> Weights:
        return self.target.split_weights(self.layers(codes), names)
