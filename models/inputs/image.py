"""Images as inputs.

Shapes: B inputs, S sampled networks, C channels, H rows, W columns.
"""

import math
from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor

from models.inputs.kind import InputKind, TensorSignature
from models.noise import uniform
from models.schema import STRICT, Deviations, Means, Shape, Size

JITTER = 0.2
"""Half the range of the noise used to measure fragility, in units of the pixels' range."""

JITTER_STREAM = 9


@dataclass(frozen=True, config=STRICT)
class ImageSpec(InputKind):
    """Images. Each channel has pixels in [0, 1], minus its `mean`, divided by its `std`."""

    channels: Literal[1, 3]
    height: Size
    width: Size
    mean: Means
    std: Deviations
    kind: Literal["image"] = "image"

    form: ClassVar[Literal["files"]] = "files"
    noun: ClassVar[str] = "images"
    dtype: ClassVar[torch.dtype] = torch.uint8
    perturbable: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not len(self.mean) == len(self.std) == self.channels:
            raise ValueError(f"mean and std must have one number for each of {self.channels} channels")

    @property
    def shape(self) -> Shape:
        return self.channels, self.height, self.width

    @property
    def signature(self) -> tuple[TensorSignature, ...]:
        return TensorSignature("images", "UINT8", self.shape), TensorSignature("encoded_images", "BYTES", ())

    def prepare(self, raw: Tensor) -> Tensor:
        """Normalises pixels from 0 to 255, [..., C, H, W], for the target: float32 of the same shape."""
        mean = torch.tensor(self.mean, device=raw.device).view(-1, 1, 1)
        std = torch.tensor(self.std, device=raw.device).view(-1, 1, 1)
        return (raw / 255 - mean) / std

    def draw_noise(self, seed: int, members: Sequence[int]) -> Tensor:
        """Noise of some members of a seed, in units of the pixels' range: [S, 1, C, H, W]."""
        return JITTER * uniform(seed, members, math.prod(self.shape), JITTER_STREAM).view(-1, 1, *self.shape)

    def jitter(self, raw: Tensor, noise: Tensor) -> Tensor:
        """Adds the noise of S networks to pixels [B, C, H, W], within their range: float32 [S, B, C, H, W]."""
        return (raw + 255 * noise).clamp(0, 255)
