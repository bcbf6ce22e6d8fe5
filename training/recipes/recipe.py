"""Recipes: everything that determines a training run, as Python functions that return it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from models.checkpoint import MethodConfig, Storage
from models.samplers.deutsch import DeutschConfig
from models.samplers.hypergan import HyperGANConfig
from models.targets.target import TargetNetwork
from training.data.augmentation import Augmentation
from training.objectives.hardening import Hardening
from training.objectives.objectives import Diversity


class Part(StrEnum):
    """What a run can do without, or do with."""

    MIXER = "mixer"
    DISCRIMINATOR = "discriminator"
    DIVERSITY = "diversity"
    AUGMENTATION = "augmentation"
    OUTLIERS = "outliers"
    HARDENING = "hardening"


@dataclass(frozen=True)
class Distillation:
    """Of a posterior into a generator (`training.runs.distillation`), with the numbers of the authors' experiment."""

    langevin_share: float = 0.9
    """Of the steps; the rest trains the generator."""
    langevin_rate: float = 0.05
    langevin_decay: float = 1e-3
    burn_in: int = 500
    interval: int = 20
    """Steps from a network that is collected to the next."""
    batch_size: int = 32
    """Networks in a step of generator or critic."""
    critic_steps: int = 5
    gradient_penalty: float = 10.0


@dataclass(frozen=True)
class OutlierExposure:
    """High predictive entropy on synthetic outliers (`training.data.outliers`).

    Where the sampler keeps whole networks, these are sharpened in the end (`TrainingRun.recalibrate`).
    """

    weight: float = 0.05
    inputs_per_step: int = 32
    group_size: int = 8
    """At most so many networks are to be uncertain together; they are grouped anew in each step."""
    count: int = 50_000
    """Outliers that are made beforehand."""


@dataclass(frozen=True)
class Recipe:
    """A training run. Adam with a cosine schedule; each network of a step sees inputs of its own.

    Raises:
        ValueError: if a weight is negative, or if codes that follow their prior by construction were to be regularised.
    """

    name: str
    dataset: str
    method: MethodConfig
    target: TargetNetwork
    steps: int
    learning_rates: Mapping[str, float]
    """By parameter group of the sampler."""
    networks_per_step: int = 16
    inputs_per_network: int = 32
    own_epochs: bool = False
    """Whether each network of a step goes through all examples in an order of its own, rather than all together."""
    codes_per_step: int = 512
    """Draws of a hypernetwork's codes that the code losses see; the first `networks_per_step` become networks."""
    weight_decays: Mapping[str, float] = field(default_factory=dict)
    """Of the L2 penalty, in the gradient, by parameter group."""
    warmup_steps: int = 100
    final_learning_rate_fraction: float = 0.02
    gradient_norm_limit: float = 5.0
    augmentation: Augmentation | None = None
    outliers: OutlierExposure | None = None
    hardening: Hardening | None = None
    """Adversarial training."""
    diversity: Diversity | None = None
    moment_matching_weight: float = 0.0
    adversarial_weight: float = 0.0
    """HyperGAN's β."""
    discriminator_hidden_size: int = 512
    discriminator_learning_rate: float = 1e-4
    distillation: Distillation | None = None
    """In place of descent through the target."""
    balance: bool = False
    """Whether examples weigh more in the loss the rarer their class is, so that all classes weigh the same."""
    plain_pixels: bool = False
    """Whether pixels stay in [0, 1], in place of the dataset's normalisation."""
    largest_ensemble: int = 100
    """That is calibrated and evaluated; fewer networks where evaluating them takes long."""
    storage: Storage = "float32"
    options: str = ""
    """Of the command line, that made this recipe another one than its function returns."""

    def __post_init__(self) -> None:
        for name, weight in (
            ("moment matching", self.moment_matching_weight),
            ("the adversarial loss", self.adversarial_weight),
        ):
            if not 0 <= weight < math.inf:
                raise ValueError(f"the weight of {name} is {weight}; it must be 0 or more")
        mixes = self.method.mixer if isinstance(self.method, HyperGANConfig) else isinstance(self.method, DeutschConfig)
        if not mixes and (self.moment_matching_weight or self.adversarial_weight):
            raise ValueError("without a mixer the codes follow their prior already; they take no regulariser")
