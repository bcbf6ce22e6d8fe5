"""Which networks answer requests, and when they are drawn.

Shapes: S sampled networks.
"""

import logging
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal
from weakref import WeakSet

from models.model import Model
from models.predictions.prediction import Draw
from service.engine.jobs import Job
from service.engine.observer import Observer

logger = logging.getLogger(__name__)

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


def count_kept(model: Model) -> int:
    """Networks of an ensemble that are kept; what a larger one lacks is drawn when it is asked for, and dropped."""
    return min(model.default_size, max(1, AHEAD_WEIGHTS // model.target.num_weights))


def choose_seed() -> int:
    """A fresh seed."""
    return secrets.randbits(DRAWN_SEED_BITS)


@dataclass
class Ensemble:
    """The networks of a seed, drawn as they are needed."""

    model: Model
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
        networks = self.model.draw(self.seed, range(start, min(stop, start + self.model.networks_per_block)))
        if self.keeps and start == self.count < count_kept(self.model):
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
        """By the model's version."""
        self._intervals: dict[str, _Interval] = {}
        self._forgotten: WeakSet[Model] = WeakSet()

    def expect(self, model: Model) -> None:
        """Says that requests for a model are to come."""
        self._next.setdefault(model.version, Ensemble(model))

    def forget(self, model: Model) -> None:
        """Drops what was drawn of a model that is no longer served; requests that still wait get their own networks."""
        self._forgotten.add(model)
        self._next.pop(model.version, None)
        self._intervals.pop(model.version, None)

    def drop(self) -> None:
        """Frees what was drawn ahead."""
        for ensemble in self._next.values():
            ensemble.drop()

    def take(self, model: Model, inputs: int) -> Ensemble:
        """The ensemble that answers for some inputs, as the policy has it."""
        if model in self._forgotten:
            return Ensemble(model, keeps=False)
        if self.freshness.policy != "interval":
            return self._take_next(model)
        now, interval = self._clock(), self._intervals.get(model.version)
        if (
            interval is None
            or now - interval.since >= self.freshness.seconds
            or interval.predictions >= self.freshness.predictions
        ):
            interval = self._intervals[model.version] = _Interval(self._take_next(model), now)
        interval.predictions += inputs
        return interval.ensemble

    @property
    def lacks_networks(self) -> bool:
        """Whether networks can be drawn ahead."""
        return self._find_lacking() is not None

    def draw_ahead(self) -> None:
        """Draws a block of networks of an ensemble that is to come, if one lacks any."""
        if (ensemble := self._find_lacking()) is None:
            return
        start = time.perf_counter()
        drawn = len(ensemble.draw(ensemble.count, count_kept(ensemble.model)).members)
        self._observer.draw(ensemble.model.name, drawn, start)

    def _find_lacking(self) -> Ensemble | None:
        lacking = (e for e in self._next.values() if e.keeps and e.count < count_kept(e.model))
        return next(lacking, None)

    def _take_next(self, model: Model) -> Ensemble:
        ensemble = self._next.pop(model.version, None) or Ensemble(model)
        self.expect(model)
        return ensemble


class DrawAhead(Job):
    """Draws the networks of ensembles that are to come."""

    def __init__(self, ensembles: Ensembles) -> None:
        self._ensembles = ensembles

    @property
    def finished(self) -> bool:
        return not self._ensembles.lacks_networks

    def step(self, budget: int) -> int:
        self._ensembles.draw_ahead()
        return 0

    def fail(self, error: Exception) -> None:
        logger.error("networks could not be drawn ahead", exc_info=error)
        self._ensembles.drop()
