"""Who is next: with requests that only cost something, as if a batch were served at once."""

import random
from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass

import pytest

from service.engine.fair_queue import FairQueue


@dataclass(eq=False)
class Request:
    client: str = "a"
    cost: int = 1
    key: Hashable | None = None
    finished: bool = False


def limit(_: Request) -> int:
    return 10


def take(queue: FairQueue[Request]) -> list[Request]:
    return queue.take(limit)


def test_a_client_alone_is_served_in_order() -> None:
    queue: FairQueue[Request] = FairQueue()
    requests = [Request(cost=random.Random(i).randint(1, 100)) for i in range(50)]
    for request in requests[:25]:
        queue.add(request)
    served = take(queue)
    for request in requests[25:]:
        queue.add(request)
    while queue:
        served += take(queue)
    assert served == requests
    assert take(queue) == []


def test_who_asks_for_little_does_not_wait_for_who_has_queued_much() -> None:
    queue: FairQueue[Request] = FairQueue()
    for _ in range(10_000):
        queue.add(Request("much", 5))
    for _ in range(100):
        take(queue)
    queue.add(Request("little", 5))
    assert "little" in {request.client for _ in range(2) for request in take(queue)}


@pytest.mark.parametrize("weights", [{"a": 1.0, "b": 1.0, "c": 1.0}, {"a": 1.0, "b": 2.0, "c": 0.5}])
def test_parts_follow_the_weights_whatever_requests_cost(weights: dict[str, float]) -> None:
    queue: FairQueue[Request] = FairQueue(weights.__getitem__)
    costs = {"a": 3, "b": 10, "c": 1}
    for client in weights:
        for _ in range(5000):
            queue.add(Request(client, costs[client]))
    served: Counter[str] = Counter()
    while sum(served.values()) < 3000:
        served.update({request.client: request.cost for request in take(queue)})
    parts = {client: cost / weights[client] for client, cost in served.items()}
    assert max(parts.values()) - min(parts.values()) <= 30  # three of the dearest requests


def test_clients_that_always_come_anew_hold_nobody_back() -> None:
    queue: FairQueue[Request] = FairQueue()
    mine = [Request("mine", 4), Request("mine", 4)]
    for request in mine:
        queue.add(request)
    for number in range(40):
        queue.add(Request(f"{number}", 4))
        queue.add(Request(f"{number} too", 4))  # more than is served
        if mine[1] in take(queue):
            return
    pytest.fail("the second request is never served")


def test_a_batch_is_of_one_key_and_within_its_limit() -> None:
    queue: FairQueue[Request] = FairQueue()
    first, other, second, large, alone, third = (
        Request("a", 4, "k"),
        Request("b", 4, "other"),
        Request("c", 4, "k"),
        Request("d", 4, "k"),
        Request("e", 1),
        Request("f", 2, "k"),
    )
    for request in (first, other, second, large, alone, third):
        queue.add(request)
    assert [take(queue) for _ in range(4)] == [[first, second, third], [other], [large], [alone]]


def test_what_nobody_wants_is_dropped_wherever_it_is() -> None:
    queue: FairQueue[Request] = FairQueue()
    requests = [Request() for _ in range(5)]
    for request in requests:
        queue.add(request)
    for request in requests[1:]:
        request.finished = True
    assert take(queue) == requests[:1]
    assert not queue


def test_a_busy_client_begins_nothing_large() -> None:
    queue: FairQueue[Request] = FairQueue()
    large, small, other = Request("a", 11), Request("a", 10), Request("b", 11)
    for request in (large, small, other):
        queue.add(request)
    assert [queue.take(limit, {"a"}) for _ in range(3)] == [[other], [small], []]
    assert take(queue) == [large]


def test_clients_that_have_had_all_are_forgotten() -> None:
    queue: FairQueue[Request] = FairQueue()
    for number in range(1000):
        queue.add(Request(f"{number}", 3))
        take(queue)
        assert len(queue._accounts) <= 2
