"""Deep ensembles: networks that were trained apart from one another, each from an initialisation of its own.

Lakshminarayanan, Pritzel & Blundell, "Simple and Scalable Predictive Uncertainty Estimation using Deep Ensembles",
NeurIPS 2017.

A draw takes them without replacement, in an order that belongs to the seed, and there are no more than were trained.

Deviation from the paper: the members are not trained on adversarial examples, as most users leave that out.

Shapes: M networks held, S drawn.
"""

from collections.abc import Collection, Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor
from typing_extensions import override

from models.layers import STRICT
from models.noise import permutations
from models.sampler import NetworkStack, WeightSampler
from models.target import TargetNetwork, Weights


@dataclass(frozen=True, config=STRICT)
class DeepEnsembleConfig:
    """The number of networks in HyperGAN's comparison."""

    networks: Annotated[int, Field(ge=1, le=10_000)] = 10
    method: Literal["deep_ensemble"] = "deep_ensemble"

    def build(self, target: TargetNetwork) -> "DeepEnsemble":
        return DeepEnsemble(self, target)


class DeepEnsemble(WeightSampler):
    """M networks; a latent is the number of one, [S, 1]."""

    def __init__(self, config: DeepEnsembleConfig, target: TargetNetwork) -> None:
        super().__init__(target, latent_size=1)
        self.config = config
        self.num_networks = config.networks
        self.networks = NetworkStack(target, config.networks)

    def draw_latents(self, seed: int, members: Sequence[int], stream: int = 0) -> Tensor:
        """The numbers of the networks at some places of a seed's order.

        Raises:
            ValueError: if there are not so many networks.
        """
        held, last = self.config.networks, max(members, default=0)
        if last >= held:
            raise ValueError(f"an ensemble of {held} networks has members 0 to {held - 1}, but no {last}")
        order = permutations(seed, [0], self.config.networks, stream)[0]
        return order[list(members), None].float().to(self.device)

    @override
    def draw_training_latents(self, seed: int, step: int, count: int) -> Tensor:
        """All networks, in order, so that each step trains each of them."""
        if count != self.config.networks:
            raise ValueError(f"a step trains all {self.config.networks} networks of an ensemble, not {count}")
        return torch.arange(count, device=self.device)[:, None]

    def generate(self, latents: Tensor, names: Collection[str] | None = None) -> Weights:
        return self.networks.select(latents[:, 0].long(), names)
