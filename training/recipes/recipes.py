"""Recipes: everything that determines a training run, as Python functions that return it."""

import math
import shlex
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from models.checkpoint import MethodConfig, Storage
from models.samplers.apd import APDConfig
from models.samplers.deep_ensemble import DeepEnsembleConfig
from models.samplers.deutsch import DeutschConfig
from models.samplers.hyperdraw import HyperDrawConfig
from models.samplers.hypergan import HyperGANConfig
from models.samplers.mc_dropout import MCDropoutConfig
from models.samplers.mlp import MLPConfig
from models.samplers.mnf import MNFConfig
from models.samplers.static_hypernetwork import StaticHypernetworkConfig
from models.targets.layers import (
    Activation,
    Convolution,
    Flatten,
    GlobalPooling,
    Layer,
    Linear,
    MaxPooling,
    Normalization,
    Residual,
    Shape,
    numel,
)
from models.targets.target import TargetNetwork
from training.data.augmentation import Augmentation
from training.objectives.hardening import Hardening
from training.objectives.objectives import Diversity, Measure


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


CROPS = Augmentation(rotation=0.0, scale=0.0, shift=0.25, shear=0.0, flip=True, whole_pixels=True)
"""The usual ones of CIFAR: up to four pixels of 32 to any side, and mirroring."""


WIDE_RESNET_STEPS = 4_300
"""12 epochs of each network, with 128 images a step."""


def mnist_hypergan() -> Recipe:
    """HyperGAN on its paper's MNIST target of 31,594 weights; about 12 minutes on 2 cores."""
    return Recipe(
        name="mnist-hypergan",
        dataset="mnist",
        method=HyperGANConfig(),
        target=_convolutional_target((1, 28, 28), channels=(32, 32), kernel_size=5),
        steps=3_500,
        learning_rates={"codes": 1e-3, "deviations": 1e-5, "mean": 8e-3},
        weight_decays={"mean": 5e-5},  # Adam would else let confident networks grow on
        moment_matching_weight=1.0,
        adversarial_weight=0.1,
        storage="int8",
    )


def mnist_hypergan_small() -> Recipe:
    """HyperGAN on a small MNIST target of 5,994 weights; about 3 minutes on 2 cores."""
    return replace(
        mnist_hypergan(),
        name="mnist-hypergan-small",
        method=HyperGANConfig(latent_size=128, code_size=64, hidden_size=256),
        target=_convolutional_target((1, 28, 28), channels=(8, 16), kernel_size=5),
        steps=1_500,
        learning_rates={"codes": 2e-3, "deviations": 2e-5, "mean": 8e-3},
        discriminator_hidden_size=256,
        storage="float32",
    )


def mnist_5000_hypergan() -> Recipe:
    """HyperGAN trained on 5,000 images of MNIST alone; about 5 minutes on 2 cores."""
    return replace(mnist_hypergan(), name="mnist-5000-hypergan", dataset="mnist-5000", steps=1_500)


def mnist_deutsch() -> Recipe:
    """Deutsch's hypernetwork on its paper's MNIST target of 20,018 weights, accurate; about 30 minutes on 2 cores."""
    return Recipe(
        name="mnist-deutsch",
        dataset="mnist",
        method=DeutschConfig(),
        target=TargetNetwork(
            (1, 28, 28),
            (
                *(Convolution(32, 5, padding=2), Activation(0.0), MaxPooling()),
                *(Convolution(16, 5, padding=2), Activation(0.0), MaxPooling()),
                *(Flatten(), Linear(8), Activation(0.0), Linear(10)),
            ),
        ),
        steps=6_000,
        learning_rates={"all": 1e-3},
        networks_per_step=32,
        inputs_per_network=16,
        codes_per_step=32,
        diversity=Diversity(accuracy_weight=30_000),
        plain_pixels=True,
    )


def mnist_deutsch_diverse() -> Recipe:
    """Deutsch's hypernetwork again, diverse rather than accurate; about 30 minutes on 2 cores."""
    return replace(mnist_deutsch(), name="mnist-deutsch-diverse", diversity=Diversity(accuracy_weight=1_000))


