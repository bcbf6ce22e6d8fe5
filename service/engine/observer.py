"""Observers, to which an engine reports its work: metrics, traces, or none."""

import logging
import time
from collections.abc import Sequence
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from typing import Any

from models.model import Model
from models.predictions.detection import Calibration
from models.predictions.prediction import Part

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RequestOrigin:
    """The origin of a request."""

    context: Context = field(default_factory=copy_context)
    """Context of the caller."""
    time: float = field(default_factory=time.perf_counter)
    """Time of the request, in seconds of `time.perf_counter`, like all times here."""


class Observer:
    """Receives reports of an engine's work, in the engine's thread, so it must be quick. This one ignores them.

    An evaluation ends with its results on the CPU, after all earlier work of the device. On CUDA, the end of a draw is
    different: its kernels may still run then, and the next evaluation waits for them.
    """

    def begin(self, model: str, origins: Sequence[RequestOrigin]) -> None:
        """Called when waiting requests form a batch."""

    def extract(self, model: str, start: float, origins: Sequence[RequestOrigin]) -> None:
        """Called after a backbone has seen some inputs of a request, from `start` until now."""

    def draw(self, model: str, networks: int, start: float, origins: Sequence[RequestOrigin] = ()) -> None:
        """Called when networks were drawn from `start` until now, for requests or ahead of them."""

    def evaluate(self, model: str, cost: int, start: float, origins: Sequence[RequestOrigin]) -> None:
        """Called after a step for requests, from `start` until now. The cost is in inputs × networks."""

    def measure(self, model: Model, part: Part, seed: int) -> None:
        """Called once for all inputs of a batch, before any is answered: with their prediction by as many networks of a
        seed as all of them are asked of, also where ensembles grow."""

    def answer(self, model: Model, part: Part, calibration: Calibration | None) -> None:
        """Called before inputs are answered, with their prediction and what it is judged by."""

    def hand_over(self, model: str, elements: int, last: float | None, origin: RequestOrigin) -> None:
        """Called when a consumer gets elements of a sequence, now and `last` before that, if not for the first time."""

    def finish(self, model: str, origin: RequestOrigin) -> None:
        """Called when a sequence has ended and its consumer has got all of it."""

    def refuse(self, model: str) -> None:
        """Called when a request was refused because the queue was full."""


class GuardedObserver(Observer):
    """Passes reports on to other observers. Their exceptions affect no answer, and no other observer; the first one of
    each method of each observer is logged."""

    def __init__(self, *observers: Observer) -> None:
        self._observers = observers
        self._failed: set[tuple[Observer, str]] = set()
        """Observers' methods that have raised an exception."""

    def begin(self, model: str, origins: Sequence[RequestOrigin]) -> None:
        self._tell("begin", model, origins)

    def extract(self, model: str, start: float, origins: Sequence[RequestOrigin]) -> None:
        self._tell("extract", model, start, origins)

    def draw(self, model: str, networks: int, start: float, origins: Sequence[RequestOrigin] = ()) -> None:
        self._tell("draw", model, networks, start, origins)

    def evaluate(self, model: str, cost: int, start: float, origins: Sequence[RequestOrigin]) -> None:
        self._tell("evaluate", model, cost, start, origins)

    def measure(self, model: Model, part: Part, seed: int) -> None:
        self._tell("measure", model, part, seed)

    def answer(self, model: Model, part: Part, calibration: Calibration | None) -> None:
        self._tell("answer", model, part, calibration)

    def hand_over(self, model: str, elements: int, last: float | None, origin: RequestOrigin) -> None:
        self._tell("hand_over", model, elements, last, origin)

    def finish(self, model: str, origin: RequestOrigin) -> None:
        self._tell("finish", model, origin)

    def refuse(self, model: str) -> None:
        self._tell("refuse", model)

    def _tell(self, method: str, *arguments: Any) -> None:
        for observer in self._observers:
            try:
                getattr(observer, method)(*arguments)
            except Exception:
                if (observer, method) not in self._failed:
                    self._failed.add((observer, method))
                    logger.exception("the observer's %s failed; its further failures are not logged", method)
