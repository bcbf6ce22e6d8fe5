"""A recipe: everything that determines a training run."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from models.checkpoint import MethodConfig
from models.precision import Precision
from models.samplers.deutsch import DeutschConfig
from models.samplers.hypergan import HyperGANConfig
from models.stored_tensors import Storage
from models.targets.target import TargetNetwork
from training.data.augmentation import Augmentation
from training.objectives.gaussian_noise import GaussianNoise
from training.objectives.hardening import Hardening
from training.objectives.logitnorm import LogitNorm
from training.objectives.objectives import Diversity


class Part(StrEnum):
    """A part of a recipe that can be left out or added."""

    MIXER = "mixer"
    DISCRIMINATOR = "discriminator"
    DIVERSITY = "diversity"
    AUGMENTATION = "augmentation"
    OUTLIERS = "outliers"
    HARDENING = "hardening"
    NOISE = "noise"
    LOGITNORM = "logitnorm"


@dataclass(frozen=True)
class Distillation:
    """Distillation of a posterior into a generator (`training.runs.distillation`), with the authors' settings."""

    langevin_share: float = 0.9
    """The share of steps that run Langevin dynamics; the rest train the generator."""
    langevin_rate: float = 0.05
    langevin_decay: float = 1e-3
    burn_in: int = 500
    interval: int = 20
    """Steps between two collected networks."""
    batch_size: int = 32
    """Networks in each step of the generator or critic."""
    critic_steps: int = 5
    gradient_penalty: float = 10.0


@dataclass(frozen=True)
class OutlierExposure:
    """A loss that asks for high predictive entropy on synthetic outliers (`training.data.outliers`).

    A sampler that stores whole networks has them sharpened after the training (`TrainingRun.recalibrate`).
    """

    weight: float = 0.05
    inputs_per_step: int = 32
    group_size: int = 8
    """The most networks that have to be uncertain together. Each step forms new groups."""
    count: int = 50_000
    """Outliers made before the training starts."""


@dataclass(frozen=True)
class Recipe:
    """A training run: Adam with a cosine schedule. Each network of a step sees its own inputs.

    Raises:
        ValueError: if a weight is negative, or if the codes follow their prior already and a weight would regularise
            them.
    """

    name: str
    dataset: str
    method: MethodConfig
    target: TargetNetwork
    steps: int
    learning_rates: Mapping[str, float]
    """Learning rates by the sampler's parameter groups."""
    networks_per_step: int = 16
    inputs_per_network: int = 32
    own_epochs: bool = False
    """Whether each network goes through all examples in its own order. Otherwise the networks share one order."""
    codes_per_step: int = 512
    """How many codes a hypernetwork draws for the code losses. The first `networks_per_step` become networks."""
    weight_decays: Mapping[str, float] = field(default_factory=dict)
    """Weights of the L2 penalty, which is part of the gradient, by parameter group."""
    warmup_steps: int = 100
    final_learning_rate_fraction: float = 0.02
    gradient_norm_limit: float = 5.0
    augmentation: Augmentation | None = None
    views: int = 2
    """Augmented views of each image that a backbone sees, if there is one: it sees them once, before the training."""
    outliers: OutlierExposure | None = None
    hardening: Hardening | None = None
    """Settings of adversarial training, if any."""
    noise: GaussianNoise | None = None
    """Settings of the noise that images get, if any. Each network then sees several noisy copies of its inputs."""
    logitnorm: LogitNorm | None = None
    """Settings of losses on normalised logits, if any."""
    diversity: Diversity | None = None
    moment_matching_weight: float = 0.0
    adversarial_weight: float = 0.0
    """HyperGAN's β."""
    discriminator_hidden_size: int = 512
    discriminator_learning_rate: float = 1e-4
    distillation: Distillation | None = None
    """Settings of distillation, which replaces descent through the target network."""
    balance: bool = False
    """Whether all classes weigh the same in the loss, so that examples of rare classes weigh more."""
    plain_pixels: bool = False
    """Whether pixels stay in [0, 1] instead of being normalised as the dataset says."""
    largest_ensemble: int = 100
    """The largest ensemble that is calibrated and evaluated. It is smaller where evaluation is slow."""
    storage: Storage = "float32"
    precision: Precision = "float32"
    """Precision of the networks of a step, which must take images, and of their products. Their last layers,
    normalisations and losses are in float32, and so are the sampler's parameters."""
    options: str = ""
    """Command-line options that changed this recipe from what its function returns."""

    def __post_init__(self) -> None:
        for name, weight in (
            ("moment matching", self.moment_matching_weight),
            ("the adversarial loss", self.adversarial_weight),
        ):
            if not 0 <= weight < math.inf:
                raise ValueError(f"the weight of {name} must be 0 or more, not {weight}")
        mixes = self.method.mixer if isinstance(self.method, HyperGANConfig) else isinstance(self.method, DeutschConfig)
        if not mixes and (self.moment_matching_weight or self.adversarial_weight):
            raise ValueError(
                "these codes follow their prior already; moment matching and the adversarial loss need a mixer"
            )