def mnist_hyperdraw() -> Recipe:
    """Modes and deviations on HyperGAN's target, augmented, uncertain on synthetic outliers; an hour on 2 cores."""
    modes = 16
    return replace(
        _mnist_baseline("mnist-hyperdraw", HyperDrawConfig(modes)),
        steps=4_300,  # 10 epochs of each mode
        networks_per_step=modes,
        inputs_per_network=128,
        own_epochs=True,
        augmentation=Augmentation(),
        outliers=OutlierExposure(),
        learning_rates={"modes": 4e-3, "gains": 1e-3},
        weight_decays={"modes": 1e-4 / modes},
    )


def mnist_hyperdraw_hard() -> Recipe:
    """Half as many modes, trained on adversarial examples too; an hour on 2 cores."""
    modes = 8
    return replace(
        mnist_hyperdraw(),
        name="mnist-hyperdraw-hard",
        method=HyperDrawConfig(modes),
        networks_per_step=modes,
        outliers=OutlierExposure(group_size=4),
        hardening=Hardening(),
        weight_decays={"modes": 1e-4 / modes},
    )


def mnist_deep_ensemble() -> Recipe:
    """Ten networks trained apart, on HyperGAN's target; about 20 minutes on 2 cores."""
    networks = 10
    return replace(
        _mnist_baseline("mnist-deep-ensemble", DeepEnsembleConfig(networks)),
        steps=4_300,  # 10 epochs
        networks_per_step=networks,
        inputs_per_network=128,
        own_epochs=True,
        learning_rates={"all": 8e-3},
        weight_decays={"all": 1e-4 / networks},  # the loss is a mean over networks, and so is each one's gradient
    )


def mnist_mc_dropout() -> Recipe:
    """MC dropout at rate 0.5 on HyperGAN's target; about 6 minutes on 2 cores."""
    return _mnist_baseline("mnist-mc-dropout", MCDropoutConfig())


def mnist_mnf() -> Recipe:
    """Multiplicative normalising flows on HyperGAN's target; about 12 minutes on 2 cores."""
    return replace(_mnist_baseline("mnist-mnf", MNFConfig()), steps=6_000)


def mnist_apd() -> Recipe:
    """Adversarial distillation of Langevin dynamics on HyperGAN's target; about 20 minutes on 2 cores."""
    return replace(
        _mnist_baseline("mnist-apd", APDConfig()),
        steps=22_000,
        networks_per_step=1,
        inputs_per_network=100,
        learning_rates={"all": 1e-4},
        distillation=Distillation(),
        storage="int8",
    )


def mnist_static() -> Recipe:
    """A static hypernetwork of 4,240 parameters that makes one kernel of 12,544; about 10 minutes on 2 cores."""
    return Recipe(
        name="mnist-static",
        dataset="mnist",
        method=StaticHypernetworkConfig(embedding_size=4, hidden_size=4),
        target=_convolutional_target((1, 28, 28), channels=(16, 16), kernel_size=7, paddings=(3, 3)),
        steps=4_300,  # 10 epochs
        networks_per_step=1,
        inputs_per_network=128,
        learning_rates={"generator": 2e-3, "embeddings": 2e-3, "direct": 2e-3},
    )


def cifar10_hypergan() -> Recipe:
    """HyperGAN on its authors' later CIFAR-10 target of 90,506 weights, augmented; an hour on one core."""
    return replace(
        mnist_hypergan(),
        name="cifar10-hypergan",
        dataset="cifar-10",
        method=HyperGANConfig(code_size=256),
        target=_cifar_target(),
        steps=4_500,
        augmentation=CROPS,
    )


def cifar10_hypergan_small() -> Recipe:
    """HyperGAN on a CIFAR-10 target of 23,242 weights, augmented; half an hour on one core."""
    return replace(
        cifar10_hypergan(),
        name="cifar10-hypergan-small",
        target=_convolutional_target((3, 32, 32), channels=(16, 32, 32), kernel_size=3, hidden=64),
    )


