"""Last-layer Laplace: Daxberger, Kristiadi, Immer, Eschenhagen, Bauer & Hennig, "Laplace Redux – Effortless Bayesian
Deep Learning", NeurIPS 2021.

One trained network, whose last layer becomes a Gaussian. Its mean W [K, F + 1] is the trained weights with the biases
as the last column. Its covariance inverts the prior's precision δ plus the Gauss–Newton Hessian of the N training
inputs, with Kronecker factors:

    H = N B ⊗ A,    A = mean of φφᵀ,    B = mean of diag(p) − ppᵀ

φ is the last layer's input, with a 1 for the bias, and p are the network's probabilities. With the eigenvectors and
eigenvalues A = U diag(a) Uᵀ and B = V diag(b) Vᵀ, a draw is

    W + V (Z ∘ D) Uᵀ,    D[k, f] = 1 / √(N b[k] a[f] + δ),    Z[k, f] ~ N(0, 1)

Training inputs determine the weights of features that they have. Other features are as uncertain as the prior, so the
networks disagree about inputs unlike the training inputs.

Deviations from the paper: probabilities are means over sampled networks, where the paper approximates logits by a
probit. Weights and biases share their factors.

Shapes: S sampled networks, K outputs, F inputs of the last layer.
"""

from collections.abc import Collection
from typing import Annotated, Literal

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from models.samplers.sampler import NetworkStack, WeightSampler
from models.schema import STRICT
from models.targets.target import TargetNetwork, Weights


@dataclass(frozen=True, config=STRICT)
class LaplaceConfig:
    """The prior."""

    prior_precision: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    """δ, the inverse of the prior's variance."""
    method: Literal["laplace"] = "laplace"

    def build(self, target: TargetNetwork) -> "Laplace":
        return Laplace(self, target)


class Laplace(WeightSampler):
    """The network, and the Gaussian of its last layer. Before it has seen data, that is the prior around the network.

    A latent is a number for each weight and bias of the last layer, [S, K (F + 1)].
    """

    def __init__(self, config: LaplaceConfig, target: TargetNetwork) -> None:
        self._last = target.weighted_layers[-1]
        outputs, features = target.parameter_shapes[f"{self._last}.weight"]
        super().__init__(target, outputs * (features + 1))
        self.config = config
        self.network = NetworkStack(target, 1)
        self.outputs = nn.Parameter(torch.zeros(outputs, outputs).fill_diagonal_(1))
        """V, [K, K]."""
        self.features = nn.Parameter(torch.zeros(features + 1, features + 1).fill_diagonal_(1))
        """U, [F + 1, F + 1]."""
        self.deviations = nn.Parameter(torch.full((outputs, features + 1), config.prior_precision**-0.5))
        """D, [K, F + 1]."""

    def generate(self, latents: Tensor, names: Collection[str] | None = None) -> Weights:
        only = torch.zeros(len(latents), dtype=torch.int64, device=latents.device)
        weights = self.network.select(only, names)
        weight, bias = f"{self._last}.weight", f"{self._last}.bias"
        if weight in weights or bias in weights:
            numbers = latents.view(-1, *self.deviations.shape) * self.deviations
            changes = self.outputs @ numbers @ self.features.mT
            for name, change in ((weight, changes[..., :-1]), (bias, changes[..., -1])):
                if name in weights:
                    weights[name] = weights[name] + change
        return weights
