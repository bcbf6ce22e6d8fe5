"""A sampler of networks for sequences: modes that share their large matrices, and a generator of deviations from them.

Most of a HyperLSTM's parameters are large matrices, and the small ones that scale their rows decide what it does at
each step. So M modes share the former, and each has its own of the latter (`SequenceTarget.own_names`). As in
HyperDraw, a draw chooses a mode, and moves around it by gains of the scaled rows and of the output layer's inputs:

    w = base[mode] · (1 + z A[mode]),    z ~ N(0, I)

Without z there are only M networks, and a single mode is an ordinary network.

Shapes: S sampled networks, M modes, C numbers of z, T steps, B sequences.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Annotated, Any

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torch.func import functional_call

from models.meta import building_empty
from models.noise import permutations, standard_normal
from models.schema import STRICT
from models.sequences.network import NO_DROPOUT, Dropout, HyperLSTMSize, SequenceNetwork, SequenceTarget

MODE_STREAM = 12
"""Stream of the random orders of modes, as of other samplers with modes."""

TRAINING_STREAM = 1
"""Stream of the latents that a training draws."""

SYMMETRY_DEVIATION = 0.3
"""Relative deviation of the modes' scales at the start of a training. With equal ones they would learn the same."""


@dataclass(frozen=True, config=STRICT)
class SequenceSamplerConfig:
    """The networks that are sampled."""

    target: SequenceTarget
    modes: Annotated[int, Field(ge=1, le=1_000)] = 1
    """M."""
    latent_size: Annotated[int, Field(ge=0, le=65_536)] = 0
    """C. Without latent numbers there are only M networks."""
    initial_deviation: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.1
    """Standard deviation of gains at the start of a training."""

    def __post_init__(self) -> None:
        if not isinstance(self.target.size, HyperLSTMSize) and (self.modes, self.latent_size) != (1, 0):
            raise ValueError("the weights of an LSTM are not generated, so it has one mode and no latent numbers")

    def build(self, dropout: Dropout = NO_DROPOUT) -> "SequenceSampler":
        return SequenceSampler(self, dropout)


class SequenceSampler(nn.Module):
    """The shared network, modes and the generator of gains. A latent is the number of a mode, then z: [S, 1 + C]."""

    def __init__(self, config: SequenceSamplerConfig, dropout: Dropout) -> None:
        super().__init__()
        self.config = config
        self.network = config.target.build(dropout)
        self.modes = nn.ParameterDict()
        self.gains = nn.ParameterDict()
        if config.modes == 1 and not config.latent_size:
            return
        for name in config.target.own_names:
            own = self._take(name)
            stack = own.detach().expand(config.modes, *own.shape).clone()
            if name.endswith("scale_weight"):
                stack *= torch.randn(stack.shape).mul_(SYMMETRY_DEVIATION).add_(1)
            elif name == "output.weight":
                for each in stack:
                    nn.init.xavier_uniform_(each)
            self.modes[_to_key(name)] = nn.Parameter(stack)
            if config.latent_size and (shape := _find_gains(name, stack[0])):
                deviation = config.initial_deviation / config.latent_size**0.5
                self.gains[_to_key(name)] = nn.Parameter(
                    torch.randn(config.modes, config.latent_size, *shape).mul_(deviation)
                )

    def _take(self, name: str) -> Tensor:
        """Removes a parameter from the shared network, where each call puts that of the sampled ones."""
        owner, _, attribute = name.rpartition(".")
        module = self.network.get_submodule(owner)
        parameter = module.get_parameter(attribute)
        delattr(module, attribute)
        module.register_parameter(attribute, None)
        return parameter

    @property
    def num_networks(self) -> int | None:
        """Number of networks; None if every draw gives new ones."""
        return None if self.config.latent_size else self.config.modes

    def draw_latents(self, seed: int, members: Sequence[int]) -> Tensor:
        """Latents of some members of a seed, whose modes take turns: every M members use each mode once."""
        count = self.config.modes
        if self.num_networks is not None and max(members, default=0) >= count:
            raise ValueError(f"an ensemble of {count} networks has members 0 to {count - 1}, but not {max(members)}")
        turns = sorted({member // count for member in members})
        orders = dict(zip(turns, permutations(seed, turns, count, MODE_STREAM).tolist(), strict=True))
        modes = torch.tensor([[orders[member // count][member % count]] for member in members])
        z = standard_normal(seed, members, self.config.latent_size)
        return torch.cat([modes.to(z), z], dim=1).to(next(self.parameters()).device)

    def draw_training_latents(self, seed: int, step: int) -> Tensor:
        """Latents of a step, [M, 1 + C]: each mode once, in order, as each reads its own sequences; z is new."""
        count = self.config.modes
        members = range(step * count, (step + 1) * count)
        z = standard_normal(seed, members, self.config.latent_size, TRAINING_STREAM)
        return torch.cat([torch.arange(count)[:, None].to(z), z], dim=1).to(next(self.parameters()).device)

    def generate(self, latents: Tensor) -> dict[str, Tensor]:
        """The parameters in which networks differ, [S, …] each; none if there is only one network."""
        modes, z = latents[:, 0].long(), latents[:, 1:]
        own = {_to_name(key): stack.index_select(0, modes) for key, stack in self.modes.items()}
        for key, gains in self.gains.items():
            name = _to_name(key)
            gain = 1 + torch.einsum("sc,sc...->s...", z.to(gains), gains.index_select(0, modes))
            own[name] = own[name] * (gain[..., None] if name.endswith("scale_weight") else gain[:, None])
        return own

    def forward(
        self, inputs: Tensor, latents: Tensor, state: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Outputs [T, S·B, K] of sampled networks for each one's own sequences, and the last state.

        Args:
            inputs: [T, S·B, X] or int64 [T, S·B].
            latents: [S, 1 + C].
            state: state of the sequences.
        """
        outputs, state = functional_call(self.network, self.generate(latents), (inputs, state))
        return outputs, state

    def assemble(self, latents: Tensor) -> SequenceNetwork:
        """A network of sampled parameters, which shares all others with the sampler. It takes S·B sequences."""
        own = self.generate(latents)
        with building_empty():
            network = self.config.target.build().eval().requires_grad_(False)
        for name, tensor in {**dict(self.network.named_parameters()), **own}.items():
            owner, _, attribute = name.rpartition(".")
            setattr(network.get_submodule(owner), attribute, nn.Parameter(tensor.detach(), requires_grad=False))
        return network

    def sample(self, seed: int, members: Sequence[int], names: Collection[str] | None = None) -> Mapping[str, Tensor]:
        """Parameters of some members of a seed, [S, …] each, by their names in the target network."""
        own = self.generate(self.draw_latents(seed, members))
        shared: dict[str, Any] = dict(self.network.named_parameters())
        return {
            name: own[name] if name in own else shared[name].detach().expand(len(members), *shared[name].shape)
            for name in self.config.target.parameter_shapes
            if names is None or name in names
        }


def _find_gains(name: str, own: Tensor) -> tuple[int, ...]:
    """Shape of the gains of a parameter, if it has any: one for each row that is scaled, and each input of outputs."""
    if name.endswith("scale_weight"):
        return tuple(own.shape[:-1])
    return (own.shape[-1],) if name == "output.weight" else ()


def _to_key(name: str) -> str:
    return name.replace(".", "/")


def _to_name(key: str) -> str:
    return key.replace("/", ".")