def cifar5_hypergan() -> Recipe:
    """HyperGAN on five classes of CIFAR-10; the others are to be told apart; 25 minutes on one core."""
    return replace(
        cifar10_hypergan(), name="cifar5-hypergan", dataset="cifar-5", target=_cifar_target(classes=5), steps=2_500
    )


def cifar10_5000_hypergan() -> Recipe:
    """HyperGAN trained on 5,000 images of CIFAR-10 alone; 15 minutes on one core."""
    return replace(cifar10_hypergan(), name="cifar10-5000-hypergan", dataset="cifar-10-5000", steps=1_500)


def cifar10_hyperdraw() -> Recipe:
    """Modes and deviations on HyperGAN's CIFAR-10 target, augmented; 40 minutes on 2 cores."""
    modes = 10
    return replace(
        cifar10_hypergan(),
        name="cifar10-hyperdraw",
        method=HyperDrawConfig(modes),
        steps=7_200,  # 20 epochs of each mode
        networks_per_step=modes,
        inputs_per_network=128,
        own_epochs=True,
        learning_rates={"modes": 3e-3, "gains": 1e-3},
        weight_decays={"modes": 1e-4 / modes},
        moment_matching_weight=0.0,
        adversarial_weight=0.0,
        storage="bfloat16",
    )


def cifar5_hyperdraw() -> Recipe:
    """Modes and deviations on five classes of CIFAR-10; the others are to be told apart; 35 minutes on one core."""
    return replace(
        cifar10_hyperdraw(),
        name="cifar5-hyperdraw",
        dataset="cifar-5",
        target=_cifar_target(classes=5),
        steps=3_600,  # 20 epochs of each mode
    )


def cifar10_wrn_ensemble() -> Recipe:
    """Three WRN-16-1 trained apart; 70 minutes on one core."""
    networks = 3
    return replace(
        _wide_resnet("cifar10-wrn-ensemble", make_wide_resnet(16, 1), DeepEnsembleConfig(networks)),
        networks_per_step=networks,
        learning_rates={"all": 4e-3},
        weight_decays={"all": 1e-4 / networks},
    )


def cifar10_static() -> Recipe:
    """A static hypernetwork of 0.148 M parameters for a WRN-40-2 of 2.235 M, as long as in the paper; for a GPU."""
    return replace(
        _wide_resnet("cifar10-static", make_wide_resnet(40, 2), StaticHypernetworkConfig()),
        steps=700_000,
        learning_rates={"generator": 2e-3, "embeddings": 2e-3, "direct": 2e-3},
        final_learning_rate_fraction=0.025,
    )


def cifar10_static_small() -> Recipe:
    """A static hypernetwork for a WRN-16-1; 25 minutes on one core."""
    return replace(
        cifar10_static(),
        name="cifar10-static-small",
        target=make_wide_resnet(16, 1),
        steps=WIDE_RESNET_STEPS,
        learning_rates={"generator": 2e-3, "embeddings": 2e-3, "direct": 4e-3},
    )


def cifar10_random_static() -> Recipe:
    """A static hypernetwork with random embeddings: WRN-16-1 from .3 of their size; 70 minutes on one core."""
    modes = 3
    return replace(
        cifar10_static_small(),
        name="cifar10-random-static",
        method=StaticHypernetworkConfig(
            embedding_size=32, hidden_size=32, basic_channels=8, modes=modes, latent_size=4
        ),
        networks_per_step=modes,
        learning_rates={"generator": 1e-3, "embeddings": 2e-2, "direct": 1e-2, "gains": 1e-3},
    )


class Method(StrEnum):
    """What own images can be learned with."""

    HYPERDRAW = "hyperdraw"
    DEEP_ENSEMBLE = "deep-ensemble"
    MC_DROPOUT = "mc-dropout"


