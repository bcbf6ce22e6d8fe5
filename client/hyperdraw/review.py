"""What to label next: the logged inputs about which the networks disagree most.

This is active learning by mutual information (BALD: Houlsby, Huszár, Ghahramani & Lengyel, "Bayesian Active Learning
for Classification and Preference Learning", 2011).
"""

import heapq
import io
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from importlib.util import find_spec

import numpy as np
from numpy.typing import NDArray

from hyperdraw.logged import Log, LoggedPrediction

DISTANCE_SURPRISE = "distance_surprise"
"""Quantity that tells how far an input lies from the training examples: −ln of the share of usual inputs that lie as
far, in nats."""

FARTHEST = 0.05
"""Share of usual inputs that lie too far to count as usual."""

CANDIDATES = 20
"""Candidates for each chosen input, if near-duplicates are left out."""

_MOST_NAMES = 10_000
"""Most names of classes or quantities that are kept of a log."""

_Ranked = tuple[float, int, LoggedPrediction]
"""A score, the negative number of a record, so that the first of equals counts as larger, and the record."""


@dataclass(frozen=True)
class Filters:
    """Which records to consider; None is any."""

    model: str | None = None
    flag: str | None = None
    """A flag that must be raised."""
    label: str | None = None
    """The class that must have been predicted."""
    since: datetime | None = None
    usual: bool = False
    """Whether the input must lie as near to the training examples as most usual inputs do."""

    def accept(self, record: LoggedPrediction) -> bool:
        """Whether to consider a record."""
        raised = self.flag is None or (self.flag in record.flags and record.flags[self.flag].flagged)
        surprise = record.uncertainty.get(DISTANCE_SURPRISE, math.inf)
        return (
            raised
            and (not self.usual or surprise <= -math.log(FARTHEST))
            and self.model in (None, record.model)
            and self.label in (None, record.label)
            and (self.since is None or record.time >= self.since)
        )


@dataclass
class Review:
    """The records to review, the most uncertain first."""

    by: str
    """Quantity that ranks them."""
    records: Sequence[LoggedPrediction] = ()
    considered: int = 0
    """Number of records that passed the filters and have the quantity."""
    quantities: set[str] = field(default_factory=set)
    """What the records can be ranked by."""
    classes: dict[tuple[str, str], dict[int, str]] = field(default_factory=dict)
    """Labels by their class's number, of each model and version, as far as the log tells."""

    def name_classes(self, record: LoggedPrediction) -> Mapping[int, str]:
        """Known labels of a record's model, by their class's number."""
        return self.classes.get((record.model, record.version), {})


def review(log: Log, count: int, by: str, filters: Filters, apart: float | None = None) -> Review:
    """Chooses the records of a log with the largest value of a quantity.

    Args:
        log: the log. No more of it is in memory than `CANDIDATES` × `count` records.
        count: number of records to choose.
        by: name of a quantity, or of a flag whose score ranks.
        filters: which records to consider.
        apart: if given, an image that differs less than this from one chosen before is left out. The difference is the
            root mean square over pixels, as a share of their range.

    Raises:
        ValueError: if no record has the quantity or tells the distance, or images are to be compared without Pillow.
        OSError: if a file cannot be read.
    """
    if apart is not None and not find_spec("PIL"):
        raise ValueError("images can only be compared with Pillow: pip install pillow")
    found = Review(by)
    best: list[_Ranked] = []
    for record in log:
        _learn_names(found, record)
        value = record.measure(by)
        if value is None or not filters.accept(record):
            continue
        found.considered += 1
        entry = (value, -found.considered, record)
        if len(best) < count * (1 if apart is None else CANDIDATES):
            heapq.heappush(best, entry)
        else:
            heapq.heappushpop(best, entry)
    for quantity in [by, *[DISTANCE_SURPRISE] * filters.usual]:
        if quantity not in found.quantities and found.quantities:
            raise ValueError(f"no record has {quantity}; they have {', '.join(sorted(found.quantities))}")
    candidates = [record for _, _, record in sorted(best, reverse=True)]
    found.records = candidates if apart is None else leave_out_duplicates(candidates, count, apart)
    return found


def leave_out_duplicates(candidates: Iterable[LoggedPrediction], count: int, apart: float) -> list[LoggedPrediction]:
    """The first of the candidates, without those whose image is near to that of an earlier one."""
    chosen: list[LoggedPrediction] = []
    images: list[NDArray[np.uint8]] = []
    for record in candidates:
        if len(chosen) == count:
            break
        if record.image is not None and (pixels := decode_image(record.image)) is not None:
            if any(_measure_difference(pixels, other) < apart for other in images):
                continue
            images.append(pixels)
        chosen.append(record)
    return chosen


def decode_image(
    content: bytes, resize: Callable[[int, int], tuple[int, int]] | None = None
) -> NDArray[np.uint8] | None:
    """Pixels of an image, uint8 [H, W, 3], with Pillow. None if it is damaged.

    Args:
        content: the file.
        resize: gives the width and height to resize the image to, from its own.
    """
    from PIL import Image

    try:
        with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
            colours = image.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None
    return np.asarray(colours if resize is None else colours.resize(resize(*colours.size)))


def _measure_difference(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    if one.shape != other.shape:  # of different models
        return np.inf
    return float(np.sqrt(np.mean((one / 255 - other / 255) ** 2)))


def _learn_names(found: Review, record: LoggedPrediction) -> None:
    if len(found.quantities) < _MOST_NAMES:
        found.quantities |= record.uncertainty.keys() | record.flags.keys()
    if record.label is None or record.class_index is None:
        return
    if sum(map(len, found.classes.values())) < _MOST_NAMES:
        found.classes.setdefault((record.model, record.version), {})[record.class_index] = record.label
