"""Columns of a table: how a value becomes a number, and the number becomes what the target takes.

Shapes: D features of a column.
"""

import math
from abc import ABC, abstractmethod
from datetime import UTC, datetime
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import FailFast, Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from models.inputs.kind import Cell, InputError
from models.inputs.rows import list_names, show
from models.schema import STRICT, Finite

LINEAR_DEVIATIONS = 3.0
"""Distance from the mean, in standard deviations, from which on numbers are scaled logarithmically."""

MISSING_TEXTS = frozenset({"", "NA", "N/A", "NaN", "nan", "null", "NULL", "?"})
"""Texts that stand for a missing value, in files and in requests."""

OTHERS = "others"
"""What all rare categories together are called."""

DAY_SECONDS = 86_400.0
YEAR_DAYS, WEEK_DAYS = 365.2425, 7.0

Deviation = Annotated[float, Field(gt=0, allow_inf_nan=False)]


@dataclass(frozen=True, config=STRICT)
class ColumnKind(ABC):
    """A column. Its values become float64, with NaN for a missing one, and then features of the target's input."""

    name: Annotated[str, Field(min_length=1)]
    missing: bool
    """Whether values may be missing, as some were in training. Then one more feature says which are."""

    noun: ClassVar[str]
    """What a value must be, in messages."""

    @property
    @abstractmethod
    def num_features(self) -> int:
        """D."""

    @property
    def coding(self) -> tuple[object, ...]:
        """Which values there may be, and which number stands for each."""
        return type(self), self.missing

    @abstractmethod
    def parse(self, value: float | str | bool) -> float:
        """The number that stands for a value.

        Raises:
            ValueError: if it is not a value of this column.
        """

    @abstractmethod
    def name_number(self, number: float) -> float | str:
        """The value that a number stands for, as clients write it."""

    @abstractmethod
    def prepare(self, values: Tensor) -> Tensor:
        """Features [..., D] of numbers [...], of which none is NaN unless `missing`."""

    def describe(self) -> str:
        """What is right for this column, as a hint."""
        return f"It must be {self.noun}."

    def read(self, value: Cell, row: int) -> float:
        """The number that stands for a value of a client's row.

        Raises:
            InputError: if it is not a value of this column, or is missing without being allowed to.
        """
        if value is None or (isinstance(value, str) and value.strip() in MISSING_TEXTS):
            if self.missing:
                return math.nan
            message = f"Row {row} has no value for {self.name}, which no row lacked in training."
            raise InputError(message, self.describe())
        try:
            return self.parse(value)
        except (TypeError, ValueError, OverflowError) as error:  # TypeError: JSON may hold lists and objects
            raise InputError(f"{self.name} in row {row} is {show(value)}.", self.describe()) from error

    def _mark_missing(self, features: Tensor, absent: Tensor) -> Tensor:
        """Zeroes the features [..., D] of missing values and, if there may be any, appends which they are."""
        if not self.missing:
            return features
        return torch.cat([features.masked_fill(absent[..., None], 0), absent[..., None].to(features.dtype)], -1)


@dataclass(frozen=True, config=STRICT)
class ScaledColumn(ColumnKind):
    """A column whose numbers have a scale: minus the mean, divided by the standard deviation, and logarithmic far from
    the mean."""

    mean: Finite
    std: Deviation
    least: Finite
    greatest: Finite
    """Range in training."""

    def _scale(self, values: Tensor) -> Tensor:
        return compress((values - self.mean) / self.std)


@dataclass(frozen=True, config=STRICT)
class NumberColumn(ScaledColumn):
    """Numbers."""

    kind: Literal["number"] = "number"

    noun: ClassVar[str] = "a number"

    @property
    def num_features(self) -> int:
        return 1 + self.missing

    def parse(self, value: float | str | bool) -> float:
        number = float(value)
        if isinstance(value, bool) or not math.isfinite(number) or "_" in str(value):  # which Python allows in 1_000
            raise ValueError("not a finite number")
        return number

    def name_number(self, number: float) -> float:
        return number

    def prepare(self, values: Tensor) -> Tensor:
        return self._mark_missing(self._scale(values)[..., None], values.isnan())

    def describe(self) -> str:
        return f"It must be a number; in training it was between {self.least:g} and {self.greatest:g}."


