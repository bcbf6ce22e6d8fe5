"""Clients that do not wait for what they asked for."""

import asyncio
import time

import httpx

from tests.costs import find_slowness
from tests.faults.conftest import IMAGE, PREDICT, report, start_service
from tests.waiting import wait_until

CLIENTS = 1000
NETWORKS = 1000


async def ask_and_leave(port: int) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    head = f"POST {PREDICT}?ensemble_size={NETWORKS} HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\n"
    writer.write(f"{head}Content-Length: {len(IMAGE)}\r\n\r\n".encode() + IMAGE)
    await writer.drain()
    await asyncio.sleep(1)  # that the others have to arrive
    writer.transport.abort()


async def ask_all(port: int) -> None:
    await asyncio.gather(*[ask_and_leave(port) for _ in range(CLIENTS)])


def test_clients_that_leave_leave_no_work_behind() -> None:
    with start_service("--max-queue", str(CLIENTS * NETWORKS)) as service:
        url = service.address + PREDICT
        start = time.monotonic()
        assert httpx.post(url, content=IMAGE, params={"ensemble_size": str(NETWORKS)}).status_code == 200
        each = time.monotonic() - start
        asyncio.run(ask_all(service.port))
        start = time.monotonic()
        assert httpx.post(url, content=IMAGE).status_code == 200
        answered = time.monotonic() - start
        idle = "\nhyperdraw_active_requests 1.0\n", "\nhyperdraw_waiting_cost 0.0\n"
        wait_until(lambda: all(line in httpx.get(f"{service.address}/metrics").text for line in idle))
        before = service.read_cpu_seconds()
        time.sleep(3)
        busy = service.read_cpu_seconds() - before
        report(
            what="1000 clients that leave",
            seconds_of_work_left_behind_if_none_were_dropped=CLIENTS * each,
            next_answer_s=answered,
            cpu_seconds_in_3_s_thereafter=busy,
        )
        assert answered < CLIENTS * each / 20
        assert busy < 0.3 * find_slowness()
