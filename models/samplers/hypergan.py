"""HyperGAN: Ratzlaff & Li, "HyperGAN: A Generative Model for Diverse, Performant Neural Networks", ICML 2019.

A mixer turns a latent s ~ N(0, I) into one code for each layer of the target, q₁ … q_N = Q(s). Each layer's generator
turns the layer's code into its weights. In training, a discriminator keeps the codes close to a prior, N(0, I).

Deviations from the paper, each for a reason:

* Batch normalisation follows each hidden layer, as in the authors' code (the paper does not mention it). It uses its
  running statistics whenever networks are drawn for use, so that a draw does not depend on its neighbours.
* The features that a generator's head sees are standardised after their rectifier. The head's bias is then the mean
  network, and its weights are the deviations from it, so each can be trained at its own pace. Plain rectifiers are
  positive for every code, so all of them move the mean network at once, which Adam turns into enormous steps.
* The head starts with a fan-in-aware variance (Chang, Flokas & Lipson, "Principled Weight Initialization for
  Hypernetworks", ICLR 2020), so that the sampled networks start like ordinary ones.
* The discriminator sees all codes of a draw jointly. If it saw one code at a time, as in the paper, it could not tell
  independent codes from identical ones.
"""

import math
from collections.abc import Collection
from typing import Literal

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from models.samplers.sampler import Hypernetwork
from models.schema import STRICT, Shape, Size
from models.targets.target import TargetNetwork, Weights

DEVIATION_SHARE = 0.4
"""Share of a weight's initial variance that differs between sampled networks."""

FEATURE_LIMIT = 4.0
"""Bound on standardised features. Without it, a rarely active feature would spoil a network when it is active. In the
steps of most recipes, with 16 draws, no feature can exceed √15, so the bound only affects later draws."""


HEAD_BLOCK = 1024
"""Number of a head's outputs that are computed at once on the CPU."""


@dataclass(frozen=True, config=STRICT)
class HyperGANConfig:
    """Sizes of the paper's MNIST experiment."""

    latent_size: Size = 256
    code_size: Size = 128
    hidden_size: Size = 512
    mixer: bool = True
    """Whether there is a mixer. Without it, each generator gets noise instead of a code: the paper's ablation."""
    method: Literal["hypergan"] = "hypergan"

    def build(self, target: TargetNetwork) -> "HyperGAN":
        return HyperGAN(self, target)


