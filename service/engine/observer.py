"""What an engine tells of its work to whoever wants to know: metrics, traces, or nobody."""

import logging
import time
from collections.abc import Callable, Sequence
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from functools import partial

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Origin:
    """Where a request comes from."""

    context: Context = field(default_factory=copy_context)
    """Of whoever asked."""
    time: float = field(default_factory=time.perf_counter)
    """When, in seconds of `time.perf_counter`, as all times here."""


class Observer:
    """Hears of an engine's work, in the engine's thread, so it must be quick; this one ignores it.

    Evaluation ends with its results on the CPU, so its end is the end of all that the device was asked before. The end
    of a draw is not, on CUDA: kernels of it that still run then are waited for by the evaluation that follows.
    """

    def begin(self, model: str, origins: Sequence[Origin]) -> None:
        """Requests that waited until now form a batch."""

    def draw(self, model: str, networks: int, start: float, origins: Sequence[Origin] = ()) -> None:
        """Networks were drawn from `start` to now, for requests, or ahead of them."""

    def evaluate(self, model: str, cost: int, start: float, origins: Sequence[Origin]) -> None:
        """A step was done from `start` to now, of so many inputs × networks, for requests."""

    def refuse(self, model: str) -> None:
        """A request was refused, as too much waits."""


class GuardedObserver(Observer):
    """Tells another observer. What that raises costs nobody an answer; it is logged, once for each of the methods."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self._failed: set[str] = set()
        """Methods that have raised."""

    def begin(self, model: str, origins: Sequence[Origin]) -> None:
        self._tell("begin", partial(self._observer.begin, model, origins))

    def draw(self, model: str, networks: int, start: float, origins: Sequence[Origin] = ()) -> None:
        self._tell("draw", partial(self._observer.draw, model, networks, start, origins))

    def evaluate(self, model: str, cost: int, start: float, origins: Sequence[Origin]) -> None:
        self._tell("evaluate", partial(self._observer.evaluate, model, cost, start, origins))

    def refuse(self, model: str) -> None:
        self._tell("refuse", partial(self._observer.refuse, model))

    def _tell(self, method: str, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception:
            if method not in self._failed:
                self._failed.add(method)
                logger.exception("the observer's %s failed; further failures of it are not logged", method)
