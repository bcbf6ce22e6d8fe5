"""Target networks that several recipes share."""

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
    Residual,
)
from models.targets.target import TargetNetwork


def make_convolutional_target(
    input_shape: Shape,
    channels: tuple[int, ...],
    kernel_size: int,
    paddings: tuple[int, ...] | None = None,
    classes: int = 10,
    hidden: int | None = None,
) -> TargetNetwork:
    """Convolutions, each with leaky ReLU and 2 × 2 max-pooling, an optional hidden linear layer, and the last layer."""
    convolutions = [
        (Convolution(c, kernel_size, padding), Activation(), MaxPooling())
        for c, padding in zip(channels, paddings or (0,) * len(channels), strict=True)
    ]
    layers = [layer for block in convolutions for layer in block]
    channels_in, height, width = input_shape
    between = (Linear(hidden), Activation()) if hidden else ()
    return TargetNetwork((channels_in, height, width), (*layers, Flatten(), *between, Linear(classes)))


def make_wide_resnet(depth: int, width: int, classes: int = 10) -> TargetNetwork:
    """WRN-depth-width for images of 3 × 32 × 32 pixels (Zagoruyko & Komodakis, "Wide Residual Networks", BMVC 2016).

    Deviations: group normalisation with 8 channels a group replaces batch normalisation, convolutions have biases, and
    shortcuts have no parameters, as in the CIFAR networks of He et al.

    Raises:
        ValueError: if no Wide ResNet has this depth.
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
