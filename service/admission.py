"""Admission limits how much may wait, and for whom: inputs × networks, pixels to decode, and bytes of bodies."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

SMALL_SHARE = 0.01
"""Largest small request, as a share of the limit. Small requests have a reserved part of the limit."""

RESERVED_SHARE = 0.1
"""The reserved part. One client may fill half of it, so that another's small request always finds room."""

PATIENCE = 5.0
"""Seconds for which a refused client still counts as waiting, after the time at which it was told to return."""

MOST_REFUSED = 1000
"""Most refused clients that are remembered."""


Weigh = Callable[[str], float]
"""Gives the weight of a client, by its name: how large its share is, in units of a usual one."""


def weigh_equally(client: str) -> float:
    """Weight 1 for every client."""
    return 1.0


class OverloadedError(Exception):
    """The queue is full, or a client's share of it."""

    def __init__(self, seconds: float) -> None:
        super().__init__(seconds)
        self.seconds = seconds
        """Seconds until there is room for the refused request, at the measured pace."""

    def __str__(self) -> str:
        return f"there is room in about {self.seconds:.1f} seconds"


@dataclass(eq=False)
class Reservation:
    """A request's room in the queue, until it is released. It shrinks as work is done."""

    admission: "Admission"
    client: str
    amount: int = 0
    pace: float = 0.0
    """Expected seconds for each unit."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def grow(self, amount: int) -> None:
        """Takes more room.

        Raises:
            OverloadedError: if there is no room.
        """
        with self._lock:
            self.admission._add(self, amount)
            self.amount += amount

    def shrink(self, amount: int) -> None:
        """Gives back an amount that is done, or what is left of the room if that is less."""
        with self._lock:
            amount = min(amount, self.amount)
            self.amount -= amount
            self.admission._remove(self, amount)

    def release(self) -> None:
        """Gives back all of the room."""
        self.shrink(self.amount)


class Admission:
    """Admits amounts up to a limit, and limits each client to its share while others wait.

    The limit, without the reserved part, is shared by weight among the clients that have something waiting or were
    refused recently. Small requests may exceed it by half of the reserved part. A client with nothing
    waiting may queue one request of any size that finds room. If nothing waits at all, every size finds room.
    """

    def __init__(self, limit: int, weigh: Weigh = weigh_equally, clock: Callable[[], float] = time.monotonic) -> None:
        self.limit = limit
        self._weigh = weigh
        self._clock = clock
        self._lock = threading.Lock()
        self._held: dict[str, int] = {}
        """Positive amounts that wait, by client."""
        self._refused: dict[str, float] = {}
        """Times until which refused clients count as waiting, by client."""
        self._amount = 0
        self._seconds = 0.0

    @property
    def amount(self) -> int:
        """Total amount that waits."""
        return self._amount

    def reserve(self, client: str, amount: int, pace: float = 0.0) -> Reservation:
        """Reserves room for an amount, whose units are expected to take `pace` seconds each.

        Raises:
            OverloadedError: if there is no room.
        """
        reservation = Reservation(self, client, pace=pace)
        reservation.grow(amount)
        return reservation

    def check(self, client: str, amount: int) -> None:
        """Checks that there is room.

        Raises:
            OverloadedError: if there is no room. The client then counts as waiting for a while.
        """
        with self._lock:
            self._check(client, amount)

    def _check(self, client: str, amount: int) -> None:
        held, now = self._held.get(client, 0), self._clock()
        if not self._amount:
            return
        reserved = int(RESERVED_SHARE * self.limit)
        shared, small = self.limit - reserved, amount <= SMALL_SHARE * self.limit
        most, own = (self.limit, reserved // 2) if small else (shared, 0)
        self._refused = {name: until for name, until in self._refused.items() if until > now}
        clients = {client, *self._held, *self._refused}
        seconds = self._estimate(self._amount + amount - most, self._amount)
        if held:
            share = int(shared * self._weigh(client) / sum(map(self._weigh, clients)))
            seconds = max(seconds, self._estimate(held + amount - share - own, held))
        if seconds > 0:
            if client in self._refused or len(self._refused) < MOST_REFUSED:
                self._refused[client] = now + seconds + PATIENCE
            raise OverloadedError(seconds)

    def _estimate(self, excess: int, waiting: int) -> float:
        """Seconds until the excess is done, if all waiting work proceeds evenly; 0 if there is no excess."""
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
