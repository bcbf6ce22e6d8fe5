"""Deep ensembles: networks that were trained separately, each from its own initialisation.

Lakshminarayanan, Pritzel & Blundell, "Simple and Scalable Predictive Uncertainty Estimation using Deep Ensembles",
NeurIPS 2017.

A draw takes networks without replacement, in an order that depends on the seed. There are only as many as were trained.

Deviation from the paper: the members are not trained on adversarial examples, which most users leave out.

Shapes: M networks held, S drawn.
"""

from collections.abc import Collection
from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from models.samplers.modes import ModalSampler
from models.samplers.sampler import NetworkStack
from models.schema import STRICT
from models.targets.target import TargetNetwork, Weights


@dataclass(frozen=True, config=STRICT)
class DeepEnsembleConfig:
    """The number of networks in HyperGAN's comparison."""

    networks: Annotated[int, Field(ge=1, le=10_000)] = 10
    method: Literal["deep_ensemble"] = "deep_ensemble"

    def build(self, target: TargetNetwork) -> "DeepEnsemble":
        return DeepEnsemble(self, target)


class DeepEnsemble(ModalSampler):
    """M networks. A latent is the number of one of them, [S, 1]."""

    def __init__(self, config: DeepEnsembleConfig, target: TargetNetwork) -> None:
        super().__init__(target, config.networks, latent_size=0)
        self.config = config
        self.networks = NetworkStack(target, config.networks)

    def generate(self, latents: Tensor, names: Collection[str] | None = None) -> Weights:
        return self.networks.select(latents[:, 0].long(), names)
