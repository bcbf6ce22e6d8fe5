"""Augmentation: small random affine distortions of images, drawn anew each time an image is seen.

Shapes: N images.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

NUMBERS = 6
"""Random numbers that a distortion takes; a flip takes one more."""


@dataclass(frozen=True)
class Augmentation:
    """The largest distortions; each is uniform between minus and plus its largest."""

    rotation: float = 0.14
    """Radians."""
    scale: float = 0.08
    """Of the logarithm of size, and half of it of the ratio of width to height."""
    shift: float = 0.07
    """Of half the image's width and height: a pixel of 28."""
    shear: float = 0.1
    beyond: Literal["zeros", "border"] = "zeros"
    """What is beyond the image: black, or what its border is."""
    flip: bool = False
    """Whether half of the images are mirrored, left to right."""
    whole_pixels: bool = False
    """Whether shifts are rounded to pixels, so that images that are shifted alone stay sharp."""

    @property
    def numbers(self) -> int:
        """Random numbers that it takes."""
        return NUMBERS + self.flip


def distort(images: Tensor, augmentation: Augmentation, numbers: Tensor) -> Tensor:
    """Distorts each image in its own way.

    Args:
        images: [N, C, H, W], of any type.
        augmentation: how far.
        numbers: uniform on (−1, 1), [N, 6], or with flips [N, 7].

    Returns:
        float32 of the same shape and range.
    """
    rotation, scale, ratio, shear, right, down = numbers[:, :NUMBERS].T
    angle = augmentation.rotation * rotation
    size, ratio = (augmentation.scale * scale).exp(), (augmentation.scale / 2 * ratio).exp()
    cos, sin = angle.cos(), angle.sin()
    right, down = augmentation.shift * right, augmentation.shift * down
    if augmentation.whole_pixels:
        height, width = images.shape[-2:]
        right, down = (right * width / 2).round() / (width / 2), (down * height / 2).round() / (height / 2)
    rows = [
        [cos * size * ratio, augmentation.shear * shear - sin * size, right],
        [sin * size, cos * size / ratio, down],
    ]
    matrices = torch.stack([torch.stack(row, dim=1) for row in rows], dim=1)
    grid = F.affine_grid(matrices, list(images.shape), align_corners=False)
    if augmentation.flip:
        grid[..., 0] *= numbers[:, NUMBERS].sign().view(-1, 1, 1)
    return F.grid_sample(images.float(), grid, padding_mode=augmentation.beyond, align_corners=False)
