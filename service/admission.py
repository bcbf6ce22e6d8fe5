"""How much may wait, and whose: networks' work, pixels to be decoded, and the bytes of bodies are each admitted so."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

SMALL = 0.01
"""Of the limit: what asks for no more has a part of it for itself."""

RESERVED = 0.1
"""That part. A client alone may fill half of it, so that another one's small request always finds room."""

PATIENCE = 5.0
"""Seconds beyond the time that it was told, for which a client that was refused counts as waiting."""

MOST_REFUSED = 1000
"""Clients that are remembered for that."""


class OverloadedError(Exception):
    """As much as may wait is waiting, or as much of one client's."""

    def __init__(self, seconds: float) -> None:
        super().__init__(seconds)
        self.seconds = seconds
        """After which there is room for what was refused, at the pace that was measured."""

    def __str__(self) -> str:
        return f"there is room in about {self.seconds:.1f} seconds"


@dataclass(eq=False)
class Reservation:
    """What a request has of the room, until it is released; done work makes it smaller."""

    admission: "Admission"
    client: str
    amount: int = 0
    pace: float = 0.0
    """Seconds that a unit is expected to take."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def grow(self, amount: int) -> None:
        """Takes more.

        Raises:
            OverloadedError: as `Admission.check` does.
        """
        with self._lock:
            self.admission._add(self, amount)
            self.amount += amount

    def shrink(self, amount: int) -> None:
        """Gives back what is done, at most what is left."""
        with self._lock:
            amount = min(amount, self.amount)
            self.amount -= amount
            self.admission._remove(self, amount)

    def release(self) -> None:
        """Gives back all of it."""
        self.shrink(self.amount)


class Admission:
    """Admits up to a limit, and no client to more than its share while others wait.

    A client's share is the limit, without the part that is kept for small requests, divided by the number of clients
    that have something waiting or were refused lately; small requests may exceed it by half of that part. Who has
    nothing waiting may wait with one request of any size that finds room; if nothing waits at all, that is any size.
    """

    def __init__(self, limit: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.limit = limit
        self._clock = clock
        self._lock = threading.Lock()
        self._held: dict[str, int] = {}
        """By client, what is positive."""
        self._refused: dict[str, float] = {}
        """By client, until when it counts as waiting."""
        self._amount = 0
        self._seconds = 0.0

    @property
    def amount(self) -> int:
        """All that waits."""
        return self._amount

    def reserve(self, client: str, amount: int, pace: float = 0.0) -> Reservation:
        """Room for an amount, of which a unit is expected to take `pace` seconds.

        Raises:
            OverloadedError: as `check` does.
        """
        reservation = Reservation(self, client, pace=pace)
        reservation.grow(amount)
        return reservation

    def check(self, client: str, amount: int) -> None:
        """Whether there is room.

        Raises:
            OverloadedError: if not; the client then counts as waiting for a while.
        """
        with self._lock:
            self._check(client, amount)

    def _check(self, client: str, amount: int) -> None:
        held, now = self._held.get(client, 0), self._clock()
        if not self._amount:
            return
        reserved = int(RESERVED * self.limit)
        shared, small = self.limit - reserved, amount <= SMALL * self.limit
        most, own = (self.limit, reserved // 2) if small else (shared, 0)
        self._refused = {name: until for name, until in self._refused.items() if until > now}
        clients = {client, *self._held, *self._refused}
        seconds = self._estimate(self._amount + amount - most, self._amount)
        if held:
            seconds = max(seconds, self._estimate(held + amount - shared // len(clients) - own, held))
        if seconds > 0:
            if client in self._refused or len(self._refused) < MOST_REFUSED:
                self._refused[client] = now + seconds + PATIENCE
            raise OverloadedError(seconds)

    def _estimate(self, excess: int, waiting: int) -> float:
        """Seconds until so much of what waits is done, if all of it gets on evenly; 0 if nothing must be."""
        if excess <= 0:
            return 0.0
        return max(self._seconds, 1e-3) * min(excess, waiting) / waiting

    def _add(self, reservation: Reservation, amount: int) -> None:
        client = reservation.client
        with self._lock:
            if not amount:
                return
            self._check(client, amount)
            self._refused.pop(client, None)
            self._held[client] = self._held.get(client, 0) + amount
            self._amount += amount
            self._seconds += amount * reservation.pace

    def _remove(self, reservation: Reservation, amount: int) -> None:
        client = reservation.client
        with self._lock:
            if not amount:
                return
            self._held[client] -= amount
            if not self._held[client]:
                del self._held[client]
            self._amount -= amount
            self._seconds = max(0.0, self._seconds - amount * reservation.pace) if self._amount else 0.0
