"""MC dropout: Gal & Ghahramani, "Dropout as a Bayesian Approximation", ICML 2016.

There is one network, and every layer but the first sees its inputs through a mask. A mask scales the weights that read
an input, so a network with its own mask is a network with its own weights: dropout is a weight sampler. In training and
in use, a mask belongs to a sampled network, not to an image. It drops whole channels of a convolution.

Shapes: S sampled networks, Z hidden channels and units.
"""

from collections.abc import Collection
from typing import Annotated, Literal

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from models.samplers.sampler import NetworkStack, WeightSampler
from models.schema import STRICT
from models.targets.target import TargetNetwork, Weights


@dataclass(frozen=True, config=STRICT)
class MCDropoutConfig:
    """The rate of the paper's convolutional networks."""

    rate: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Share of channels and units that are dropped."""
    method: Literal["mc_dropout"] = "mc_dropout"

    def build(self, target: TargetNetwork) -> "MCDropout":
        return MCDropout(self, target)


class MCDropout(WeightSampler):
    """One network and its masks. Each latent number decides whether a channel or unit is dropped."""

    latent_prior = "uniform"

    def __init__(self, config: MCDropoutConfig, target: TargetNetwork) -> None:
        target.require_no_normalization(config.method)
        self._masked = {
            f"{layer}.weight": target.parameter_shapes[f"{layer}.weight"][1] for layer in target.weighted_layers[1:]
        }
        if not self._masked:
            raise ValueError("a target with one layer has no hidden units to drop")
        super().__init__(target, sum(self._masked.values()))
        self.config = config
        self.network = NetworkStack(target, 1)

    def generate(self, latents: Tensor, names: Collection[str] | None = None) -> Weights:
        rate = self.config.rate
        masks = torch.where(latents >= 2 * rate - 1, 1 / (1 - rate), 0.0).split(list(self._masked.values()), dim=1)
        mask_of = dict(zip(self._masked, masks, strict=True))
        weights = self.network.select(torch.zeros(len(latents), dtype=torch.int64, device=latents.device), names)
        for name in weights.keys() & mask_of.keys():
            weights[name] = weights[name] * mask_of[name].view(len(latents), 1, -1, *[1] * (weights[name].dim() - 3))
        return weights
