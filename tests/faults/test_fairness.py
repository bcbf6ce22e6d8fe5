"""Two clients: what one of them does with all its might, and what is left for the other."""

import os
import threading
import time

import httpx

from tests.costs import find_slowness
from tests.faults.conftest import IMAGE, PREDICT, report, start_service
from tests.hostile import draw_large
from tests.waiting import wait_until

SECONDS = float(os.environ.get("FAULT_SECONDS", "120")) / 4
"""That each part takes."""


def open_client(address: str, host: str) -> httpx.Client:
    """A client with an address of its own."""
    return httpx.Client(base_url=address, timeout=120, transport=httpx.HTTPTransport(local_address=host))


def measure(client: httpx.Client, seconds: float, **request: object) -> tuple[list[float], list[int]]:
    """How long the answers to one request after another take, and the seconds that refusals ask for."""
    taken, told = [], []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        start = time.monotonic()
        response = client.post(PREDICT, **request)  # type: ignore[arg-type]
        if response.status_code == 429:
            told.append(int(response.headers["Retry-After"]))
            time.sleep(min(told[-1], max(0.0, end - time.monotonic())))
        else:
            assert response.status_code == 200, response.text
            taken.append(time.monotonic() - start)
    return sorted(taken), told


def test_one_client_does_not_take_the_queue() -> None:
    """Some kilobytes ask for the most work that there is, again and again, for as long as may be.

    Another client's small requests are all answered, and its large ones get their share.
    """
    with start_service() as service:
        stop, counts = threading.Event(), {200: 0, 429: 0, 504: 0}
        files = [("images", IMAGE)] * 256

        def fill() -> None:
            with open_client(service.address, "127.0.0.2") as greedy:
                while not stop.is_set():
                    response = greedy.post(
                        PREDICT, files=files, params={"ensemble_size": "1000"}, headers={"X-Request-Timeout": "86400"}
                    )
                    counts[response.status_code] += 1
                    if response.status_code == 429:
                        time.sleep(0.1)

        greedy = [threading.Thread(target=fill) for _ in range(6)]
        with open_client(service.address, "127.0.0.1") as modest:
            alone, _ = measure(modest, 5, content=IMAGE)
            for thread in greedy:
                thread.start()
            wait_until(lambda: counts[429])
            small, refused = measure(modest, SECONDS, content=IMAGE)
            large, told = measure(modest, SECONDS, files=files[:100], params={"ensemble_size": "300"})
            stop.set()
        for thread in greedy:
            thread.join()
        report(
            what="one client fills the queue, another one asks",
            alone_p50_s=alone[len(alone) // 2],
            small_answers=len(small),
            small_refused=len(refused),
            small_p50_s=small[len(small) // 2],
            small_slowest_s=small[-1],
            large_answers=len(large),
            large_refused=len(told),
            greedy=counts,
        )
        assert not refused
        assert small[-1] < 5 * find_slowness()
        assert large


def test_a_flood_of_images_holds_nobody_up() -> None:
    """Images that are small to send and dear to decode, more of them than can be decoded."""
    with start_service() as service:
        stop, statuses = threading.Event(), dict[int, int]()

        def flood(image: bytes) -> None:
            with open_client(service.address, "127.0.0.2") as client:
                while not stop.is_set():
                    files = [("images", image)] * 10
                    response = client.post(PREDICT, files=files, headers={"X-Request-Timeout": "10"})
                    statuses[response.status_code] = statuses.get(response.status_code, 0) + 1
                    if response.status_code == 429:
                        time.sleep(0.1)

        large = draw_large()
        flooding = [threading.Thread(target=flood, args=[large[number % len(large)]]) for number in range(20)]
        with open_client(service.address, "127.0.0.1") as client:
            alone, _ = measure(client, 5, content=IMAGE)
            for thread in flooding:
                thread.start()
            wait_until(lambda: statuses)
            taken, refused = measure(client, SECONDS, content=IMAGE)
            begin = time.monotonic()
            late = client.post(PREDICT, files=[("images", large[3])] * 10, headers={"X-Request-Timeout": "1"})
            answered = time.monotonic() - begin
            stop.set()
        for thread in flooding:
            thread.join()
        report(
            what="20 clients flood the decoders with 10 of the largest images a request",
            alone_p50_s=alone[len(alone) // 2],
            answers=len(taken),
            refused=len(refused),
            p50_s=taken[len(taken) // 2],
            slowest_s=taken[-1],
            flood=statuses,
            late_status=late.status_code,
            late_answered_s=answered,
        )
        assert not refused
        assert taken[-1] < 5 * find_slowness()
        assert late.status_code in (429, 504)
        assert answered < 2 * find_slowness()
