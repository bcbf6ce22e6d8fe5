"""The thread that loads models, one after the other, beside the requests."""

import logging
import threading
import time
from collections.abc import Callable, Hashable
from concurrent.futures import CancelledError, Future
from typing import Any, TypeVar

from service.errors import CLOSING, ServiceError

logger = logging.getLogger(__name__)

MOST_PAUSE_SECONDS = 2.0
"""Longest pause between two loads."""

Result = TypeVar("Result")


class LoadQueue:
    """Loads what is wanted, one thing after the other, in a thread that exists only meanwhile. Thread-safe."""

    def __init__(self, is_broken: Callable[[], bool]) -> None:
        """Begins without anything to load.

        Args:
            is_broken: whether nothing can be loaded any more.
        """
        self._is_broken = is_broken
        self._lock = threading.Lock()
        self._wanted: dict[Hashable, tuple[Callable[[], Any], Future[Any]]] = {}
        """Loads that have not begun."""
        self._runs = False
        """Whether the thread runs."""
        self._start: float | None = None
        """Start of the current load, on the monotonic clock."""
        self._closed = False

    @property
    def seconds(self) -> float:
        """Seconds that the current load has run; 0 if there is none."""
        start = self._start
        return 0.0 if start is None else time.monotonic() - start

    def want(self, key: Hashable, load: Callable[[], Result]) -> Future[Result]:
        """Loads soon. The future cannot be cancelled.

        Who wants the same, by its key, shares a load that has not begun.
        """
        with self._lock:
            if key in self._wanted:
                return self._wanted[key][1]
            future: Future[Result] = Future()
            future.set_running_or_notify_cancel()  # it is shared, so nobody may cancel it
            if self._closed or self._is_broken():
                future.set_exception(_say_closing())
                return future
            if not self._runs:
                threading.Thread(target=self._work, name="loading", daemon=True).start()
                self._runs = True
            self._wanted[key] = load, future
            return future

    def close(self) -> None:
        """Starts no further loads. The current one ends with the engine."""
        with self._lock:
            self._closed = True
            futures = [future for _, future in self._wanted.values()]
            self._wanted.clear()
        for future in futures:
            future.set_exception(_say_closing())

    def _work(self) -> None:
        """Loads until nothing is wanted. The end of the process does not wait for it."""
        while True:
            with self._lock:
                if not self._wanted:
                    self._runs = False
                    return
                load, future = self._wanted.pop(next(iter(self._wanted)))
            self._start = time.monotonic()
            try:
                future.set_result(load())
            except CancelledError:  # by the engine, which has been closed
                future.set_exception(_say_closing())
            except Exception as error:
                future.set_exception(error)
            except BaseException as error:  # must not end any other thread
                logger.critical("loading models failed", exc_info=error)
                message = f"Loading was interrupted by {type(error).__name__}."
                future.set_exception(ServiceError(503, "reload_failed", message, "Try again later."))
            finally:
                seconds = time.monotonic() - self._start
                self._start = None
            time.sleep(min(seconds, MOST_PAUSE_SECONDS))  # so that requests have half of the time


def _say_closing() -> ServiceError:
    return ServiceError(503, **CLOSING.model_dump())