@dataclass(frozen=True, config=STRICT)
class CategoryColumn(ColumnKind):
    """Categories, each with a feature that is 1 or 0. The number of a category is its index."""

    categories: Annotated[tuple[str, ...], Field(min_length=1), FailFast()]
    others: bool
    """Whether all other values count as one more category, that of rare ones."""
    kind: Literal["category"] = "category"

    noun: ClassVar[str] = "a category"

    @property
    def num_features(self) -> int:
        return len(self.categories) + self.others + self.missing

    @property
    def coding(self) -> tuple[object, ...]:
        return *super().coding, self.categories, self.others

    def parse(self, value: float | str | bool) -> float:
        text = write_category(value)
        if text in self.categories:
            return float(self.categories.index(text))
        if self.others:
            return float(len(self.categories))
        raise ValueError("unknown category")

    def name_number(self, number: float) -> str:
        return self.categories[int(number)] if number < len(self.categories) else OTHERS

    def prepare(self, values: Tensor) -> Tensor:
        absent = values.isnan()
        count = len(self.categories) + self.others
        chosen = values.masked_fill(absent, 0).long()
        features = torch.nn.functional.one_hot(chosen.clamp(0, count - 1), count).to(values.dtype)
        return self._mark_missing(features, absent)

    def describe(self) -> str:
        return f"It must be one of {list_names(self.categories)}."


@dataclass(frozen=True, config=STRICT)
class DateColumn(ScaledColumn):
    """Dates and times, as days since 1970 in UTC.

    Features are the time itself, like a number, and sine and cosine of the times of year and week and, if there are
    times of day, of day.
    """

    times: bool
    """Whether there are times of day."""
    kind: Literal["date"] = "date"

    noun: ClassVar[str] = "a date"

    @property
    def num_features(self) -> int:
        return 1 + 2 * len(self._periods) + self.missing

    @property
    def _periods(self) -> tuple[float, ...]:
        """In days."""
        return (YEAR_DAYS, WEEK_DAYS, 1.0) if self.times else (YEAR_DAYS, WEEK_DAYS)

    def parse(self, value: float | str | bool) -> float:
        if not isinstance(value, str):
            raise ValueError("not a text")
        return count_days(datetime.fromisoformat(value.strip()))

    def name_number(self, number: float) -> str:
        time = datetime.fromtimestamp(round(DAY_SECONDS * number), UTC)
        return time.strftime("%Y-%m-%dT%H:%M:%SZ" if self.times else "%Y-%m-%d")

    def prepare(self, values: Tensor) -> Tensor:
        features = [self._scale(values)]
        for period in self._periods:
            angle = 2 * math.pi * (values % period) / period
            features += [angle.sin(), angle.cos()]
        return self._mark_missing(torch.stack(features, -1), values.isnan())

    def describe(self) -> str:
        least, greatest = (datetime.fromtimestamp(DAY_SECONDS * days, UTC) for days in (self.least, self.greatest))
        return (
            f"It must be a date such as {greatest:%Y-%m-%d}{'T%H:%M' if self.times else ''} (ISO 8601); in training it "
            f"was between {least:%Y-%m-%d} and {greatest:%Y-%m-%d}."
        )


Column = Annotated[NumberColumn | CategoryColumn | DateColumn, Field(discriminator="kind")]


def compress(deviations: Tensor) -> Tensor:
    """Leaves numbers within ±3 as they are, and takes logarithms beyond, so that no number is too large for a network.

    z ↦ sign(z) (3 + ln(|z| − 2)) for |z| > 3, which goes on with the same slope.
    """
    beyond = deviations.abs()
    far = deviations.sign() * (LINEAR_DEVIATIONS + (beyond.clamp(min=LINEAR_DEVIATIONS) - LINEAR_DEVIATIONS).log1p())
    return torch.where(beyond > LINEAR_DEVIATIONS, far, deviations)


def write_category(value: float | str | bool) -> str:
    """A category as text: booleans as JSON writes them, and whole numbers without a point."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def count_days(time: datetime) -> float:
    """Days since 1970 in UTC, which is assumed if a time has no zone."""
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp() / DAY_SECONDS
