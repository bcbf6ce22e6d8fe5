"""What a target network's input is, and how it is normalised.

Shapes: B inputs.
"""

from typing import Annotated, Literal

import torch
from pydantic import FailFast, Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from models.targets.layers import STRICT, Shape, Size

Means = Annotated[tuple[Annotated[float, Field(allow_inf_nan=False)], ...], FailFast()]
Deviations = Annotated[tuple[Annotated[float, Field(gt=0, allow_inf_nan=False)], ...], FailFast()]


@dataclass(frozen=True, config=STRICT)
class ImageSpec:
    """Images: pixels in [0, 1], minus `mean`, divided by `std`, channel by channel."""

    channels: Literal[1, 3]
    height: Size
    width: Size
    mean: Means
    std: Deviations
    kind: Literal["image"] = "image"

    def __post_init__(self) -> None:
        if not len(self.mean) == len(self.std) == self.channels:
            raise ValueError(f"mean and std must have one number for each of {self.channels} channels")

    @property
    def shape(self) -> Shape:
        return self.channels, self.height, self.width

    @property
    def dtype(self) -> torch.dtype:
        return torch.uint8

    def add_noise(self, pixels: Tensor, noise: Tensor) -> Tensor:
        """Pixels, which stay within their range, plus noise in units of it: float32 of the shape of both together."""
        return (pixels + 255 * noise).clamp(0, 255)

    def normalize(self, pixels: Tensor) -> Tensor:
        """Pixels from 0 to 255, [..., C, H, W] → float32 of the same shape, as the target expects it."""
        mean = torch.tensor(self.mean, device=pixels.device).view(-1, 1, 1)
        std = torch.tensor(self.std, device=pixels.device).view(-1, 1, 1)
        return (pixels / 255 - mean) / std


@dataclass(frozen=True, config=STRICT)
class VectorSpec:
    """Vectors of named numbers: each minus its `mean`, divided by its `std`."""

    names: Annotated[tuple[str, ...], Field(min_length=1), FailFast()]
    mean: Means
    std: Deviations
    kind: Literal["vector"] = "vector"

    def __post_init__(self) -> None:
        if not len(self.mean) == len(self.std) == len(self.names):
            raise ValueError(f"mean and std must have one number for each of {len(self.names)} names")

    @property
    def shape(self) -> Shape:
        return (len(self.names),)

    @property
    def dtype(self) -> torch.dtype:
        return torch.float32

    def normalize(self, vectors: Tensor) -> Tensor:
        """float32 [..., numbers] → the same shape, as the target expects it."""
        mean, std = (torch.tensor(values, device=vectors.device) for values in (self.mean, self.std))
        return (vectors - mean) / std


InputSpec = Annotated[ImageSpec | VectorSpec, Field(discriminator="kind")]
