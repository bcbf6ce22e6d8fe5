"""How much the holder of a key may ask, per time and at once.

Windows slide: what was used in the window before counts by the part of it that a window's length reaches back to
(`limits.strategies.SlidingWindowCounterRateLimiter`). They are counted in memory, or in a server of Redis or Valkey
that several services share. While it cannot be reached, each service counts for itself.
"""

import logging
import math
import time
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, cast

from limits import RateLimitItem
from limits.aio.storage import MemoryStorage, RedisStorage, SlidingWindowCounterSupport
from limits.aio.strategies import SlidingWindowCounterRateLimiter
from limits.errors import StorageError

from service.catalog import ConfigurationError
from service.errors import ServiceError

if TYPE_CHECKING:
    from redis.asyncio import ConnectionPool

logger = logging.getLogger(__name__)

Quantity = Literal["requests", "networks", "concurrent"]
"""What is limited: requests, inputs × networks, and requests at the same time."""

STORE_SECONDS = 1.0
"""Seconds that a request waits for the server at most."""

RETRY_SECONDS = 5.0
"""Seconds from a failure of the server until it is asked again."""


class Quotas:
    """Counts what keys have used."""

    def __init__(self, store: str | None = None) -> None:
        """Prepares to count. The first use connects.

        Args:
            store: URL of a server, such as redis://host:6379; None to count in memory.

        Raises:
            ConfigurationError: if it is another URL, or its driver is not installed.
        """
        self.refused: Counter[tuple[str, Quantity]] = Counter()
        """Number of requests that were refused, by the key's name and what was limited."""
        self.fault: str | None = None
        """Reason why the server cannot be used, if so."""
        self._own = SlidingWindowCounterRateLimiter(MemoryStorage())
        self._pool = None if store is None else _connect(store)
        self._shared = None
        if self._pool:
            pool: Any = self._pool  # the storage's own type of it is too narrow
            storage = RedisStorage(
                "redis://", True, implementation="redispy", key_prefix="hyperdraw", connection_pool=pool
            )
            self._shared = SlidingWindowCounterRateLimiter(storage)
        self._retry = 0.0
        self._open: Counter[str] = Counter()

    async def take(self, key: str, quantity: Quantity, windows: Sequence[RateLimitItem], amount: int = 1) -> None:
        """Takes an amount from each window of a key.

        Raises:
            ServiceError: 429 if a window has not so much left, 422 if it never has.
        """
        for window in windows:
            if amount > window.amount:
                message = f"The request needs {amount:,} {_NOUNS[quantity]}; {_describe(key, quantity, window)}."
                hint = f"Ask for at most {window.amount:,} at once: {_LESS[quantity]}."
                raise ServiceError(422, "quota_too_small", message, hint)
            if not (seconds := await self._hit(window, quantity, key, amount)):
                continue
            self.refused[key, quantity] += 1
            left = "none is left" if amount == 1 else f"fewer than {amount:,} are left"
            message = f"{_describe(key, quantity, window)}, and {left}."
            message = message[0].upper() + message[1:]
            hint = f"Try again in {seconds} s."
            raise ServiceError(429, "quota_exceeded", message, hint, {"Retry-After": str(seconds)})

    def begin(self, key: str, most: int) -> None:
        """Counts a request of a key as open, until `end`.

        Raises:
            ServiceError: 429 if the key has as many as it may.
        """
        if self._open[key] >= most:
            self.refused[key, "concurrent"] += 1
            message = f"Key {key!r} may have {most} requests open at the same time."
            raise ServiceError(429, "too_many_concurrent", message, "Wait for one of them.", {"Retry-After": "1"})
        self._open[key] += 1

    def end(self, key: str) -> None:
        """Counts a request of a key as closed."""
        self._open[key] -= 1
        if not self._open[key]:
            del self._open[key]

    async def check(self) -> None:
        """Finds out whether the server can be used, if there is one."""
        if self._shared is not None and not await self._shared.storage.check():
            self._retry = time.monotonic() + RETRY_SECONDS
            self._note_fault("the store of quotas does not answer")

    async def close(self) -> None:
        """Closes all connections."""
        if self._pool:
            await self._pool.aclose()

    async def _hit(self, window: RateLimitItem, quantity: Quantity, key: str, amount: int) -> int:
        """Takes an amount; returns the seconds after which there may be so much, if there is not."""
        if self._shared is not None and time.monotonic() >= self._retry:
            try:
                seconds = await _hit(self._shared, window, quantity, key, amount)
            except StorageError as error:
                self._retry = time.monotonic() + RETRY_SECONDS
                self._note_fault(f"the store of quotas cannot be used: {error.storage_error}")
            else:
                self._note_fault(None)
                return seconds
        return await _hit(self._own, window, quantity, key, amount)

    def _note_fault(self, fault: str | None) -> None:
        """Logs a fault when it is new, and when it is over."""
        if fault is not None and self.fault is None:
            logger.error("%s; each service counts for itself", fault)
        if fault is None and self.fault is not None:
            logger.info("the store of quotas can be used again")
        self.fault = fault


def _describe(key: str, quantity: Quantity, window: RateLimitItem) -> str:
    """What a key may use in a window."""
    unit = window.GRANULARITY.name
    per = unit if window.multiples == 1 else f"{window.multiples} {unit}s"
    return f"key {key!r} may use {window.amount:,} {_NOUNS[quantity]} per {per}"


_LESS: dict[Quantity, str] = {
    "requests": "fewer requests",
    "networks": "fewer inputs, characters or points, or networks",
    "concurrent": "fewer requests",
}
_NOUNS: dict[Quantity, str] = {"requests": "requests", "networks": "inputs × networks", "concurrent": "requests"}


async def _hit(
    limiter: SlidingWindowCounterRateLimiter, window: RateLimitItem, quantity: Quantity, key: str, amount: int
) -> int:
    if await limiter.hit(window, quantity, key, cost=amount):
        return 0
    length = window.get_expiry()
    used = await cast(SlidingWindowCounterSupport, limiter.storage).get_sliding_window(
        window.key_for(quantity, key), length
    )
    return max(1, math.ceil(find_wait(*used, length, window.amount - amount)))


def find_wait(before: int, before_expires: float, used: int, expires: float, length: float, most: int) -> float:
    """Seconds until a sliding window counts at most so much, if nothing more is used.

    Args:
        before: what was used in the window before.
        before_expires: seconds until none of that counts.
        used: what was used in the current window.
        expires: seconds until none of that counts.
        length: length of a window, in seconds.
        most: the amount.
    """
    if used <= most:
        return max(0.0, before_expires - length * (most - used) / before) if before else 0.0
    return expires - length * most / used


def _connect(store: str) -> "ConnectionPool":
    if store.partition("://")[0] not in ("redis", "rediss", "valkey", "valkeys"):
        raise ConfigurationError("the store of quotas must be a URL that begins with redis:// or valkey://")
    try:
        from redis.asyncio import ConnectionPool
    except ModuleNotFoundError as error:
        hint = "pip install 'hyperdraw-server[redis]'"
        raise ConfigurationError(f"the store of quotas needs a driver that is not installed: {hint}") from error
    url, seconds = store.replace("valkey", "redis", 1), STORE_SECONDS
    try:
        return ConnectionPool.from_url(url, socket_timeout=seconds, socket_connect_timeout=seconds)
    except ValueError:
        raise ConfigurationError("the URL of the store of quotas is not valid") from None  # it may hold a password
