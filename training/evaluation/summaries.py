"""Numbers that sum up many: shares with their intervals, means with their deviations."""

import math
from collections.abc import Sequence

from pydantic.dataclasses import dataclass
from torch import Tensor

NORMAL_QUANTILE = 1.959964
"""Of 97.5 %."""

FEW = 100
"""Images, below which a share says little without its interval."""


@dataclass(frozen=True)
class Share:
    """A share of some images, and where the share of all such images lies, with a confidence of 95 %."""

    share: float
    low: float
    high: float
    images: int
    """That it was measured on."""


def estimate_share(share: float, count: int) -> Share:
    """Wilson's score interval (1927) of a share of `count` images; with few, and near 0 or 1, it is still right."""
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
    """Of values [n]; a single one has no deviation."""
    return Spread(float(values.mean()), float(values.std(correction=min(1, len(values) - 1))))


def measure_share(flags: Tensor) -> float:
    """The share of inputs for which something holds."""
    return float(flags.double().mean())


def average(values: Sequence[Tensor] | Sequence[float]) -> float:
    """The mean of some numbers."""
    return sum(map(float, values)) / len(values)
