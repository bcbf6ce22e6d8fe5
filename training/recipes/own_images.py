"""The recipe for a user's own images."""

import shlex
from dataclasses import replace
from enum import StrEnum

from models.checkpoint import MethodConfig
from models.samplers.deep_ensemble import DeepEnsembleConfig
from models.samplers.hyperdraw import HyperDrawConfig
from models.samplers.mc_dropout import MCDropoutConfig
from models.schema import Shape
from models.targets.layers import Activation, Convolution, Flatten, GlobalPooling, Layer, Linear, numel
from models.targets.target import TargetNetwork
from training.data.augmentation import Augmentation
from training.recipes.recipe import OutlierExposure, Recipe
from training.recipes.targets import make_convolutional_target

PHOTOGRAPHS = Augmentation(rotation=0.1, scale=0.2, shift=0.15, shear=0.05, beyond="border")
"""Augmentation of what a backbone sees, which was trained to ignore far larger distortions."""


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
    features: Shape | None = None,
) -> Recipe:
    """A recipe like mnist-hyperdraw with half as many modes and a target network that suits the images.

    On a backbone's features a target of one layer is enough. Its weight decay is that of a network trained alone,
    because features tell some hundred images apart in many ways.

    Args:
        dataset: name of the dataset, which is the folder's name before an @.
        shape: shape of an image, (C, H, W).
        classes: number of classes.
        examples: number of training images.
        method: how networks are sampled.
        flip: whether mirrored images belong to the same class.
        balance: whether rare classes weigh as much as frequent ones in the loss.
        features: shape of the features that a backbone gives for an image, if there is one.
    """
    modes = 8
    config: MethodConfig = HyperDrawConfig(modes)
    rates = {"modes": 2e-3, "gains": 1e-3}
    decays = {"modes": 1e-4 / modes}
    if method is Method.DEEP_ENSEMBLE:
        config, rates, decays = DeepEnsembleConfig(modes), {"all": 2e-3}, {"all": 1e-4 / modes}
    elif method is Method.MC_DROPOUT:
        config, rates, decays = MCDropoutConfig(), {"all": 1e-3}, {}
    target, augmentation, steps = choose_target(shape, classes), Augmentation(beyond="border", flip=flip), 1_500
    if features is not None:
        target = choose_head(features, classes, hidden=method is Method.MC_DROPOUT)
        augmentation, steps = replace(PHOTOGRAPHS, flip=flip), 800
        decays = {group: modes * decay for group, decay in decays.items()}
    return Recipe(
        name=f"images {shlex.quote(dataset.rsplit('@', 1)[0])}",
        dataset=dataset,
        method=config,
        target=target,
        steps=steps,
        learning_rates=rates,
        weight_decays=decays,
        networks_per_step=modes,
        inputs_per_network=min(32, max(1, examples // 2)),  # a step that takes all of them does not augment them
        own_epochs=True,
        augmentation=augmentation,
        balance=balance,
        outliers=OutlierExposure(inputs_per_step=16, group_size=modes // 2, count=min(10_000, 2**25 // numel(shape))),
    )


def choose_head(shape: Shape, classes: int, hidden: bool = False) -> TargetNetwork:
    """A target for a backbone's features: one linear layer for a vector, two convolutions of 64 channels for a map.

    Args:
        shape: shape of the features, (numbers,) or (C, H, W).
        classes: number of classes.
        hidden: whether a vector gets a hidden layer of 128 units.
    """
    if len(shape) == 1:
        layers: tuple[Layer, ...] = (Linear(128), Activation()) if hidden else ()
        return TargetNetwork((shape[0],), (*layers, Linear(classes)))
    channels, height, width = shape
    convolutions = Convolution(64, 1), Activation(), Convolution(64, 3, padding=1), Activation()
    return TargetNetwork((channels, height, width), (*convolutions, GlobalPooling(), Flatten(), Linear(classes)))


def choose_target(shape: Shape, classes: int) -> TargetNetwork:
    """A target of at least two 3 × 3 convolutions, which halve images (C, H, W) until a side is shorter than 8.

    The first two convolutions have 32 channels, the others 64.
    """
    side, channels = min(shape[1:]), list[int]()
    while side >= 8 or len(channels) < 2:
        channels.append(32 if len(channels) < 2 else 64)
        side //= 2
    return make_convolutional_target(shape, tuple(channels), 3, (1,) * len(channels), classes)
