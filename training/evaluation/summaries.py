"""Summaries of many numbers: shares with intervals, means with standard deviations."""

import math
from collections.abc import Sequence

from pydantic.dataclasses import dataclass
from torch import Tensor

NORMAL_QUANTILE = 1.959964
"""The 97.5 % quantile."""

FEW = 100
"""Number of images below which a share says little without its interval."""


@dataclass(frozen=True)
class Share:
    """A share of some images, and a 95 % interval for the share of all such images."""

    share: float
    low: float
    high: float
    images: int
    """Number of images that it was measured on."""


def estimate_share(share: float, count: int) -> Share:
    """Adds Wilson's score interval (1927), which also holds for few images and near 0 or 1, to a share of `count`."""
    z = NORMAL_QUANTILE
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    reach = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count)) / (1 + z * z / count)
    return Share(share, max(0.0, middle - reach), min(1.0, middle + reach), count)


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation."""

    mean: float
    std: float


def summarize(values: Tensor) -> Spread:
    """Mean and standard deviation of values [n]; a single value has the deviation 0."""
    return Spread(float(values.mean()), float(values.std(correction=min(1, len(values) - 1))))


def measure_share(flags: Tensor) -> float:
    """The share of inputs for which something holds."""
    return float(flags.double().mean())


def average(values: Sequence[Tensor] | Sequence[float]) -> float:
    """The mean of some numbers."""
    return sum(map(float, values)) / len(values)
