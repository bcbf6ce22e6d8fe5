"""Static hypernetwork: Ha, Dai & Le, "HyperNetworks", ICLR 2017, section 3.1.

One linear generator with two layers, shared by all convolutions of a target, turns an embedding z into a basic kernel
of 16 × 16 channels: a_i = W_i z + B_i for each input channel i, then K_i = W_out a_i + B_out, that channel's part of
the kernel. Larger kernels are tiled with basic ones, each with its own embedding. All other parameters are learned
directly: the convolution that reads the image, normalisations, biases and the last layer.

Beyond the paper, there may be several modes, which share the generator and have their own embeddings and direct
parameters. A latent z may move each mode, through gains of its embeddings. The result is a distribution over networks
that needs, for each mode, a small fraction of a network's parameters.

Deviations from the paper: group normalisation instead of batch normalisation, as in every target here
(`models.targets.layers.Normalization`), and an initialisation that gives kernels a variance of 2 / fan-in.

Shapes: S sampled networks, M modes, T tiles of all kernels, E numbers of an embedding, Z of a latent.
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
from models.targets.layers import numel
from models.targets.target import TargetNetwork, Weights


@dataclass(frozen=True, config=STRICT)
class StaticHypernetworkConfig:
    """Sizes of the paper's Wide ResNets, for a single network."""

    embedding_size: Size = 64
    """E, the paper's N_z."""
    hidden_size: Size = 64
    """Size of a_i, the paper's d."""
    basic_channels: Size = 16
    """Input and output channels of the basic kernel."""
    modes: Annotated[int, Field(ge=1, le=10_000)] = 1
    latent_size: Annotated[int, Field(ge=0, le=65536)] = 0
    """Z. If it is 0, there are as many networks as modes."""
    initial_deviation: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.1
    """Standard deviation of gains."""
    method: Literal["static_hypernetwork"] = "static_hypernetwork"

    def build(self, target: TargetNetwork) -> "StaticHypernetwork":
        return StaticHypernetwork(self, target)


class StaticHypernetwork(ModalSampler):
    """The generator, the embeddings, and the parameters that are learned directly."""

    multiplies = True

    def __init__(self, config: StaticHypernetworkConfig, target: TargetNetwork) -> None:
        super().__init__(target, config.modes, config.latent_size)
        self.config = config
        channels, shapes = config.basic_channels, target.parameter_shapes
        self.kernels = {
            name: shape
            for name, shape in shapes.items()
            if len(shape) == 4 and not shape[0] % channels and not shape[1] % channels
        }
        """Shapes of the parameters that are generated, by name."""
        sizes = {shape[2:] for shape in self.kernels.values()}
        if len(sizes) != 1:
            raise ValueError(
                f"the target must have kernels of one size from and to multiples of {channels} channels; "
                f"it has {len(sizes) or 'no'} such sizes"
            )
        (self.kernel_size,) = sizes
        tiles = [numel(shape[:2]) // channels**2 for shape in self.kernels.values()]
        self.tiles = dict(zip(self.kernels, tiles, strict=True))
        """Number of basic kernels in each."""
        numbers, hidden, embedded = channels * numel(self.kernel_size), config.hidden_size, config.embedding_size
        self.input_weight = nn.Parameter(torch.randn(channels, hidden, embedded).div_(embedded**0.5))
        """W_i of all input channels."""
        self.input_bias = nn.Parameter(torch.zeros(channels, hidden))
        self.output_weight = nn.Parameter(torch.randn(numbers, hidden).div_(hidden**0.5))
        self.output_bias = nn.Parameter(torch.zeros(numbers))
        embeddings = torch.randn(config.modes, sum(tiles), embedded)
        for part, shape in zip(embeddings.split(tiles, dim=1), self.kernels.values(), strict=True):
            part.mul_((2 / numel(shape[1:])) ** 0.5)
        self.embeddings = nn.Parameter(embeddings)
        self.direct = NetworkStack(target, config.modes, without=self.kernels)
        self.gains: nn.Parameter | None = None
        if config.latent_size:
            scale = config.initial_deviation / config.latent_size**0.5
            self.gains = nn.Parameter(torch.randn(config.modes, config.latent_size, sum(tiles)).mul_(scale))

    def generate(self, latents: Tensor, names: Collection[str] | None = None) -> Weights:
        modes, z = latents[:, 0].long(), latents[:, 1:]
        weights = self.direct.select(modes, names)
        wanted = [name for name in self.kernels if names is None or name in names]
        if wanted:
            embeddings = self.embeddings.index_select(0, modes)
            if self.gains is not None:
                gains = torch.einsum("sz,szt->st", z, self.gains.index_select(0, modes))
                embeddings = embeddings * (1 + gains[..., None])
            parts = dict(zip(self.kernels, embeddings.split(list(self.tiles.values()), dim=1), strict=True))
            basic = self._generate_basic(torch.cat([parts[name] for name in wanted], dim=1))
            for name, tiles in zip(wanted, basic.split([self.tiles[name] for name in wanted], dim=1), strict=True):
                weights[name] = self._tile(tiles, name)
        return {name: weights[name] for name in self.target.parameter_shapes if name in weights}

    def _generate_basic(self, embeddings: Tensor) -> Tensor:
        """Basic kernels, [S, tiles, input channels, output channels · height · width], from embeddings [S, tiles, E].

        Both layers are linear, so their product is computed once for all embeddings.
        """
        weight = torch.einsum("nh,che->ecn", self.output_weight, self.input_weight)
        bias = self.input_bias @ self.output_weight.T + self.output_bias
        networks, tiles, embedded = embeddings.shape
        kernels = torch.addmm(bias.flatten(), embeddings.reshape(-1, embedded), weight.flatten(1))
        return kernels.view(networks, tiles, *bias.shape)

    def _tile(self, basic: Tensor, name: str) -> Tensor:
        """The kernel [S, outputs, inputs, height, width] from its basic ones [S, tiles, inputs, the rest]."""
        channels, (outputs, inputs, *_) = self.config.basic_channels, self.kernels[name]
        tiles = basic.view(len(basic), outputs // channels, inputs // channels, channels, channels, *self.kernel_size)
        return tiles.permute(0, 1, 4, 2, 3, 5, 6).reshape(len(basic), *self.kernels[name])

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Parameters with different learning rates: the shared `generator`, the `embeddings`, those learned
        `direct`ly, and the `gains` of embeddings, if any."""
        groups = {
            "generator": [self.input_weight, self.input_bias, self.output_weight, self.output_bias],
            "embeddings": [self.embeddings],
            "direct": list(self.direct.parameters()),
        }
        return groups if self.gains is None else groups | {"gains": [self.gains]}
