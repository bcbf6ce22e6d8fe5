"""The queue of requests that wait for a batch. Its clients get equal parts of the device's time, or parts by weight.

A request is as urgent as its start tag is early. That is the virtual time at which its client would have had all that
it asked for before, if every client were served at once, with its part. So a client that asks for little does not wait
for what another has queued, and one that uses the device alone loses nothing.

The order is that of start-time fair queueing (Goyal, Vin & Cheng, SIGCOMM 1996). Virtual time passes with the work that
is done, as in weighted fair queueing (Demers, Keshav & Shenker, SIGCOMM 1989), so that clients that always come anew
cannot hold back a client's second request.
"""

from bisect import insort
from collections.abc import Callable, Collection, Hashable
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from service.admission import Weigh, weigh_equally


class Waiting(Protocol):
    """A request that waits."""

    @property
    def client(self) -> str:
        """Name of the client."""

    @property
    def cost(self) -> int:
        """Inputs × networks."""

    @property
    def key(self) -> Hashable | None:
        """Requests of the same key may share a batch; a request without a key has a batch of its own."""

    @property
    def finished(self) -> bool:
        """Whether nobody wants its answer any more."""


Request = TypeVar("Request", bound=Waiting)


@dataclass(frozen=True, order=True)
class _Entry(Generic[Request]):
    start: float
    """Start tag, in cost per weight."""
    number: int
    """Requests with the same tag come in the order of their arrival."""
    request: Request = field(compare=False)


@dataclass
class _Account:
    end: float
    """Virtual time at which the client would have had all that it asked for."""
    weight: float = 1.0


class FairQueue(Generic[Request]):
    """Requests in the order of their start tags."""

    def __init__(self, weigh: Weigh = weigh_equally) -> None:
        self._weigh = weigh
        self._entries: list[_Entry[Request]] = []
        self._accounts: dict[str, _Account] = {}
        """Of the clients that have not yet had, in virtual time, what they asked for."""
        self._now = 0.0
        self._count = 0

    def __bool__(self) -> bool:
        return bool(self._entries)

    def add(self, request: Request) -> None:
        """Queues a request behind the earlier ones of its client."""
        account = self._accounts.setdefault(request.client, _Account(self._now))
        start, account.weight = max(self._now, account.end), self._weigh(request.client)
        account.end = start + request.cost / account.weight
        insort(self._entries, _Entry(start, self._count, request))
        self._count += 1

    def take(self, find_limit: Callable[[Request], int], busy: Collection[str] = ()) -> list[Request]:
        """Takes the most urgent request, and others with its key that fit into its batch. Finished ones are dropped.

        Args:
            find_limit: gives the largest cost of a batch that a request begins.
            busy: clients of whom only requests within this limit are taken.

        Returns:
            The requests of the batch; none if nothing waits.
        """
        left: list[_Entry[Request]] = []
        taken: list[Request] = []
        cost = limit = 0
        for entry in self._entries:
            request = entry.request
            if request.finished:
                continue
            if not taken:
                if request.client in busy and request.cost > find_limit(request):
                    left.append(entry)
                    continue
                self._now = max(self._now, entry.start)
                limit = find_limit(request)
            elif request.key is None or request.key != taken[0].key or cost + request.cost > limit:
                left.append(entry)
                continue
            taken.append(request)
            cost += request.cost
        self._entries = left
        self._pass(cost)
        return taken

    def _pass(self, cost: int) -> None:
        """Lets virtual time pass while the clients that are owed something share a cost."""
        owed = {client: account for client, account in self._accounts.items() if account.end > self._now}
        self._accounts = owed
        if owed:
            self._now += cost / sum(account.weight for account in owed.values())
