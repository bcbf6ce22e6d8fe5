"""HyperDraw, a method of this project: modes with weights of their own, and a generator of deviations from them.

A hypernetwork whose weights are a continuous function of one latent space collapses. Without pressure its networks
agree; under pressure they lose accuracy, because the paths between good networks are bad (docs/reproduce.md). Here a
latent chooses one of M modes, each a network with its own weights, as in a deep ensemble. Its other numbers move the
network around the mode, through gains of the hidden filters and of the last layer's inputs:

    w = base[mode] · (1 + z A[mode]),    z ~ N(0, I)

Each draw is thus a new network, and networks of different modes differ as much as separately trained ones.

Shapes: S sampled networks, M modes, Z numbers of z.
"""

from collections.abc import Collection
from typing import Annotated, Literal

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from models.samplers.modes import ModalSampler
from models.samplers.sampler import NetworkStack
from models.schema import STRICT, Size
from models.targets.target import TargetNetwork, Weights


@dataclass(frozen=True, config=STRICT)
class HyperDrawConfig:
    """Sizes, and the initial width of the modes."""

    modes: Annotated[int, Field(ge=1, le=10_000)] = 16
    latent_size: Size = 8
    """Z."""
    initial_deviation: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.1
    """Standard deviation of gains."""
    method: Literal["hyperdraw"] = "hyperdraw"

    def build(self, target: TargetNetwork) -> "HyperDraw":
        return HyperDraw(self, target)


class HyperDraw(ModalSampler):
    """The modes and the generator A. A latent is the number of a mode, then z: [S, 1 + Z]."""

    def __init__(self, config: HyperDrawConfig, target: TargetNetwork) -> None:
        super().__init__(target, config.modes, config.latent_size)
        self.config = config
        self.modes = NetworkStack(target, config.modes)
        scale = config.initial_deviation / config.latent_size**0.5
        self.gains = nn.ParameterDict(
            {
                layer.replace(".", "/"): torch.randn(config.modes, config.latent_size, size).mul_(scale)
                for layer, size in self._count_gains().items()
            }
        )

    def _count_gains(self) -> dict[str, int]:
        """Number of gains of each layer: one for each filter or, in the last layer, for each input."""
        *hidden, last = self.target.weighted_layers
        shapes = self.target.parameter_shapes
        return {layer: shapes[f"{layer}.weight"][0] for layer in hidden} | {last: shapes[f"{last}.weight"][1]}

    def generate(self, latents: Tensor, names: Collection[str] | None = None) -> Weights:
        modes, z = latents[:, 0].long(), latents[:, 1:]
        weights = self.modes.select(modes, names)
        for key, generator in self.gains.items():
            layer = key.replace("/", ".")
            name = f"{layer}.weight"
            if name in weights:
                gain = 1 + torch.einsum("sz,szn->sn", z, generator.index_select(0, modes))
                axis = 2 if layer == self.target.weighted_layers[-1] else 1
                shape = [len(gain), *[1] * (weights[name].dim() - 1)]
                shape[axis] = -1
                weights[name].mul_(gain.view(shape))
        return weights

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Parameters with different learning rates: the `modes`, and the generator of `gains`."""
        return {"modes": list(self.modes.parameters()), "gains": list(self.gains.values())}
