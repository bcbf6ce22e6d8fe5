"""Augmentation: small random affine distortions of images, drawn again each time an image is seen.

Shapes: N images.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

NUMBERS = 6
"""Random numbers for a distortion; a flip needs one more."""


@dataclass(frozen=True)
class Augmentation:
    """The largest distortions. Each is drawn uniformly between minus and plus its largest value."""

    rotation: float = 0.14
    """In radians."""
    scale: float = 0.08
    """Change of the logarithm of size; the ratio of width to height changes by half as much."""
    shift: float = 0.07
    """Share of half the image's width and height: one of 28 pixels."""
    shear: float = 0.1
    beyond: Literal["zeros", "border"] = "zeros"
    """What lies beyond the image: black, or its border repeated."""
    flip: bool = False
    """Whether half of the images are mirrored left to right."""
    whole_pixels: bool = False
    """Whether shifts are rounded to pixels, so that images that are only shifted stay sharp."""

    @property
    def numbers(self) -> int:
        """Random numbers for each image."""
        return NUMBERS + self.flip


def distort(images: Tensor, augmentation: Augmentation, numbers: Tensor) -> Tensor:
    """Distorts each image in its own way.

    Args:
        images: [N, C, H, W] of any type.
        augmentation: the largest distortions.
        numbers: uniform on (−1, 1), [N, 6], or [N, 7] with flips.

    Returns:
        float32 images of the same shape and range.
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
