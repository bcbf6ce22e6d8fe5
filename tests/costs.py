"""What requests and files cost in processor time and memory, whatever else the machine does."""

import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache

import httpx

from tests.faults.conftest import IMAGE, MODEL, PREDICT, Service, report
from tests.hostile import make_request
from tests.waiting import PATIENCE

MOST_SECONDS, MOST_MEBIBYTES = 2.0, 320.0
"""Of processor time, where a request usually takes less than a tenth of it, and of memory."""

USUAL_SECONDS = 0.12
"""Of `find_slowness`'s loop, where bounds were found."""

IMPATIENT = "--header-timeout", "1", "--body-timeout", "1"
"""As many hostile requests end amid a body."""


@cache
def find_slowness() -> float:
    """How many times more processor time this machine takes than usual, for bounds to be multiplied with."""
    start = time.thread_time()
    sum(number * number for number in range(2_000_000))
    return max(1.0, (time.thread_time() - start) / USUAL_SECONDS)


@contextmanager
def bound_time(seconds: float = MOST_SECONDS) -> Iterator[None]:
    """Meanwhile the process takes no more processor time than it would take seconds on the usual machine."""
    start = time.process_time()
    yield
    assert time.process_time() - start < seconds * find_slowness()


def send(port: int, message: bytes) -> bytes:
    """The status of the answer; nothing if the connection was closed without one."""
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as connection:
        with suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(message)
        with suppress(ConnectionResetError):
            return connection.recv(2**16)[9:12]
    return b""


def watch_liveness(service: Service, done: threading.Event, waits: list[float]) -> None:
    """Asks for liveness until it is done, and notes the seconds that each answer takes."""
    with httpx.Client(base_url=service.address) as client:
        while not done.wait(0.05):
            start = time.monotonic()
            assert client.get("/healthz").status_code == 200
            waits.append(time.monotonic() - start)


def check_costs(service: Service, requests: int, seed: int) -> list[float]:
    """Sends hostile requests one after the other, and measures what each costs; the seconds that others wait."""
    generator, done, waits = random.Random(seed), threading.Event(), list[float]()
    httpx.post(service.address + PREDICT, content=IMAGE)
    watching = threading.Thread(target=watch_liveness, args=[service, done, waits])
    watching.start()
    dearest, largest, statuses = 0.0, 0.0, Counter[str]()
    for _ in range(requests):
        message = make_request(generator, MODEL)
        memory, cpu = service.read_memory(), service.read_cpu_seconds()
        statuses[send(service.port, message).decode()] += 1
        cost, grown = service.read_cpu_seconds() - cpu, service.read_memory() - memory
        dearest, largest = max(dearest, cost), max(largest, grown)
        assert cost < MOST_SECONDS * find_slowness(), (cost, message[:500])
        assert grown < MOST_MEBIBYTES, (grown, message[:500])
    done.set()
    watching.join()
    report(
        what="hostile requests one by one",
        requests=requests,
        statuses=dict(statuses),
        dearest_cpu_s=dearest,
        largest_growth_mib=largest,
        slowest_liveness_s=max(waits, default=0.0),
    )
    assert not [status for status in statuses if status.startswith("5") and status != "504"]
    return waits
