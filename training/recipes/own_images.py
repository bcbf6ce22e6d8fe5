"""The recipe for a user's own images."""

import shlex
from enum import StrEnum

from models.checkpoint import MethodConfig
from models.samplers.deep_ensemble import DeepEnsembleConfig
from models.samplers.hyperdraw import HyperDrawConfig
from models.samplers.mc_dropout import MCDropoutConfig
from models.schema import Shape
from models.targets.layers import numel
from models.targets.target import TargetNetwork
from training.data.augmentation import Augmentation
from training.recipes.recipe import OutlierExposure, Recipe
from training.recipes.targets import make_convolutional_target


class Method(StrEnum):
    """Methods that can be trained on a user's own images."""

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
    """A recipe like mnist-hyperdraw with half as many modes and a target network that suits the images.

    Args:
        dataset: name of the dataset, which is the folder's name before an @.
        shape: shape of an image, (C, H, W).
        classes: number of classes.
        examples: number of training images.
        method: how networks are sampled.
        flip: whether mirrored images belong to the same class.
        balance: whether rare classes weigh as much as frequent ones in the loss.
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
        inputs_per_network=min(32, max(1, examples // 2)),  # a step that takes all of them does not augment them
        own_epochs=True,
        augmentation=Augmentation(beyond="border", flip=flip),
        balance=balance,
        outliers=OutlierExposure(inputs_per_step=16, group_size=modes // 2, count=min(10_000, 2**25 // numel(shape))),
    )


def choose_target(shape: Shape, classes: int) -> TargetNetwork:
    """A target of at least two 3 × 3 convolutions, which halve images (C, H, W) until a side is shorter than 8.

    The first two convolutions have 32 channels, the others 64.
    """
    side, channels = min(shape[1:]), list[int]()
    while side >= 8 or len(channels) < 2:
        channels.append(32 if len(channels) < 2 else 64)
        side //= 2
    return make_convolutional_target(shape, tuple(channels), 3, (1,) * len(channels), classes)
