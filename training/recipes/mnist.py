"""Recipes for MNIST."""

from dataclasses import replace

from models.checkpoint import MethodConfig
from models.samplers.apd import APDConfig
from models.samplers.deep_ensemble import DeepEnsembleConfig
from models.samplers.deutsch import DeutschConfig
from models.samplers.hyperdraw import HyperDrawConfig
from models.samplers.hypergan import HyperGANConfig
from models.samplers.mc_dropout import MCDropoutConfig
from models.samplers.mnf import MNFConfig
from models.samplers.static_hypernetwork import StaticHypernetworkConfig
from models.targets.layers import Activation, Convolution, Flatten, Linear, MaxPooling
from models.targets.target import TargetNetwork
from training.data.augmentation import Augmentation
from training.objectives.gaussian_noise import GaussianNoise
from training.objectives.hardening import Hardening
from training.objectives.objectives import Diversity
from training.objectives.repulsion import Repulsion
from training.recipes.recipe import Distillation, OutlierExposure, Recipe
from training.recipes.targets import make_convolutional_target


def mnist_hypergan() -> Recipe:
    """HyperGAN on its paper's MNIST target of 31,594 weights; about 12 minutes on 2 cores."""
    return Recipe(
        name="mnist-hypergan",
        dataset="mnist",
        method=HyperGANConfig(),
        target=make_convolutional_target((1, 28, 28), channels=(32, 32), kernel_size=5),
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
        target=make_convolutional_target((1, 28, 28), channels=(8, 16), kernel_size=5),
        steps=1_500,
        learning_rates={"codes": 2e-3, "deviations": 2e-5, "mean": 8e-3},
        discriminator_hidden_size=256,
        storage="float32",
    )


def mnist_5000_hypergan() -> Recipe:
    """HyperGAN trained on only 5,000 images of MNIST; about 5 minutes on 2 cores."""
    return replace(mnist_hypergan(), name="mnist-5000-hypergan", dataset="mnist-5000", steps=1_500)


def mnist_he_cka() -> Recipe:
    """HyperGAN's generators, whose networks repel each other by HE-CKA; 15 minutes on one core."""
    networks = 16
    return replace(
        mnist_hypergan(),
        name="mnist-he-cka",
        steps=2_000,
        networks_per_step=networks,
        outliers=OutlierExposure(group_size=networks),
        repulsion=Repulsion(),
        moment_matching_weight=0.0,
        adversarial_weight=0.0,
    )


def mnist_deutsch() -> Recipe:
    """Deutsch's hypernetwork on its paper's target of 20,018 weights, tuned for accuracy; half an hour on 2 cores."""
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
    """mnist-deutsch tuned for diversity instead; half an hour on 2 cores."""
    return replace(mnist_deutsch(), name="mnist-deutsch-diverse", diversity=Diversity(accuracy_weight=1_000))


def mnist_hyperdraw() -> Recipe:
    """16 modes with deviations on HyperGAN's target, trained to be uncertain on outliers; an hour on 2 cores."""
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
    """mnist-hyperdraw with 8 modes, trained on adversarial examples too; an hour on 2 cores."""
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


def mnist_hyperdraw_noise() -> Recipe:
    """mnist-hyperdraw with 8 modes, trained for certificates on images with noise; half an hour on one core."""
    modes = 8
    return replace(
        mnist_hyperdraw(),
        name="mnist-hyperdraw-noise",
        method=HyperDrawConfig(modes),
        steps=8_600,  # 10 epochs of each mode
        networks_per_step=modes,
        inputs_per_network=64,
        augmentation=None,
        outliers=None,
        noise=GaussianNoise(),
        weight_decays={"modes": 1e-4 / modes},
    )


def mnist_deep_ensemble() -> Recipe:
    """Ten separately trained networks on HyperGAN's target; about 20 minutes on 2 cores."""
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
    """A static hypernetwork of 4,240 parameters that makes a kernel of 12,544 weights; about 10 minutes on 2 cores."""
    return Recipe(
        name="mnist-static",
        dataset="mnist",
        method=StaticHypernetworkConfig(embedding_size=4, hidden_size=4),
        target=make_convolutional_target((1, 28, 28), channels=(16, 16), kernel_size=7, paddings=(3, 3)),
        steps=4_300,  # 10 epochs
        networks_per_step=1,
        inputs_per_network=128,
        learning_rates={"generator": 2e-3, "embeddings": 2e-3, "direct": 2e-3},
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
