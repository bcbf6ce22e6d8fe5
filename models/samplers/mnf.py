"""MNF: Louizos & Welling, "Multiplicative Normalizing Flows for Variational Bayesian Neural Networks", ICML 2017.

Each weight is normal with a mean that is multiplied by z, q(W | z) = N(z μ, σ²), and the distribution of z, q(z), is a
normalising flow. The weights of a layer therefore depend on each other, and their distribution is more flexible than a
normal one. The divergence from the prior N(0, 1) is bounded with an auxiliary distribution r(z | W), also a flow
(equation 12). z has a number for each filter of a convolution, and for each input of a linear layer.

Deviations from the authors' code, each for a reason:

* z is drawn for each sampled network, not for each image. In the authors' code, predictions belong to no network.
* The flows' masks alternate instead of being drawn anew each time, so that a network is a function of its address.
* z starts around 1, not 0, so that the sampled networks start like ordinary ones.
* r sees the sampled weights, not a normal approximation of their projection.

Shapes: S sampled networks, Z latent numbers, z factors of a layer, W weights of a layer without biases.
"""

import dataclasses
import math
from collections.abc import Collection, Iterator
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from models.samplers.sampler import VariationalSampler
from models.schema import STRICT, Shape, Size
from models.targets.target import TargetNetwork, Weights

INITIAL_LOG_VARIANCE = -9.0
INITIAL_FACTOR_VARIANCE = 0.1
INITIAL_GATE_BIAS = 2.0


@dataclass(frozen=True, config=STRICT)
class MNFConfig:
    """Sizes of the authors' MNIST experiment."""

    flows: Annotated[int, Field(ge=1, le=4)] = 2
    """Number of flow steps, for z and for the auxiliary distribution."""
    flow_hidden_size: Size = 50
    method: Literal["mnf"] = "mnf"

    def build(self, target: TargetNetwork) -> "MNF":
        return MNF(self, target)


class MNF(VariationalSampler):
    """The posteriors of all layers."""

    def __init__(self, config: MNFConfig, target: TargetNetwork) -> None:
        target.require_no_normalization(config.method)
        shapes = target.parameter_shapes
        posteriors = {layer: LayerPosterior(config, shapes[f"{layer}.weight"]) for layer in target.weighted_layers}
        super().__init__(target, sum(posterior.latent_size for posterior in posteriors.values()))
        self.config = config
        self.posteriors = nn.ModuleDict(posteriors)

    def generate(self, latents: Tensor, names: Collection[str] | None = None) -> Weights:
        weights: Weights = {}
        for layer, posterior, noise in self._split(latents):
            if names is None or {f"{layer}.weight", f"{layer}.bias"} & set(names):
                weights |= _name(layer, posterior.draw(noise))
        return {name: tensor for name, tensor in weights.items() if names is None or name in names}

    def generate_with_divergence(self, latents: Tensor) -> tuple[Weights, Tensor]:
        weights: Weights = {}
        divergence = latents.new_zeros(len(latents))
        for layer, posterior, noise in self._split(latents):
            draw = posterior.draw(noise)
            weights |= _name(layer, draw)
            divergence = divergence + posterior.measure_divergence(draw)
        return weights, divergence

    def _split(self, latents: Tensor) -> Iterator[tuple[str, "LayerPosterior", Tensor]]:
        """Layers, their posteriors and their noise."""
        start = 0
        for layer in self.target.weighted_layers:
            posterior = self.posteriors[layer]
            assert isinstance(posterior, LayerPosterior)
            yield layer, posterior, latents[:, start : start + posterior.latent_size]
            start += posterior.latent_size


@dataclasses.dataclass(frozen=True)
class LayerDraw:
    """One layer of S networks, and how it was drawn."""

    weight: Tensor
    """[S, *shape]."""
    bias: Tensor
    """[S, outputs]."""
    factors: Tensor
    """z, [S, factors]."""
    log_determinant: Tensor
    """Logarithm of the Jacobian determinant of the flow that made z, [S]."""