class HyperGAN(Hypernetwork):
    """The mixer Q and the generators of all layers."""

    def __init__(self, config: HyperGANConfig, target: TargetNetwork) -> None:
        target.require_no_normalization(config.method)
        layers = target.weighted_layers
        joint_code_size = len(layers) * config.code_size
        super().__init__(target, config.latent_size if config.mixer else joint_code_size)
        self.config = config
        self.joint_code_size = joint_code_size
        self.mixer: nn.Module = nn.Identity()
        if config.mixer:
            self.mixer = nn.Sequential(
                _hidden_layers(config.latent_size, config.hidden_size), nn.Linear(config.hidden_size, joint_code_size)
            )
        self.generators = nn.ModuleDict(
            {
                layer: LayerGenerator(
                    config, target.parameter_shapes[f"{layer}.weight"], target.parameter_shapes[f"{layer}.bias"]
                )
                for layer in layers
            }
        )

    def mix(self, latents: Tensor) -> Tensor:
        """Joint codes of all layers: [S, Z] → [S, layers · code size]."""
        codes: Tensor = self.mixer(latents)
        return codes

    def generate_from_codes(self, codes: Tensor, names: Collection[str] | None = None) -> Weights:
        weights: Weights = {}
        for (layer, generator), code in zip(
            self.generators.items(), codes.split(self.config.code_size, dim=1), strict=True
        ):
            wanted = [p for p in ("weight", "bias") if names is None or f"{layer}.{p}" in names]
            if wanted:
                weights |= {f"{layer}.{p}": tensor for p, tensor in generator(code, wanted).items()}
        return weights

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Parameters with different learning rates: the `mean` network, the `deviations` from it, and the `codes` that
        choose among them (mixer and trunks)."""
        groups: dict[str, list[nn.Parameter]] = {"codes": [], "deviations": [], "mean": []}
        for name, parameter in self.named_parameters():
            kind = "codes" if ".heads." not in name else "deviations" if name.endswith("weight") else "mean"
            groups[kind].append(parameter)
        return groups


class LayerGenerator(nn.Module):
    """Generator of one layer's weights from its code: a trunk of two hidden layers, and a linear head per parameter."""

    def __init__(self, config: HyperGANConfig, weight_shape: Shape, bias_shape: Shape) -> None:
        super().__init__()
        self.shapes = {"weight": weight_shape, "bias": bias_shape}
        self.trunk = nn.Sequential(
            nn.Linear(config.code_size, config.hidden_size, bias=False),
            nn.BatchNorm1d(config.hidden_size),
            nn.ReLU(),
            nn.Linear(config.hidden_size, config.hidden_size),
            nn.ReLU(),
            nn.BatchNorm1d(config.hidden_size, affine=False),
            nn.Hardtanh(-FEATURE_LIMIT, FEATURE_LIMIT),
        )
        heads = {p: nn.Linear(config.hidden_size, math.prod(s)) for p, s in self.shapes.items()}
        self.heads = nn.ModuleDict(heads)
        # A weight starts with the variance 1 / (3 fan-in) of PyTorch's layers, of which all networks share a part:
        # Var(b_i) + Σ_j Var(H_ij), because the features h_j have mean 0 and variance 1. With the 2 / fan-in usual for
        # rectifiers, these shallow targets were less accurate on held-out images. Biases start at zero.
        variance = 1 / (3 * math.prod(weight_shape[1:]))
        nn.init.normal_(heads["weight"].weight, std=math.sqrt(DEVIATION_SHARE * variance / config.hidden_size))
        nn.init.normal_(heads["weight"].bias, std=math.sqrt((1 - DEVIATION_SHARE) * variance))
        nn.init.zeros_(heads["bias"].weight)
        nn.init.zeros_(heads["bias"].bias)

    def forward(self, code: Tensor, parameters: Collection[str]) -> Weights:
        hidden = self.trunk(code)
        return {p: _apply_head(self.heads[p], hidden).view(-1, *self.shapes[p]) for p in parameters}


def _apply_head(head: nn.Module, hidden: Tensor) -> Tensor:
    """Outputs of a linear head, in blocks, because libraries for float32 are slow with products as wide as a layer has
    weights."""
    assert isinstance(head, nn.Linear)
    if torch.is_grad_enabled() or torch.is_autocast_enabled("cpu") or hidden.device.type != "cpu":
        outputs: Tensor = head(hidden)
        return outputs
    outputs = hidden.new_empty(len(hidden), head.out_features)
    blocks = (tensor.split(HEAD_BLOCK) for tensor in (outputs.T, head.weight, head.bias))
    for part, weight, bias in zip(*blocks, strict=True):
        torch.addmm(bias, hidden, weight.T, out=part.T)
    return outputs


class CodeDiscriminator(nn.Module):
    """The discriminator D, which tells mixed codes from draws of the prior. It is used in training only.

    It takes all codes of a draw jointly, [S, N · code size], and returns logits [S], positive for the prior.
    """

    def __init__(self, joint_code_size: int, hidden_size: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(joint_code_size, hidden_size),
            nn.ReLU(),
            nn.Linear(hidden_size, hidden_size),
            nn.ReLU(),
            nn.Linear(hidden_size, 1),
        )

    def forward(self, codes: Tensor) -> Tensor:
        logits: Tensor = self.layers(codes).squeeze(1)
        return logits


def _hidden_layers(input_size: int, hidden_size: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(input_size, hidden_size, bias=False),
        nn.BatchNorm1d(hidden_size),
        nn.ReLU(),
        nn.Linear(hidden_size, hidden_size, bias=False),
        nn.BatchNorm1d(hidden_size),
        nn.ReLU(),
    )
