"""Samplers with modes: a latent chooses one of M networks, and may move around it.

Shapes: S sampled networks, M modes, Z numbers of z.
"""

from abc import ABC
from collections.abc import Sequence

import torch
from torch import Tensor
from typing_extensions import override

from models.noise import permutations
from models.samplers.sampler import TRAINING_STREAM, WeightSampler
from models.targets.target import TargetNetwork

MODE_STREAM = 12


class ModalSampler(WeightSampler, ABC):
    """A sampler whose latents are the number of a mode, then z: [S, 1 + Z].

    Without z there are only M networks. They are drawn without replacement, in an order that depends on the seed.
    """

    def __init__(self, target: TargetNetwork, modes: int, latent_size: int) -> None:
        super().__init__(target, 1 + latent_size)
        self.num_modes = modes
        self.num_networks = None if latent_size else modes

    @override
    def draw_latents(self, seed: int, members: Sequence[int], stream: int = 0) -> Tensor:
        """Latents whose modes take turns: every M members use each mode once, in their own random order."""
        count, last = self.num_modes, max(members, default=0)
        if self.num_networks is not None:
            if last >= count:
                raise ValueError(f"an ensemble of {count} networks has members 0 to {count - 1}, but not {last}")
            order = permutations(seed, [0], count, stream)[0]
            return order[list(members), None].float().to(self.device)
        turns = sorted({member // count for member in members})
        orders = dict(zip(turns, permutations(seed, turns, count, MODE_STREAM).tolist(), strict=True))
        modes = torch.tensor([[orders[member // count][member % count]] for member in members])
        z = super().draw_latents(seed, members, stream)[:, 1:]
        return torch.cat([modes.to(z), z], dim=1)

    @override
    def draw_training_latents(self, seed: int, step: int, count: int) -> Tensor:
        """Latents with each mode equally often, in order, so that each sees its own order of examples; z is new."""
        if count % self.num_modes:
            raise ValueError(f"a step must train a multiple of {self.num_modes} networks, not {count}")
        modes = torch.arange(count, device=self.device)[:, None] % self.num_modes
        if self.num_networks is not None:
            return modes.float()
        z = super().draw_latents(seed, range(step * count, (step + 1) * count), TRAINING_STREAM)[:, 1:]
        return torch.cat([modes.to(z), z], dim=1)

    @override
    def interpolate_latents(self, first: Tensor, last: Tensor, points: int) -> Tensor:
        """An arc from z to z. Modes have no path between them, so the mode changes in the middle."""
        path = super().interpolate_latents(first, last, points)
        half = torch.arange(points, device=path.device) < points / 2
        path[:, 0] = torch.where(half, first[0], last[0])
        return path
