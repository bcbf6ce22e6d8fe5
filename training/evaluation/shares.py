"""Shares of images that were measured, and where those of all such images lie."""

import math

from pydantic.dataclasses import dataclass

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


def measure_share(share: float, count: int) -> Share:
    """Wilson's score interval (1927) of a share of `count` images; with few, and near 0 or 1, it is still right."""
    z = NORMAL_QUANTILE
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    reach = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count)) / (1 + z * z / count)
    return Share(share, max(0.0, middle - reach), min(1.0, middle + reach), count)
