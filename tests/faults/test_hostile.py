"""Requests that are meant to do harm, of at most 1 MB: none costs much, nobody else waits for them, nothing stays."""

import os
import random
import socket
import threading
import time
from collections import Counter
from contextlib import suppress

import httpx

from tests.faults.conftest import IMAGE, MODEL, PREDICT, Service, report, start_service
from tests.hostile import make_request

REQUESTS = int(os.environ.get("FAULT_REQUESTS", "10000"))
CLIENTS = 4
MOST_SECONDS, MOST_MEBIBYTES = 2.0, 200.0
"""Of processor time and memory that a request may cost."""

IMPATIENT = "--header-timeout", "1", "--body-timeout", "1"
"""As many of the requests end amid a body."""


def send(port: int, message: bytes) -> bytes:
    """The status of the answer; nothing if the connection was closed without one."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        with suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(message)
        with suppress(ConnectionResetError):
            return connection.recv(2**16)[9:12]
    return b""


def watch_liveness(service: Service, done: threading.Event, slowest: list[float]) -> None:
    with httpx.Client(base_url=service.address, timeout=60) as client:
        while not done.is_set():
            start = time.monotonic()
            assert client.get("/healthz").status_code == 200
            slowest.append(time.monotonic() - start)
            time.sleep(0.05)


def check_costs(service: Service, requests: int, seed: int, most_wait: float) -> None:
    """Sends hostile requests one after the other, and measures what each costs, and how long others wait meanwhile."""
    generator, done, alive = random.Random(seed), threading.Event(), list[float]()
    httpx.post(service.address + PREDICT, content=IMAGE)
    watching = threading.Thread(target=watch_liveness, args=[service, done, alive])
    watching.start()
    dearest, largest, statuses = 0.0, 0.0, Counter[str]()
    for _ in range(requests):
        message = make_request(generator, MODEL)
        memory, cpu = service.read_memory(), service.read_cpu_seconds()
        statuses[send(service.port, message).decode()] += 1
        cost, grown = service.read_cpu_seconds() - cpu, service.read_memory() - memory
        dearest, largest = max(dearest, cost), max(largest, grown)
        assert cost < MOST_SECONDS, (cost, message[:500])
        assert grown < MOST_MEBIBYTES, (grown, message[:500])
    done.set()
    watching.join()
    report(
        what="hostile requests one by one",
        requests=requests,
        statuses=dict(statuses),
        dearest_cpu_s=dearest,
        largest_growth_mib=largest,
        slowest_liveness_s=max(alive),
    )
    assert max(alive) < most_wait
    assert not [status for status in statuses if status.startswith("5") and status != "504"]


def test_no_request_costs_much() -> None:
    with start_service(*IMPATIENT) as service:
        check_costs(service, REQUESTS // 20, seed=1, most_wait=0.5)


def test_nothing_of_many_stays() -> None:
    """Many at a time: memory is flat, liveness is answered, and others' requests are."""
    done, alive, others = threading.Event(), list[float](), list[float]()
    statuses: Counter[str] = Counter()
    left = REQUESTS
    lock = threading.Lock()
    with start_service(*IMPATIENT) as service:

        def attack(number: int) -> None:
            nonlocal left
            generator = random.Random(1000 + number)
            while True:
                with lock:
                    left -= 1
                    if left < 0:
                        return
                status = send(service.port, make_request(generator, MODEL, 2**17)).decode()
                with lock:
                    statuses[status] += 1

        def ask() -> None:
            with httpx.Client(base_url=service.address, timeout=60) as client:
                while not done.is_set():
                    start = time.monotonic()
                    assert client.post(PREDICT, content=IMAGE).status_code in (200, 429)
                    others.append(time.monotonic() - start)
                    time.sleep(0.2)

        helpers = [threading.Thread(target=watch_liveness, args=[service, done, alive]), threading.Thread(target=ask)]
        attackers = [threading.Thread(target=attack, args=[number]) for number in range(CLIENTS)]
        for thread in (*helpers, *attackers):
            thread.start()
        while left > REQUESTS // 2:
            time.sleep(0.1)
        half = service.read_memory()
        for thread in attackers:
            thread.join()
        time.sleep(2)
        end = service.read_memory()
        done.set()
        for thread in helpers:
            thread.join()
        others.sort()
        report(
            what=f"hostile requests, {CLIENTS} at a time",
            requests=REQUESTS,
            statuses=dict(statuses),
            memory_at_half_mib=half,
            memory_at_end_mib=end,
            slowest_liveness_s=max(alive),
            others_p50_s=others[len(others) // 2],
            others_slowest_s=others[-1],
        )
        assert end - half < 50
        assert max(alive) < 0.5
        assert not [status for status in statuses if status.startswith("5") and status != "504"]
