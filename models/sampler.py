"""The weight sampler: what every method here is, hypernetwork or baseline."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence

import torch
from torch import Tensor, nn

from models.noise import standard_normal
from models.target import TargetNetwork, Weights


class WeightSampler(nn.Module, ABC):
    """A distribution over the weights of a target network.

    Every sampled network has an address: checkpoint, seed, member. Its weights depend on nothing else, so member 3
    of seed 7 is the same network alone, among 4 or among 1000 (up to the rounding of the device's matrix products).

    Shapes: S sampled networks, Z latent numbers.
    """

    def __init__(self, target: TargetNetwork, latent_size: int) -> None:
        super().__init__()
        self.target = target
        self.latent_size = latent_size

    @abstractmethod
    def generate(self, latents: Tensor, names: Collection[str] | None = None) -> Weights:
        """Maps latents to weights, differentiably.

        Args:
            latents: [S, Z], on the sampler's device.
            names: the parameters wanted, if not all; the others cost nothing.

        Returns:
            the weights of S networks, in the order of the target's parameters.
        """

    def draw_latents(self, seed: int, members: Sequence[int]) -> Tensor:
        """The latents of some members of a seed: N(0, I), [S, Z], on the sampler's device."""
        return standard_normal(seed, members, self.latent_size).to(self.device)

    @torch.inference_mode()
    def sample(self, seed: int, members: Sequence[int], names: Collection[str] | None = None) -> Weights:
        """Draws the networks at (seed, member) for each of `members`, as `generate` returns them."""
        return self.generate(self.draw_latents(seed, members), names)

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device
