"""Recipes for CIFAR-10."""

from dataclasses import replace

from models.checkpoint import MethodConfig
from models.samplers.deep_ensemble import DeepEnsembleConfig
from models.samplers.hyperdraw import HyperDrawConfig
from models.samplers.hypergan import HyperGANConfig
from models.samplers.static_hypernetwork import StaticHypernetworkConfig
from models.targets.target import TargetNetwork
from training.data.augmentation import Augmentation
from training.objectives.gaussian_noise import GaussianNoise
from training.recipes.mnist import mnist_hypergan
from training.recipes.recipe import Recipe
from training.recipes.targets import make_convolutional_target, make_wide_resnet

CROPS = Augmentation(rotation=0.0, scale=0.0, shift=0.25, shear=0.0, flip=True, whole_pixels=True)
"""The usual augmentation for CIFAR: shifts of up to 4 of 32 pixels, and mirroring."""

WIDE_RESNET_STEPS = 4_300
"""Steps for 12 epochs of each network, with 128 images a step."""


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
        target=make_convolutional_target((3, 32, 32), channels=(16, 32, 32), kernel_size=3, hidden=64),
    )


def cifar5_hypergan() -> Recipe:
    """HyperGAN on five classes of CIFAR-10; the other five are the outliers; 25 minutes on one core."""
    return replace(
        cifar10_hypergan(), name="cifar5-hypergan", dataset="cifar-5", target=_cifar_target(classes=5), steps=2_500
    )


def cifar10_5000_hypergan() -> Recipe:
    """HyperGAN trained on only 5,000 images of CIFAR-10; 15 minutes on one core."""
    return replace(cifar10_hypergan(), name="cifar10-5000-hypergan", dataset="cifar-10-5000", steps=1_500)


def cifar10_hyperdraw() -> Recipe:
    """10 modes with deviations on HyperGAN's CIFAR-10 target, augmented; 40 minutes on 2 cores."""
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


def cifar10_hyperdraw_noise() -> Recipe:
    """cifar10-hyperdraw with 4 modes, trained for certificates on images with noise; half an hour on one core."""
    modes = 4
    return replace(
        cifar10_hyperdraw(),
        name="cifar10-hyperdraw-noise",
        method=HyperDrawConfig(modes),
        steps=8_400,  # 12 epochs of each mode
        networks_per_step=modes,
        inputs_per_network=64,
        noise=GaussianNoise(deviation=0.25, consistency_weight=2.0),
        weight_decays={"modes": 1e-4 / modes},
    )


def cifar5_hyperdraw() -> Recipe:
    """10 modes with deviations on five classes of CIFAR-10; the other five are the outliers; 35 minutes on one core."""
    return replace(
        cifar10_hyperdraw(),
        name="cifar5-hyperdraw",
        dataset="cifar-5",
        target=_cifar_target(classes=5),
        steps=3_600,  # 20 epochs of each mode
    )


def cifar10_wrn_ensemble() -> Recipe:
    """Three separately trained WRN-16-1; 70 minutes on one core."""
    networks = 3
    return replace(
        _wide_resnet("cifar10-wrn-ensemble", make_wide_resnet(16, 1), DeepEnsembleConfig(networks)),
        networks_per_step=networks,
        learning_rates={"all": 4e-3},
        weight_decays={"all": 1e-4 / networks},
    )


def cifar10_static() -> Recipe:
    """A static hypernetwork of 0.148 M parameters for a WRN-40-2 of 2.235 M, trained as in the paper; for a GPU."""
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
    """A static hypernetwork with random embeddings, 0.3 times the size of its WRN-16-1; 70 minutes on one core."""
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


def _cifar_target(classes: int = 10) -> TargetNetwork:
    return make_convolutional_target((3, 32, 32), channels=(32, 64, 64), kernel_size=3, classes=classes, hidden=128)


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