def own_images(
    dataset: str,
    shape: Shape,
    classes: int,
    examples: int,
    method: Method = Method.HYPERDRAW,
    flip: bool = False,
    balance: bool = False,
) -> Recipe:
    """mnist-hyperdraw with half as many modes, on any images, for a target by their size.

    Args:
        dataset: name of the folder, before an @.
        shape: of an image, (C, H, W).
        classes: how many.
        examples: to train on.
        method: that networks are sampled with.
        flip: whether a mirrored image is of the same class.
        balance: whether rare classes weigh as much as frequent ones.
    """
    modes = 8
    config: MethodConfig = HyperDrawConfig(modes)
    rates = {"modes": 2e-3, "gains": 1e-3}
    decays = {"modes": 1e-4 / modes}
    if method is Method.DEEP_ENSEMBLE:
        config, rates, decays = DeepEnsembleConfig(modes), {"all": 2e-3}, {"all": 1e-4 / modes}
    elif method is Method.MC_DROPOUT:
        config, rates, decays = MCDropoutConfig(), {"all": 1e-3}, {}
    return Recipe(
        name=f"images {shlex.quote(dataset.rsplit('@', 1)[0])}",
        dataset=dataset,
        method=config,
        target=choose_target(shape, classes),
        steps=1_500,
        learning_rates=rates,
        weight_decays=decays,
        networks_per_step=modes,
        inputs_per_network=min(32, max(1, examples // 2)),  # all of them would be seen as they are
        own_epochs=True,
        augmentation=Augmentation(beyond="border", flip=flip),
        balance=balance,
        outliers=OutlierExposure(inputs_per_step=16, group_size=modes // 2, count=min(10_000, 2**25 // numel(shape))),
    )


def choose_target(shape: Shape, classes: int) -> TargetNetwork:
    """Convolutions of 3 × 3 that halve the images, (C, H, W), until a side is shorter than 8, but two at least.

    The first two have 32 channels, the others 64.
    """
    side, channels = min(shape[1:]), list[int]()
    while side >= 8 or len(channels) < 2:
        channels.append(32 if len(channels) < 2 else 64)
        side //= 2
    return _convolutional_target(shape, tuple(channels), 3, (1,) * len(channels), classes)


def digits_hypergan() -> Recipe:
    """HyperGAN on scikit-learn's 8 × 8 digits; under a minute on 2 cores, nothing to download."""
    return Recipe(
        name="digits-hypergan",
        dataset="digits",
        method=HyperGANConfig(latent_size=32, code_size=16, hidden_size=64),
        target=_convolutional_target((1, 8, 8), channels=(8, 16), kernel_size=3, paddings=(1, 0)),
        steps=600,
        learning_rates={"codes": 2e-3, "deviations": 1e-4, "mean": 4e-3},
        weight_decays={"mean": 5e-5},
        codes_per_step=128,
        moment_matching_weight=1.0,
        adversarial_weight=0.1,
        discriminator_hidden_size=64,
    )


def toy_cubic() -> Recipe:
    """HyperGAN's regression of 20 points of a cubic; seconds, nothing to download."""
    return Recipe(
        name="toy-cubic",
        dataset="cubic",
        method=HyperGANConfig(latent_size=64, code_size=64, hidden_size=128),
        target=TargetNetwork((1,), (Linear(100), Activation(0.0), Linear(1))),
        steps=1_000,
        learning_rates={"codes": 1e-3, "deviations": 1e-3, "mean": 1e-2},
        networks_per_step=64,
        inputs_per_network=20,
        codes_per_step=64,
        diversity=Diversity(accuracy_weight=5, gauge=("scaling",)),
    )


def toy_mixture() -> Recipe:
    """Deutsch's mixture of ten Gaussians in the plane, through which a curve must pass; seconds, no download."""
    return Recipe(
        name="toy-mixture",
        dataset="mixture",
        method=MLPConfig(),
        target=TargetNetwork((1,), (Linear(1),)),
        steps=6_000,
        learning_rates={"all": 1e-2},
        networks_per_step=256,
        codes_per_step=256,
        diversity=Diversity(accuracy_weight=1 / 2.2, gauge=(), initial_share=0.25, floor=1e-6),
    )


def _mnist_baseline(name: str, method: MethodConfig) -> Recipe:
    return replace(
        mnist_hypergan(),
        name=name,
        method=method,
        learning_rates={"all": 1e-3},
        weight_decays={},
        moment_matching_weight=0.0,
        adversarial_weight=0.0,
        storage="float32",
    )


RECIPES: tuple[Callable[[], Recipe], ...] = (
    mnist_hyperdraw,
    mnist_hyperdraw_hard,
    mnist_hypergan,
    mnist_hypergan_small,
    mnist_5000_hypergan,
    mnist_deutsch,
    mnist_deutsch_diverse,
    mnist_deep_ensemble,
    mnist_mc_dropout,
    mnist_mnf,
    mnist_apd,
    mnist_static,
    cifar10_hypergan,
    cifar10_hypergan_small,
    cifar5_hypergan,
    cifar10_5000_hypergan,
    cifar10_hyperdraw,
    cifar5_hyperdraw,
    cifar10_wrn_ensemble,
    cifar10_static,
    cifar10_static_small,
    cifar10_random_static,
    digits_hypergan,
    toy_cubic,
    toy_mixture,
)


ADDABLE: Mapping[Part, Any] = {
    Part.AUGMENTATION: Augmentation(),
    Part.OUTLIERS: OutlierExposure(),
    Part.HARDENING: Hardening(),
}
"""Parts by the field of a recipe that they fill."""


def vary(
    recipe: Recipe,
    without: Collection[Part] = (),
    accuracy_weight: float | None = None,
    measure: Measure | None = None,
    moment_matching_weight: float | None = None,
    extras: Collection[Part] = (),
) -> Recipe:
    """A recipe less some of its parts, with extra ones, or with other regularisers.

    Args:
        recipe: to start from.
        without: parts to leave out. Without the mixer there are no mixed codes, hence no losses on them either.
        accuracy_weight: λ; adds gauge-fixed entropy, normalised layer by layer, where a recipe has no diversity.
        measure: of diversity, in place of the recipe's.
        moment_matching_weight: of the distance of the mixed codes' moments from their prior's.
        extras: parts to add.

    Raises:
        ValueError: if the recipe has no such part, or has an extra one already, λ is not positive, or moments of
            unmixed codes were to be matched.
    """
    options = [f" --without {part}" for part in Part if part in without]
    options += [f" --with {part}" for part in Part if part in extras]
    changed = recipe
    if Part.MIXER in without:
        if not isinstance(recipe.method, HyperGANConfig):
            raise ValueError(f"{recipe.name} has no mixer")
        method = replace(recipe.method, mixer=False)
        changed = replace(changed, method=method, moment_matching_weight=0.0, adversarial_weight=0.0)
    if Part.DISCRIMINATOR in without:
        _require(recipe, Part.DISCRIMINATOR, bool(recipe.adversarial_weight))
        changed = replace(changed, adversarial_weight=0.0)
    if Part.DIVERSITY in without:
        _require(recipe, Part.DIVERSITY, recipe.diversity is not None)
        changed = replace(changed, diversity=None)
    for part in without:
        if part in ADDABLE:
            _require(recipe, part, getattr(recipe, part) is not None)
            changed = _set(changed, part, None)
    for part in extras:
        if part not in ADDABLE:
            raise ValueError(f"a {part} cannot be added; what can be is {', '.join(ADDABLE)}")
        if getattr(changed, part) is not None:
            raise ValueError(f"{recipe.name} has {part} already")
        changed = _set(changed, part, ADDABLE[part])
    if accuracy_weight is not None:
        if Part.DIVERSITY in without:
            raise ValueError("a weight of accuracy against diversity makes no sense without diversity")
        if recipe.networks_per_step == 1:
            raise ValueError(f"{recipe.name} trains a single network, which has no diversity")
        start = recipe.diversity or Diversity(accuracy_weight, equal_layers=True)
        changed = replace(changed, diversity=replace(start, accuracy_weight=accuracy_weight))
        options.append(f" --accuracy-weight {_write(accuracy_weight)}")
    if measure is not None:
        if changed.diversity is None:
            raise ValueError(f"{recipe.name} has no diversity to measure; give it a weight of accuracy, λ, too")
        if accuracy_weight is None and measure != changed.diversity.measure:
            raise ValueError(
                f"the λ of {changed.diversity.measure} is none for {measure}; give a weight of accuracy too"
            )
        changed = replace(changed, diversity=replace(changed.diversity, measure=measure))
        options.append(f" --diversity {measure}")
    if moment_matching_weight is not None:
        changed = replace(changed, moment_matching_weight=moment_matching_weight)
        options.append(f" --moment-matching {_write(moment_matching_weight)}")
    return replace(changed, options="".join(options))


def _set(recipe: Recipe, part: Part, settings: Any) -> Recipe:
    changes: dict[str, Any] = {part.value: settings}
    return replace(recipe, **changes)


def _write(number: float) -> str:
    """Exact, and short where it can be."""
    return repr(number).removesuffix(".0")


def _require(recipe: Recipe, part: Part, present: bool) -> None:
    if not present:
        raise ValueError(f"{recipe.name} has no {part} to leave out")


def _cifar_target(classes: int = 10) -> TargetNetwork:
    return _convolutional_target((3, 32, 32), channels=(32, 64, 64), kernel_size=3, classes=classes, hidden=128)


def _wide_resnet(name: str, target: TargetNetwork, method: MethodConfig) -> Recipe:
    return Recipe(
        name=name,
        dataset="cifar-10",
        method=method,
        target=target,
        steps=WIDE_RESNET_STEPS,
        learning_rates={},
        networks_per_step=1,
        inputs_per_network=128,
        own_epochs=True,
        augmentation=CROPS,
        largest_ensemble=20,
    )


def make_wide_resnet(depth: int, width: int, classes: int = 10) -> TargetNetwork:
    """WRN-depth-width for images of 3 × 32 × 32 (Zagoruyko & Komodakis, "Wide Residual Networks", BMVC 2016).

    Deviations: group normalisation, 8 channels a group, in place of batch normalisation; biases of convolutions; and
    shortcuts without parameters, as in the paper's CIFAR networks of He et al.

    Raises:
        ValueError: if there is no such depth.
    """
    blocks, rest = divmod(depth - 4, 6)
    if blocks < 1 or rest:
        raise ValueError(f"a Wide ResNet has a depth of 10, 16, 22 and so on, not {depth}")
    layers: list[Layer] = [Convolution(16, 3, padding=1)]
    given = 16
    for stage, channels in enumerate((16 * width, 32 * width, 64 * width)):
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            convolutions = Convolution(channels, 3, padding=1, stride=stride), Convolution(channels, 3, padding=1)
            norms = Normalization(given // 8), Normalization(channels // 8)
            parts = [(n, Activation(0.0), c) for n, c in zip(norms, convolutions, strict=True)]
            layers.append(Residual(tuple(layer for part in parts for layer in part)))
            given = channels
    last = (Normalization(given // 8), Activation(0.0), GlobalPooling(), Flatten(), Linear(classes))
    return TargetNetwork((3, 32, 32), (*layers, *last))


def _convolutional_target(
    input_shape: Shape,
    channels: tuple[int, ...],
    kernel_size: int,
    paddings: tuple[int, ...] | None = None,
    classes: int = 10,
    hidden: int | None = None,
) -> TargetNetwork:
    """Convolutions, each with leaky ReLU and 2 × 2 max-pooling, maybe a hidden linear layer, and a linear layer."""
    convolutions = [
        (Convolution(c, kernel_size, padding), Activation(), MaxPooling())
        for c, padding in zip(channels, paddings or (0,) * len(channels), strict=True)
    ]
    layers = [layer for block in convolutions for layer in block]
    channels_in, height, width = input_shape
    between = (Linear(hidden), Activation()) if hidden else ()
    return TargetNetwork((channels_in, height, width), (*layers, Flatten(), *between, Linear(classes)))
