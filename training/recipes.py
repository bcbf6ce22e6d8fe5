"""Recipes: everything that determines a training run, as Python functions that return it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from models.checkpoint import Storage
from models.hypergan import HyperGANConfig
from models.target import Activation, Convolution, Flatten, Linear, MaxPooling, TargetNetwork


@dataclass(frozen=True)
class Recipe:
    """A training run. Adam with a cosine schedule; each network of a step sees images of its own."""

    name: str
    dataset: str
    outliers: str | None
    method: HyperGANConfig
    target: TargetNetwork
    steps: int
    learning_rates: Mapping[str, float]
    """By parameter group of the sampler: `codes`, `deviations`, `mean`."""
    networks_per_step: int = 16
    images_per_network: int = 32
    codes_per_step: int = 512
    """Draws of mixed codes that the code losses see; the first `networks_per_step` become networks."""
    mean_weight_decay: float = 5e-5
    """Of the L2 penalty on the mean network, in its gradient: Adam would else let confident networks grow on."""
    warmup_steps: int = 100
    final_learning_rate_fraction: float = 0.02
    gradient_norm_limit: float = 5.0
    moment_matching_weight: float = 1.0
    adversarial_weight: float = 0.1
    """HyperGAN's β."""
    discriminator_learning_rate: float = 1e-4
    storage: Storage = "float32"


def mnist_hypergan() -> Recipe:
    """HyperGAN on its paper's MNIST target of 31,594 weights; about 12 minutes on 2 cores."""
    return Recipe(
        name="mnist-hypergan",
        dataset="mnist",
        outliers="notmnist",
        method=HyperGANConfig(),
        target=_convolutional_target((1, 28, 28), channels=(32, 32), kernel_size=5),
        steps=3_500,
        learning_rates={"codes": 1e-3, "deviations": 1e-5, "mean": 8e-3},
        storage="int8",
    )


def mnist_hypergan_small() -> Recipe:
    """HyperGAN on a small MNIST target of 5,994 weights; about 3 minutes on 2 cores."""
    return Recipe(
        name="mnist-hypergan-small",
        dataset="mnist",
        outliers="notmnist",
        method=HyperGANConfig(latent_size=128, code_size=64, hidden_size=256),
        target=_convolutional_target((1, 28, 28), channels=(8, 16), kernel_size=5),
        steps=1_500,
        learning_rates={"codes": 2e-3, "deviations": 2e-5, "mean": 8e-3},
    )


def digits_hypergan() -> Recipe:
    """HyperGAN on scikit-learn's 8 × 8 digits; under a minute on 2 cores, nothing to download."""
    return Recipe(
        name="digits-hypergan",
        dataset="digits",
        outliers=None,
        method=HyperGANConfig(latent_size=32, code_size=16, hidden_size=64),
        target=_convolutional_target((1, 8, 8), channels=(8, 16), kernel_size=3, paddings=(1, 0)),
        steps=600,
        learning_rates={"codes": 2e-3, "deviations": 1e-4, "mean": 4e-3},
        codes_per_step=128,
    )


RECIPES: tuple[Callable[[], Recipe], ...] = (mnist_hypergan, mnist_hypergan_small, digits_hypergan)


def _convolutional_target(
    input_shape: tuple[int, int, int],
    channels: tuple[int, ...],
    kernel_size: int,
    paddings: tuple[int, ...] | None = None,
) -> TargetNetwork:
    """Convolutions, each with leaky ReLU and 2 × 2 max-pooling, and a linear layer to 10 classes."""
    convolutions = [
        (Convolution(c, kernel_size, padding), Activation(), MaxPooling())
        for c, padding in zip(channels, paddings or (0,) * len(channels), strict=True)
    ]
    layers = [layer for block in convolutions for layer in block]
    return TargetNetwork(input_shape, (*layers, Flatten(), Linear(10)))
