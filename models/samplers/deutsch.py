"""Deutsch, "Generating Neural Networks With Neural Networks", 2018 (arXiv:1801.01952).

An extractor turns a latent z, uniform on (−1, 1), into one code for each filter of the target. Each layer has a weight
generator, shared by all its filters, which turns a filter's code into the filter's weights and bias. The last layer
counts as one filter. The hypernetwork has no biases. Its hidden activations are leaky ReLUs, each followed by batch
normalisation with statistics over draws and filters.

Deviations from the paper, each for a reason:

* Batch normalisation uses running statistics whenever networks are drawn for use, so that a draw does not depend on its
  neighbours. It has no scale and shift, because linear layers follow it, and the paper's counts include none.
* The logit-bias gauge subtracts the mean of the last biases, as the paper says; the author's code subtracts their sum.

Shapes: S sampled networks, Z latent numbers, F filters of a layer, W weights of a filter with its bias.
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

NEGATIVE_SLOPE = 0.05


@dataclass(frozen=True, config=STRICT)
class DeutschConfig:
    """Sizes of the paper's MNIST experiment."""

    latent_size: Size = 300
    code_size: Size = 15
    extractor_hidden_size: Size = 300
    generator_hidden_sizes: Annotated[tuple[Size, ...], Field(min_length=1), FailFast()] = (40, 100, 100, 60)
    """Hidden sizes of the weight generators, one for each layer of the target."""
    method: Literal["deutsch"] = "deutsch"

    def build(self, target: TargetNetwork) -> "DeutschHypernetwork":
        return DeutschHypernetwork(self, target)


class DeutschHypernetwork(Hypernetwork):
    """The extractor and the weight generators of all layers.

    Raises:
        ValueError: if the config does not have one hidden size for each layer of the target that has weights.
    """

    latent_prior = "uniform"

    def __init__(self, config: DeutschConfig, target: TargetNetwork) -> None:
        target.require_no_normalization(config.method)
        super().__init__(target, config.latent_size)
        self.config = config
        layers, hidden_sizes = target.weighted_layers, config.generator_hidden_sizes
        if len(layers) != len(hidden_sizes):
            raise ValueError(
                f"generator_hidden_sizes has {len(hidden_sizes)} numbers; the target has {len(layers)} weighted layers"
            )
        self.filters = {layer: _count_filters(target, layer) for layer in layers}
        self.joint_code_size = config.code_size * sum(self.filters.values())
        hidden = config.extractor_hidden_size
        self.extractor = _build_perceptron(config.latent_size, hidden, self.joint_code_size)
        self.generators = nn.ModuleDict(
            {
                layer: _build_perceptron(config.code_size, hidden_size, _count_weights(target, layer) // filters)
                for (layer, filters), hidden_size in zip(self.filters.items(), hidden_sizes, strict=True)
            }
        )

    def mix(self, latents: Tensor) -> Tensor:
        """Joint codes of all filters, from the extractor: [S, Z] → [S, filters · code size]."""
        codes: Tensor = self.extractor(latents)
        return codes

    def generate_from_codes(self, codes: Tensor, names: Collection[str] | None = None) -> Weights:
        weights: Weights = {}
        size = self.config.code_size
        parts = codes.split([size * filters for filters in self.filters.values()], dim=1)
        for (layer, generator), part in zip(self.generators.items(), parts, strict=True):
            wanted = [f"{layer}.{p}" for p in ("weight", "bias") if names is None or f"{layer}.{p}" in names]
            if wanted:
                drawn = self._shape(layer, generator(part.reshape(-1, size)).unflatten(0, (len(codes), -1)))
                weights |= {name: drawn[name] for name in wanted}
        return weights

    def _shape(self, layer: str, filters: Tensor) -> Weights:
        """Parameters of a layer from its filters, [S, F, W], whose biases come last."""
        weight_shape, bias_shape = (self.target.parameter_shapes[f"{layer}.{p}"] for p in ("weight", "bias"))
        biases = math.prod(bias_shape) // filters.shape[1]
        weight, bias = filters.split([filters.shape[2] - biases, biases], dim=2)
        return {
            f"{layer}.weight": weight.reshape(-1, *weight_shape),
            f"{layer}.bias": bias.reshape(-1, *bias_shape),
        }


def _count_filters(target: TargetNetwork, layer: str) -> int:
    """Number of a layer's filters; 1 for the last, whose outputs, the classes, are no more alike than layers are."""
    return 1 if layer == target.weighted_layers[-1] else target.parameter_shapes[f"{layer}.bias"][0]


def _count_weights(target: TargetNetwork, layer: str) -> int:
    return sum(math.prod(target.parameter_shapes[f"{layer}.{p}"]) for p in ("weight", "bias"))


def _build_perceptron(input_size: int, hidden_size: int, output_size: int) -> nn.Sequential:
    """A perceptron with two hidden layers of leaky ReLUs and batch normalisation.

    Its weights are drawn from a truncated normal distribution with σ = 0.1 / √fan-in.
    """
    sizes = (input_size, hidden_size, hidden_size, output_size)
    modules: list[nn.Module] = []
    for fan_in, fan_out in pairwise(sizes):
        linear = nn.Linear(fan_in, fan_out, bias=False)
        std = 0.1 / math.sqrt(fan_in)
        nn.init.trunc_normal_(linear.weight, std=std, a=-2 * std, b=2 * std)
        modules += [linear, nn.LeakyReLU(NEGATIVE_SLOPE), nn.BatchNorm1d(fan_out, affine=False)]
    return nn.Sequential(*modules[:-2])
