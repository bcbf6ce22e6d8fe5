"""Recipes for small problems without a download: digits, a cubic, and a mixture of Gaussians."""

from models.samplers.hypergan import HyperGANConfig
from models.samplers.mlp import MLPConfig
from models.targets.layers import Activation, Linear
from models.targets.target import TargetNetwork
from training.objectives.objectives import Diversity
from training.recipes.recipe import Recipe
from training.recipes.targets import make_convolutional_target


def digits_hypergan() -> Recipe:
    """HyperGAN on scikit-learn's 8 × 8 digits; under a minute on 2 cores, no download."""
    return Recipe(
        name="digits-hypergan",
        dataset="digits",
        method=HyperGANConfig(latent_size=32, code_size=16, hidden_size=64),
        target=make_convolutional_target((1, 8, 8), channels=(8, 16), kernel_size=3, paddings=(1, 0)),
        steps=600,
        learning_rates={"codes": 2e-3, "deviations": 1e-4, "mean": 4e-3},
        weight_decays={"mean": 5e-5},
        codes_per_step=128,
        moment_matching_weight=1.0,
        adversarial_weight=0.1,
        discriminator_hidden_size=64,
    )


def toy_cubic() -> Recipe:
    """HyperGAN's regression on 20 points of a cubic; seconds, no download."""
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
    """Deutsch's mixture of ten Gaussians in the plane, sampled along a curve; seconds, no download."""
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
