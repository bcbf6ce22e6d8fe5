"""What an engine tells of its work to whoever wants to know: metrics, traces, or nobody."""

import time
from collections.abc import Sequence
from contextvars import Context, copy_context
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Origin:
    """Where a request comes from."""

    context: Context = field(default_factory=copy_context)
    """Of whoever asked."""
    time: float = field(default_factory=time.perf_counter)
    """When, in seconds of `time.perf_counter`, as all times here."""


class Observer:
    """Hears of an engine's work, in the engine's thread, so it must be quick and must not raise; this one ignores it.

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
