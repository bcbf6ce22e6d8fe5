"""The recipe for a user's own images."""

import shlex
from dataclasses import replace
from enum import StrEnum

from models.checkpoint import MethodConfig
from models.samplers.deep_ensemble import DeepEnsembleConfig
from models.samplers.hyperdraw import HyperDrawConfig
from models.samplers.mc_dropout import MCDropoutConfig
from models.schema import Shape
from models.targets.layers import (
    Activation,
    Convolution,
    Flatten,
    GlobalPooling,
    Layer,
    Linear,
    MaxPooling,
    Normalization,
    numel,
)
from models.targets.target import TargetNetwork
from training.data.augmentation import Augmentation
from training.recipes.recipe import OutlierExposure, Recipe

PHOTOGRAPHS = Augmentation(rotation=0.1, scale=0.2, shift=0.15, shear=0.05, beyond="border")
"""Augmentation of what a backbone sees, which was trained to ignore far larger distortions."""

CROPS = Augmentation(rotation=0.0, scale=0.0, shift=0.25, shear=0.0, beyond="border", whole_pixels=True)
"""Augmentation of what a network sees that learns from these images alone. Shifts by whole pixels keep small images as
sharp as those that it will be asked about."""

CHANNELS, CHANNELS_PER_GROUP = (24, 48, 96, 128), 8
"""Channels of a target's convolutions, and those that are normalised together."""

LEAST_STEPS, LEAST_STEPS_ON_FEATURES, MOST_STEPS, EPOCHS = 1_300, 800, 20_000, 10
"""Steps of trainings: so many that each network sees each image ten times, but within bounds. Some hundred images are
seen far more often."""

OUTLIERS, MOST_OUTLIERS_ON_FEATURES = 2_000, 10_000
"""Synthetic outliers that are made before a training; fewer on features if images are large."""

LARGE = 64
"""Width and height in pixels from which the first convolution skips positions."""


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
    """A recipe like mnist-hyperdraw with fewer modes and a target network that suits the images.

    Without a backbone, the few modes are large, normalised and trained for long, which is worth more than many modes.

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
    dropout = method is Method.MC_DROPOUT
    modes = 4 if features is None and not dropout else 8
    config: MethodConfig = HyperDrawConfig(modes)
    rates = {"modes": 2e-3, "gains": 1e-3}
    decays = {"modes": 1e-4 / modes}
    if method is Method.DEEP_ENSEMBLE:
        config, rates, decays = DeepEnsembleConfig(modes), {"all": 2e-3}, {"all": 1e-4 / modes}
    elif dropout:
        config, rates, decays = MCDropoutConfig(), {"all": 1e-3}, {}
    if features is None:
        target = choose_target(shape, classes, normalised=not dropout)
        augmentation, steps = replace(CROPS, flip=flip), LEAST_STEPS
        outliers = OutlierExposure(inputs_per_step=8, group_size=modes // 2, count=OUTLIERS)
    else:
        target = choose_head(features, classes, hidden=dropout)
        augmentation, steps = replace(PHOTOGRAPHS, flip=flip), LEAST_STEPS_ON_FEATURES
        decays = {group: modes * decay for group, decay in decays.items()}
        if len(features) == 1 and not dropout:  # a linear layer, which many features let learn fast
            rates = {group: rate / 4 for group, rate in rates.items()}
        count = min(MOST_OUTLIERS_ON_FEATURES, 2**25 // numel(shape))
        outliers = OutlierExposure(inputs_per_step=16, group_size=modes // 2, count=count)
    inputs = min(32, max(1, examples // 2))  # a step that takes all of them does not augment them
    return Recipe(
        name=f"images {shlex.quote(dataset.rsplit('@', 1)[0])}",
        dataset=dataset,
        method=config,
        target=target,
        steps=max(steps, min(MOST_STEPS, EPOCHS * examples // inputs)),
        learning_rates=rates,
        weight_decays=decays,
        networks_per_step=modes,
        inputs_per_network=inputs,
        own_epochs=True,
        augmentation=augmentation,
        balance=balance,
        outliers=outliers,
        largest_ensemble=20 if features is None else 100,
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


def choose_target(shape: Shape, classes: int, normalised: bool = True) -> TargetNetwork:
    """A target of two to four convolutions with group normalisation, each of which halves images (C, H, W).

    Pooling comes directly after a convolution, because normalising all positions would take as long as convolving.
    Images of 64 pixels or more first meet a convolution that skips positions, so that they cost little more.

    Args:
        shape: shape of an image.
        classes: number of classes.
        normalised: whether there is normalisation, which some methods cannot make weights for.
    """
    channels_in, height, width = shape
    side = min(height, width)
    layers: list[Layer] = []
    for number, channels in enumerate(CHANNELS):
        if number >= 2 and side < 4:
            break
        skips = not layers and side >= LARGE
        layers += [Convolution(channels, 5, padding=2, stride=2) if skips else Convolution(channels, 3, padding=1)]
        layers += [MaxPooling(), *[Normalization(channels // CHANNELS_PER_GROUP)] * normalised, Activation()]
        side //= 4 if skips else 2
    return TargetNetwork((channels_in, height, width), (*layers, Flatten(), Linear(classes)))


def plain_network(recipe: Recipe) -> Recipe:
    """The recipe for a plain network to compare with: one of the same target, trained alone and without outliers."""
    rate, decay = (next(iter(each.values()), 0.0) for each in (recipe.learning_rates, recipe.weight_decays))
    return replace(
        recipe,
        method=DeepEnsembleConfig(1),
        networks_per_step=1,
        learning_rates={"all": rate},
        weight_decays={"all": decay * recipe.networks_per_step},
        outliers=None,
    )
