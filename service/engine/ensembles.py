"""Which networks answer requests, and when they are drawn.

Shapes: S sampled networks.
"""

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal
from weakref import WeakSet

from models.checkpoint import Checkpoint
from models.predictions.prediction import Draw, count_networks_per_block, draw
from service.engine.observer import Observer

DRAWN_SEED_BITS = 53
"""Seeds that are drawn here survive clients that keep numbers as doubles, as JavaScript does."""

AHEAD_WEIGHTS = 2**26
"""Weights of the networks that are kept, 256 MB, however many networks that is."""

Policy = Literal["request", "batch", "interval"]
"""Fresh networks for each request, or for the requests that run together, or for all of an interval."""


@dataclass(frozen=True)
class Freshness:
    """How long networks answer requests that name no seed; whatever the policy, each answer names its seed."""

    policy: Policy = "batch"
    seconds: float = 60.0
    """Length of an interval."""
    predictions: int = 10_000
    """Inputs after which an interval ends early."""


def count_kept(checkpoint: Checkpoint) -> int:
    """Networks of an ensemble that are kept; what a larger one lacks is drawn when it is asked for, and dropped."""
    return min(checkpoint.default_size, max(1, AHEAD_WEIGHTS // checkpoint.config.target.num_weights))


def choose_seed() -> int:
    """A fresh seed."""
    return secrets.randbits(DRAWN_SEED_BITS)


@dataclass
class Ensemble:
    """The networks of a seed, drawn as they are needed."""

    checkpoint: Checkpoint
    seed: int = field(default_factory=choose_seed)
    keeps: bool = True
    """Whether networks are kept, as they may be asked again."""
    kept: list[Draw] = field(default_factory=list)
    """The first members, in order."""

    @property
    def count(self) -> int:
        """Of the networks that are kept."""
        return self.kept[-1].members.stop if self.kept else 0

    def draw(self, start: int, stop: int) -> Draw:
        """Members from start on, some or all of those before stop; `start` is 0, or where another such draw ended."""
        for networks in self.kept:
            if start in networks.members:
                assert start == networks.members.start
                return networks.prefix(stop - start)
        config, sampler = self.checkpoint.config, self.checkpoint.sampler
        members = range(start, min(stop, start + count_networks_per_block(config.target)))
        networks = draw(sampler, config.input, config.task, self.seed, members)
        if self.keeps and start == self.count < count_kept(self.checkpoint):
            self.kept.append(networks)
        return networks

    def drop(self) -> None:
        """Frees the networks, and keeps none from now on."""
        self.kept.clear()
        self.keeps = False


@dataclass
class _Interval:
    """An ensemble that answers for a while."""

    ensemble: Ensemble
    since: float
    predictions: int = 0


class Ensembles:
    """Ensembles for requests without a seed. The next one is drawn while the device has nothing else to do."""

    def __init__(
        self,
        freshness: Freshness,
        observer: Observer | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.freshness = freshness
        self._observer = observer or Observer()
        self._clock = clock
        self._next: dict[str, Ensemble] = {}
        """By the checkpoint's version, those that lack networks first."""
        self._intervals: dict[str, _Interval] = {}
        self._forgotten: WeakSet[Checkpoint] = WeakSet()

    def expect(self, checkpoint: Checkpoint) -> None:
        """Says that requests for a checkpoint are to come."""
        self._next.setdefault(checkpoint.version, Ensemble(checkpoint))

    def forget(self, checkpoint: Checkpoint) -> None:
        """Drops what was drawn of a checkpoint that is to be served no more; requests that it has yet get their own."""
        self._forgotten.add(checkpoint)
        self._next.pop(checkpoint.version, None)
        self._intervals.pop(checkpoint.version, None)

    def drop(self) -> None:
        """Frees what was drawn ahead."""
        for ensemble in self._next.values():
            ensemble.drop()

    def take(self, checkpoint: Checkpoint, inputs: int) -> Ensemble:
        """The ensemble that answers for some inputs, as the policy has it."""
        if checkpoint in self._forgotten:
            return Ensemble(checkpoint, keeps=False)
        if self.freshness.policy != "interval":
            return self._take_next(checkpoint)
        now, interval = self._clock(), self._intervals.get(checkpoint.version)
        if (
            interval is None
            or now - interval.since >= self.freshness.seconds
            or interval.predictions >= self.freshness.predictions
        ):
            interval = self._intervals[checkpoint.version] = _Interval(self._take_next(checkpoint), now)
        interval.predictions += inputs
        return interval.ensemble

    def draw_ahead(self) -> bool:
        """Draws a block of networks of an ensemble that is to come; whether any were lacking."""
        for ensemble in self._next.values():
            first, wanted = ensemble.count, count_kept(ensemble.checkpoint)
            if ensemble.keeps and first < wanted:
                start = time.perf_counter()
                drawn = len(ensemble.draw(first, wanted).members)
                self._observer.draw(ensemble.checkpoint.name, drawn, start)
                return True
        return False

    def _take_next(self, checkpoint: Checkpoint) -> Ensemble:
        ensemble = self._next.pop(checkpoint.version, None) or Ensemble(checkpoint)
        self.expect(checkpoint)
        return ensemble