class LayerPosterior(nn.Module):
    """q(W, z) of one layer, the normal posterior of its biases, and the auxiliary r(z | W)."""

    def __init__(self, config: MNFConfig, weight_shape: Shape) -> None:
        super().__init__()
        outputs = weight_shape[0]
        self.shape = weight_shape
        self.factor_axis = 0 if len(weight_shape) > 2 else 1
        """Axis of the weight that z scales: filters of a convolution, inputs of a linear layer."""
        factors = weight_shape[self.factor_axis]
        bound = 1 / math.sqrt(math.prod(weight_shape[1:]))  # as in PyTorch's layers
        self.weight_mean = nn.Parameter(torch.empty(weight_shape).uniform_(-bound, bound))
        self.weight_log_variance = nn.Parameter(torch.full(weight_shape, INITIAL_LOG_VARIANCE))
        self.bias_mean = nn.Parameter(torch.zeros(outputs))
        self.bias_log_variance = nn.Parameter(torch.full((outputs,), INITIAL_LOG_VARIANCE))
        self.factor_mean = nn.Parameter(torch.ones(factors))
        self.factor_log_variance = nn.Parameter(torch.full((factors,), math.log(INITIAL_FACTOR_VARIANCE)))
        self.flow = Flow(factors, config)
        self.auxiliary_flow = Flow(factors, config)
        # c, b₁ and b₂ of the paper's equations 9 and 10
        scale = 1 / math.sqrt(factors)
        self.projection = nn.Parameter(torch.randn(factors).mul_(scale))
        self.auxiliary_mean = nn.Parameter(torch.randn(factors).mul_(scale))
        self.auxiliary_log_precision = nn.Parameter(torch.randn(factors).mul_(scale))
        self.latent_size = factors + math.prod(weight_shape) + outputs

    def draw(self, noise: Tensor) -> LayerDraw:
        """Draws a layer from noise N(0, 1), [S, latent size]."""
        factor_noise, weight_noise, bias_noise = noise.split(
            [len(self.factor_mean), math.prod(self.shape), len(self.bias_mean)], dim=1
        )
        factors, log_determinant = self.flow(self.factor_mean + (self.factor_log_variance / 2).exp() * factor_noise)
        shape = [1] * len(self.shape)
        shape[self.factor_axis] = -1
        mean = self.weight_mean * factors.view(len(noise), *shape)
        deviation = (self.weight_log_variance / 2).exp()
        return LayerDraw(
            weight=mean + deviation * weight_noise.view(-1, *self.shape),
            bias=self.bias_mean + (self.bias_log_variance / 2).exp() * bias_noise,
            factors=factors,
            log_determinant=log_determinant,
        )

    def measure_divergence(self, draw: LayerDraw) -> Tensor:
        """Estimate of the bound from each draw, in nats, [S]."""
        square = self.weight_mean.square().movedim(self.factor_axis, 0).flatten(1).sum(1)  # of each factor's means
        log_variance = self.weight_log_variance
        weights = (draw.factors.square() @ square + (log_variance.exp() - log_variance - 1).sum()) / 2
        biases = (self.bias_mean.square() + self.bias_log_variance.exp() - self.bias_log_variance - 1).sum() / 2
        entropy = (self.factor_log_variance + 1 + math.log(2 * math.pi)).sum() / 2 + draw.log_determinant
        return weights + biases - entropy - self._measure_auxiliary(draw)

    def _measure_auxiliary(self, draw: LayerDraw) -> Tensor:
        """log r(z | W) of each draw, [S]."""
        by_factor = draw.weight.movedim(1 + self.factor_axis, 1).flatten(2)
        summary = torch.einsum("f,sfw->sw", self.projection, by_factor).tanh().mean(1, keepdim=True)
        mean, log_precision = self.auxiliary_mean * summary, self.auxiliary_log_precision * summary
        factors, log_determinant = self.auxiliary_flow(draw.factors)
        error = (factors - mean).square() * log_precision.exp()
        density: Tensor = (log_precision - error - math.log(2 * math.pi)).sum(1) / 2 + log_determinant
        return density


class Flow(nn.Module):
    """A masked RealNVP with gates: half of the numbers move, depending on the other half."""

    def __init__(self, size: int, config: MNFConfig) -> None:
        super().__init__()
        self.steps = nn.ModuleList(FlowStep(size, config.flow_hidden_size) for _ in range(config.flows))

    def forward(self, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """[S, size] → the same shape, and the logarithm of the Jacobian determinant, [S]."""
        log_determinant = numbers.new_zeros(len(numbers))
        positions = torch.arange(numbers.shape[1], device=numbers.device)
        for i, step in enumerate(self.steps):
            moves = (positions + i) % 2  # 1 where a number moves
            shift, gate_logits = step(numbers * (1 - moves))
            gate = gate_logits.sigmoid()
            numbers = torch.where(moves == 1, gate * numbers + (1 - gate) * shift, numbers)
            log_determinant = log_determinant + (moves * F.logsigmoid(gate_logits)).sum(1)
        return numbers, log_determinant


class FlowStep(nn.Module):
    """Maps the numbers that stay to the shifts of the others, and to the logits of the gates that keep them."""

    def __init__(self, size: int, hidden_size: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(size, hidden_size)
        self.shift = nn.Linear(hidden_size, size)
        self.gate = nn.Linear(hidden_size, size)
        nn.init.constant_(self.gate.bias, INITIAL_GATE_BIAS)

    def forward(self, numbers: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.hidden(numbers).tanh()
        return self.shift(hidden), self.gate(hidden)


def _name(layer: str, draw: LayerDraw) -> Weights:
    return {f"{layer}.weight": draw.weight, f"{layer}.bias": draw.bias}
