"""Observers, to which an engine reports its work: metrics, traces, or none."""

import logging
import time
from collections.abc import Callable, Sequence
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from functools import partial

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

    def answer(self, model: Model, part: Part, calibration: Calibration | None) -> None:
        """Called before inputs are answered, with their prediction and what it is judged by."""

    def hand_over(self, model: str, elements: int, last: float | None, origin: RequestOrigin) -> None:
        """Called when a consumer gets elements of a sequence, now and `last` before that, if not for the first time."""

    def finish(self, model: str, origin: RequestOrigin) -> None:
        """Called when a sequence has ended and its consumer has got all of it."""

    def refuse(self, model: str) -> None:
        """Called when a request was refused because the queue was full."""


class GuardedObserver(Observer):
    """Passes reports on to another observer. Its exceptions affect no answer; each method's first one is logged."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self._failed: set[str] = set()
        """Methods that have raised an exception."""

    def begin(self, model: str, origins: Sequence[RequestOrigin]) -> None:
        self._tell("begin", partial(self._observer.begin, model, origins))

    def extract(self, model: str, start: float, origins: Sequence[RequestOrigin]) -> None:
        self._tell("extract", partial(self._observer.extract, model, start, origins))

    def draw(self, model: str, networks: int, start: float, origins: Sequence[RequestOrigin] = ()) -> None:
        self._tell("draw", partial(self._observer.draw, model, networks, start, origins))

    def evaluate(self, model: str, cost: int, start: float, origins: Sequence[RequestOrigin]) -> None:
        self._tell("evaluate", partial(self._observer.evaluate, model, cost, start, origins))

    def answer(self, model: Model, part: Part, calibration: Calibration | None) -> None:
        self._tell("answer", partial(self._observer.answer, model, part, calibration))

    def hand_over(self, model: str, elements: int, last: float | None, origin: RequestOrigin) -> None:
        self._tell("hand_over", partial(self._observer.hand_over, model, elements, last, origin))

    def finish(self, model: str, origin: RequestOrigin) -> None:
        self._tell("finish", partial(self._observer.finish, model, origin))

    def refuse(self, model: str) -> None:
        self._tell("refuse", partial(self._observer.refuse, model))

    def _tell(self, method: str, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception:
            if method not in self._failed:
                self._failed.add(method)
                logger.exception("the observer's %s failed; its further failures are not logged", method)
