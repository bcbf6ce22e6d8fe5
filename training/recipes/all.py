"""All recipes; each has its own command."""

from collections.abc import Callable

from training.recipes.cifar10 import (
    cifar5_hyperdraw,
    cifar5_hypergan,
    cifar10_5000_hypergan,
    cifar10_hyperdraw,
    cifar10_hyperdraw_noise,
    cifar10_hypergan,
    cifar10_hypergan_small,
    cifar10_random_static,
    cifar10_static,
    cifar10_static_small,
    cifar10_wrn_ensemble,
)
from training.recipes.mnist import (
    mnist_5000_hypergan,
    mnist_apd,
    mnist_deep_ensemble,
    mnist_deutsch,
    mnist_deutsch_diverse,
    mnist_he_cka,
    mnist_hyperdraw,
    mnist_hyperdraw_hard,
    mnist_hyperdraw_noise,
    mnist_hypergan,
    mnist_hypergan_small,
    mnist_mc_dropout,
    mnist_mnf,
    mnist_static,
)
from training.recipes.recipe import Recipe
from training.recipes.toys import digits_hypergan, toy_cubic, toy_mixture

RECIPES: tuple[Callable[[], Recipe], ...] = (
    mnist_hyperdraw,
    mnist_hyperdraw_hard,
    mnist_hyperdraw_noise,
    mnist_hypergan,
    mnist_hypergan_small,
    mnist_5000_hypergan,
    mnist_he_cka,
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
    cifar10_hyperdraw_noise,
    cifar5_hyperdraw,
    cifar10_wrn_ensemble,
    cifar10_static,
    cifar10_static_small,
    cifar10_random_static,
    digits_hypergan,
    toy_cubic,
    toy_mixture,
)
