"""What is known of a model's stream, as it is kept in a file and shown."""

import math
from typing import Annotated

from pydantic import FailFast, Field
from pydantic.dataclasses import dataclass

from models.predictions.detection import Calibration
from models.predictions.drift import MOST_CAPITAL, count_strategies
from models.schema import STRICT, Finite
from models.tasks.kind import Flag

MOST_BUCKETS = 48
"""Most buckets of a history. When there are more, each two become one."""

Count = Annotated[int, Field(ge=0)]
Counts = Annotated[list[Count], FailFast()]


@dataclass(config=STRICT)
class Bets:
    """Bets on the scores of ensembles of one size."""

    inputs: Count
    """Number of inputs that were bet on."""
    bag: Counts
    """Numbers of gaps between scores, in bins between thresholds: `models.predictions.drift.Bag`."""
    capital: Annotated[list[Annotated[float, Field(ge=0, le=MOST_CAPITAL)]], FailFast()]
    """Capital of each strategy."""


@dataclass(frozen=True, config=STRICT)
class Alarm:
    """When a flag's martingale reached the level of the alarm for the first time."""

    time: Finite
    """Seconds since 1970."""
    inputs: Count
    """Number of inputs until then."""


@dataclass(config=STRICT)
class FlagState:
    """The bets on one flag."""

    log10: Finite
    """Decimal logarithm of the martingale."""
    bets: dict[Count, Bets]
    """Bets by the size of the ensembles, in the order in which these were first asked."""
    alarm: Alarm | None = None


@dataclass(config=STRICT)
class Bucket:
    """Successive inputs."""

    inputs: Count
    end: Finite
    """Time of the last input, in seconds since 1970."""
    counts: dict[Flag, Counts]
    """Numbers of scores above all thresholds, between each two, and above none, [M + 1]."""
    highest: dict[Flag, Finite]
    """Decimal logarithm of the highest value that the martingale had."""

    def copy(self) -> "Bucket":
        """A bucket that stays as it is."""
        return Bucket(self.inputs, self.end, dict(self.counts), dict(self.highest))

    def join(self, other: "Bucket") -> "Bucket":
        """This bucket and the one after it."""
        counts = {flag: _add(own, other.counts[flag]) for flag, own in self.counts.items()}
        highest = {flag: max(own, other.highest[flag]) for flag, own in self.highest.items()}
        return Bucket(self.inputs + other.inputs, other.end, counts, highest)


@dataclass(config=STRICT)
class WatchState:
    """All that is known of a model's stream since its watch began."""

    version: str
    """Version of the model, which stands for its calibration, too."""
    since: Finite
    """Seconds since 1970."""
    inputs: Count
    classes: Counts
    """How often each class was the most probable one, [K]; empty for numbers."""
    flags: dict[Flag, FlagState]
    history: Annotated[list[Bucket], Field(max_length=MOST_BUCKETS)]
    bucket_inputs: Annotated[int, Field(ge=1)]
    """Number of inputs that make a bucket full."""

    def check(self, version: str, calibration: Calibration | None, classes: int) -> None:
        """Checks that the state belongs to a model.

        Args:
            version: the model's version.
            calibration: its calibration.
            classes: its number of classes; 0 for numbers.

        Raises:
            ValueError: if it does not.
        """
        if self.version != version:
            raise ValueError(f"it is about version {self.version[:12]}, not {version[:12]}")
        rates, flags = (calibration.rates, set(calibration.flags)) if calibration else ((), set())
        sizes = {size.ensemble_size for size in calibration.sizes} if calibration else set()
        bins, strategies = len(rates) + 1, count_strategies(rates)
        bets = [(size, own) for flag in self.flags.values() for size, own in flag.bets.items()]
        named = [own for bucket in self.history for own in (bucket.counts, bucket.highest)]
        fits = (
            len(self.classes) == classes
            and self.flags.keys() == flags
            and all(own.keys() == flags for own in named)
            and all(len(counts) == bins for bucket in self.history for counts in bucket.counts.values())
            and all(size in sizes and len(own.bag) == bins for size, own in bets)
            and all(len(own.capital) == strategies for _, own in bets)
        )
        if not fits:
            raise ValueError("it does not fit the model's calibration, or comes from another version of the service")


def measure_share(count: int, inputs: int) -> tuple[float, float, float]:
    """A share, and its 95 % interval by Wilson's score ("Probable Inference", 1927): from 0 to 1 without any input."""
    if not inputs:
        return 0.0, 0.0, 1.0
    z, share = 1.96, count / inputs
    middle = (share + z * z / (2 * inputs)) / (1 + z * z / inputs)
    reach = z / (1 + z * z / inputs) * math.sqrt(share * (1 - share) / inputs + z * z / (4 * inputs * inputs))
    return share, max(0.0, min(share, middle - reach)), min(1.0, max(share, middle + reach))


def _add(some: Counts, others: Counts) -> Counts:
    return [one + other for one, other in zip(some, others, strict=True)]
