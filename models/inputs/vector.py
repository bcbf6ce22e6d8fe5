"""Vectors of named numbers as inputs.

Shapes: B inputs.
"""

import sys
from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import FailFast, Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from models.inputs.kind import Cell, InputError, InputKind, Row, TensorSignature
from models.inputs.rows import arrange_rows, show
from models.schema import STRICT, Deviations, Means, Shape

MAX_NUMBER = sys.float_info.max

MAX_DEVIATIONS = 1e6
"""Largest distance of a number from its training mean, in standard deviations. Far beyond, float32 overflows."""


@dataclass(frozen=True, config=STRICT)
class VectorSpec(InputKind):
    """Vectors of named numbers. Each number has its `mean` subtracted, and is divided by its `std`."""

    names: Annotated[tuple[str, ...], Field(min_length=1), FailFast()]
    mean: Means
    std: Deviations
    kind: Literal["vector"] = "vector"

    form: ClassVar[Literal["rows"]] = "rows"
    noun: ClassVar[str] = "vectors"
    dtype: ClassVar[torch.dtype] = torch.float32

    def __post_init__(self) -> None:
        if not len(self.mean) == len(self.std) == len(self.names):
            raise ValueError(f"mean and std must have one number for each of {len(self.names)} names")

    @property
    def shape(self) -> Shape:
        return (len(self.names),)

    @property
    def column_names(self) -> tuple[str, ...]:
        return self.names

    @property
    def signature(self) -> tuple[TensorSignature, ...]:
        return (TensorSignature("inputs", "FP32", self.shape),)

    def read_rows(self, rows: Sequence[Row]) -> Tensor:
        """float32 [B, numbers] from rows of numbers, in order or by name.

        Raises:
            InputError: if a name is missing or unknown, or a value is not a number, or is too far from its mean.
        """
        arranged = arrange_rows(rows, self.names)
        for number, row in enumerate(arranged):
            for name, value in zip(self.names, row, strict=True):
                if not isinstance(value, int | float) or isinstance(value, bool) or not abs(value) <= MAX_NUMBER:
                    raise InputError(f"{name} in row {number} is {show(value)}.", "It must be a finite number.")
        return self.decode(torch.tensor(arranged, dtype=torch.float64))

    def write_rows(self, raw: Tensor) -> list[Mapping[str, Cell]]:
        """Numbers by name, from vectors [B, numbers]."""
        return [dict(zip(self.names, row, strict=True)) for row in raw.tolist()]

    def decode(self, values: Tensor) -> Tensor:
        """float32 [B, numbers] from finite numbers in double precision.

        Raises:
            InputError: if a number is more than `MAX_DEVIATIONS` standard deviations from its training mean.
        """
        if (deviations := self.prepare(values).abs()).max() > MAX_DEVIATIONS:
            row, number = divmod(int(deviations.argmax()), len(self.names))
            raise InputError(
                f"{self.names[number]} in row {row} is {values[row, number]:g}, "
                "more than 10⁶ standard deviations from the training mean.",
                f"Keep it within {self.mean[number]:g} ± {MAX_DEVIATIONS * self.std[number]:g}.",
            )
        return values.float()

    def prepare(self, raw: Tensor) -> Tensor:
        """Normalises numbers [..., numbers] for the target: same shape and precision."""
        mean, std = (torch.tensor(values, device=raw.device) for values in (self.mean, self.std))
        return (raw - mean) / std
