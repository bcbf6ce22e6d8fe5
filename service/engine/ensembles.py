"""Ensembles: which networks answer requests, and when they are drawn.

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
"""Bits of a drawn seed. A double holds it exactly, so it survives clients such as JavaScript."""

AHEAD_WEIGHTS = 2**26
"""Most weights of an ensemble that are kept: 256 MB."""

Policy = Literal["request", "batch", "interval"]
"""When requests get fresh networks: each request, each batch of requests, or each interval."""


@dataclass(frozen=True)
class Freshness:
    """How long networks answer requests without a seed. Under every policy, each answer names its seed."""

    policy: Policy = "batch"
    seconds: float = 60.0
    """Length of an interval."""
    predictions: int = 10_000
    """Inputs after which an interval ends early."""


def count_kept(model: Model) -> int:
    """Number of an ensemble's networks that are kept. Further ones are drawn when needed, and dropped."""
    return min(model.default_size, max(1, AHEAD_WEIGHTS // model.target.num_weights))


def choose_seed() -> int:
    """Draws a fresh seed."""
    return secrets.randbits(DRAWN_SEED_BITS)


@dataclass
class Ensemble:
    """The networks of a seed, drawn as they are needed."""

    model: Model
    seed: int = field(default_factory=choose_seed)
    keeps: bool = True
    """Whether networks are kept for later use."""
    kept: list[Draw] = field(default_factory=list)
    """The first members, in order."""

    @property
    def count(self) -> int:
        """Number of networks that are kept."""
        return self.kept[-1].members.stop if self.kept else 0

    def draw(self, start: int, stop: int) -> Draw:
        """Some or all members from `start` to `stop`. `start` is 0, or the end of an earlier draw."""
        for networks in self.kept:
            if start in networks.members:
                return networks[start - networks.members.start : stop - networks.members.start]
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
        """Next ensembles, by the model's version."""
        self._intervals: dict[str, _Interval] = {}
        self._forgotten: WeakSet[Model] = WeakSet()

    def expect(self, model: Model) -> None:
        """Prepares for requests for a model."""
        self._next.setdefault(model.version, Ensemble(model))

    def forget(self, model: Model) -> None:
        """Drops the networks of a model that is no longer served. Requests that still wait get their own networks."""
        self._forgotten.add(model)
        self._next.pop(model.version, None)
        self._intervals.pop(model.version, None)

    def drop(self) -> None:
        """Frees the networks drawn ahead."""
        for ensemble in self._next.values():
            ensemble.drop()

    def take(self, model: Model, inputs: int) -> Ensemble:
        """The ensemble that answers for a number of inputs, by the policy."""
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
        """Whether there are networks to draw ahead."""
        return self._find_lacking() is not None

    def draw_ahead(self) -> None:
        """Draws a block of networks for a future ensemble, if one lacks any."""
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
    """A job that draws the networks of future ensembles."""

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
