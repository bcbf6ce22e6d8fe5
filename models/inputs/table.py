"""Rows of a table as inputs: numbers, categories and dates, some of which may be missing.

Shapes: B rows, C columns, D features.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import FailFast, Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from models.inputs.columns import Column, NumberColumn
from models.inputs.kind import Cell, InputKind, Row, TensorSignature
from models.inputs.rows import arrange_rows
from models.schema import STRICT, Shape


@dataclass(frozen=True, config=STRICT)
class TableSpec(InputKind):
    """Rows of a table. Each column is prepared in its own way, as the training's rows showed it.

    Raw rows are float64: numbers, indices of categories, days since 1970, and NaN for missing values.
    """

    columns: Annotated[tuple[Column, ...], Field(min_length=1), FailFast()]
    kind: Literal["table"] = "table"

    form: ClassVar[Literal["rows"]] = "rows"
    noun: ClassVar[str] = "rows"
    dtype: ClassVar[torch.dtype] = torch.float64

    def __post_init__(self) -> None:
        if len(set(self.column_names)) < len(self.column_names):
            raise ValueError("two columns have the same name")

    @property
    def column_names(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.columns)

    @property
    def shape(self) -> Shape:
        return (len(self.columns),)

    @property
    def prepared_shape(self) -> Shape:
        return (sum(column.num_features for column in self.columns),)

    @property
    def coding(self) -> tuple[object, ...]:
        return super().coding, *(column.coding for column in self.columns)

    @property
    def signature(self) -> tuple[TensorSignature, ...]:
        cells = TensorSignature("cells", "BYTES", self.shape)
        numeric = all(isinstance(column, NumberColumn) for column in self.columns)
        return (cells, TensorSignature("inputs", "FP32", self.shape)) if numeric else (cells,)

    def read_rows(self, rows: Sequence[Row]) -> Tensor:
        """float64 [B, C] from rows of values, in order or by the columns' names.

        None and `MISSING_TEXTS` are missing values.

        Raises:
            InputError: if a column is missing or unknown, or a value is not one of its column.
        """
        return self.read_cells(arrange_rows(rows, self.column_names))

    def write_rows(self, raw: Tensor) -> list[Mapping[str, Cell]]:
        """Values by the columns' names, from rows [B, C]: rare categories by one name, and times to the second."""
        return [
            {
                column.name: None if math.isnan(number) else column.name_number(number)
                for column, number in zip(self.columns, row, strict=True)
            }
            for row in raw.tolist()
        ]

    def read_cells(self, rows: Sequence[Sequence[Cell]]) -> Tensor:
        """float64 [B, C] from rows of values in order.

        Raises:
            InputError: if a value is not one of its column.
        """
        return torch.tensor(
            [
                [column.read(value, number) for column, value in zip(self.columns, row, strict=True)]
                for number, row in enumerate(rows)
            ],
            dtype=torch.float64,
        )

    def prepare(self, raw: Tensor) -> Tensor:
        """Features of rows [..., C], float32 [..., D]."""
        values = raw.double().unbind(-1)
        return torch.cat([c.prepare(v) for c, v in zip(self.columns, values, strict=True)], -1).float()
