"""The log of predictions: a bounded queue before a sink that may be slow, full or gone."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import ClassVar, Literal, NamedTuple, Protocol

from service.recording.record import Record

QUEUE_BYTES = 2**26
"""Most bytes of answers and inputs that wait to be written."""

FLUSH_SECONDS = 5.0
"""Longest wait for records to be written at the end."""

Outcome = Literal["written", "dropped", "failed"]
"""What became of a record: it was dropped if too many waited, and failed if the sink did not take it."""

logger = logging.getLogger(__name__)


class Sink(Protocol):
    """Where records go."""

    writers: ClassVar[int]
    """Number of threads that may write at a time."""

    def write(self, records: Sequence[Record]) -> None:
        """Writes the records of a request, or raises an exception that says why they are lost."""

    def close(self) -> None:
        """Releases files and connections. Called once nothing is written any more."""


class _Entry(NamedTuple):
    """The records of a request, before they are made."""

    make: Callable[[], Sequence[Record]]
    number: int
    nbytes: int


class PredictionLog:
    """Writes records in threads of its own, so that no request waits for a disk or a network.

    What does not fit into the queue is dropped. What the sink does not take is lost. Both are counted, and affect no
    answer.
    """

    def __init__(self, sink: Sink, count: Callable[[Outcome, int], None], most_bytes: int = QUEUE_BYTES) -> None:
        """Starts to write.

        Args:
            sink: where records go.
            count: told what became of how many records, in any thread.
            most_bytes: most bytes that may wait.
        """
        self._sink = sink
        self._count = count
        self._most_bytes = most_bytes
        self._waiting: deque[_Entry] = deque()
        self._bytes = 0
        """Bytes of all entries that wait or are being written."""
        self._changed = threading.Condition()
        self._closing = False
        self._failing = False
        """Whether the last write failed."""
        self._threads = [
            threading.Thread(target=self._run, name=f"prediction log {number}", daemon=True)
            for number in range(sink.writers)
        ]
        for thread in self._threads:
            thread.start()

    def add(self, make: Callable[[], Sequence[Record]], count: int, nbytes: int) -> None:
        """Queues the records of a request, or drops them. Returns at once.

        Args:
            make: makes the records, in a thread of the log.
            count: number of records.
            nbytes: bytes that `make` holds.
        """
        with self._changed:
            fits = not self._closing and self._bytes + nbytes <= self._most_bytes
            if fits:
                self._waiting.append(_Entry(make, count, nbytes))
                self._bytes += nbytes
                self._changed.notify()
        if not fits:
            self._count("dropped", count)

    def close(self, seconds: float = FLUSH_SECONDS) -> None:
        """Writes what waits, if that does not take longer than some seconds, and drops the rest."""
        deadline = time.monotonic() + seconds
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        with self._changed:
            left = sum(entry.number for entry in self._waiting)
            self._waiting.clear()
        if left:
            self._count("dropped", left)
            logger.warning("%d records of predictions could not be written in time", left)
        if not any(thread.is_alive() for thread in self._threads):
            self._sink.close()

    def _run(self) -> None:
        while (entry := self._take()) is not None:
            try:
                self._sink.write(entry.make())
            except Exception as error:
                self._finish(entry, "failed", error)
            else:
                self._finish(entry, "written")

    def _take(self) -> _Entry | None:
        """The next entry, once there is one; None after the last."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closing)
            return self._waiting.popleft() if self._waiting else None

    def _finish(self, entry: _Entry, outcome: Outcome, error: Exception | None = None) -> None:
        with self._changed:
            self._bytes -= entry.nbytes
            turned = self._failing != (error is not None)
            self._failing = error is not None
        self._count(outcome, entry.number)
        if turned and error:
            logger.error("predictions cannot be logged: %s; further failures are only counted", error)
        elif turned:
            logger.info("predictions are logged again")
