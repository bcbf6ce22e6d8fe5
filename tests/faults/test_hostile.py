"""Requests that are meant to do harm, of at most 1 MB: none costs much, nobody else waits for them, nothing stays."""

import os
import random
import threading
import time
from collections import Counter

import httpx

from tests.costs import IMPATIENT, check_costs, find_slowness, send, watch_liveness
from tests.faults.conftest import IMAGE, MODEL, PREDICT, report, start_service
from tests.hostile import make_request

REQUESTS = int(os.environ.get("FAULT_REQUESTS", "10000"))
CLIENTS = 4
MOST_WAIT = 0.5
"""Seconds for which liveness may take, with nothing else on the machine."""


def test_no_request_costs_much() -> None:
    with start_service(*IMPATIENT) as service:
        assert max(check_costs(service, REQUESTS // 20, seed=1)) < MOST_WAIT * find_slowness()


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
        assert max(alive) < MOST_WAIT * find_slowness()
        assert not [status for status in statuses if status.startswith("5") and status != "504"]
