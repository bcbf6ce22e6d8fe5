"""Twice as many requests as can be answered."""

import asyncio
import json
import time
from dataclasses import dataclass, field

import httpx
import pytest

from tests.costs import find_slowness
from tests.faults.conftest import IMAGE, PREDICT, SECONDS, Service, report, start_service

CLIENTS = 64
NETWORKS = 100
QUEUE = 3_200
"""Images × networks that may wait: of half of the clients."""

SEEDS = range(50)


@dataclass
class Seen:
    """What clients saw."""

    answered: list[float] = field(default_factory=list)
    """Seconds that each took."""
    refused: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


def make_message(seed: int) -> bytes:
    head = f"POST {PREDICT}?ensemble_size={NETWORKS}&seed={seed} HTTP/1.1\r\nHost: localhost\r\n"
    return f"{head}Content-Type: image/png\r\nContent-Length: {len(IMAGE)}\r\n\r\n".encode() + IMAGE


async def exchange(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, message: bytes) -> tuple[bytes, bytes]:
    writer.write(message)
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    length = next(int(line[15:]) for line in head.split(b"\r\n") if line.startswith(b"content-length:"))
    return head, await reader.readexactly(length)


async def ask_on(port: int, seen: Seen, expected: dict[int, list[float]], interval: float, seconds: float) -> None:
    """Asks at fixed intervals, or at once if the last answer came later than that."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    messages = {seed: make_message(seed) for seed in SEEDS}
    begin = time.perf_counter()
    count = 0
    while time.perf_counter() < begin + seconds:
        await asyncio.sleep(max(0.0, begin + count * interval - time.perf_counter()))
        seed = SEEDS[count % len(SEEDS)]
        count += 1
        start = time.perf_counter()
        head, body = await exchange(reader, writer, messages[seed])
        taken = time.perf_counter() - start
        status = head.split()[1]
        if status == b"429" and b"\r\nretry-after: " in head:
            seen.refused.append(taken)
        elif status == b"200":
            seen.answered.append(taken)
            if json.loads(body)["predictions"][0]["probabilities"] != pytest.approx(expected[seed], abs=1e-5):
                seen.wrong.append(body.decode())
        else:
            seen.wrong.append(head.decode() + body.decode())
    writer.close()


async def apply(service: Service, expected: dict[int, list[float]], clients: int, rate: float, seconds: float) -> Seen:
    seen = Seen()
    asks = [ask_on(service.port, seen, expected, clients / rate, seconds) for _ in range(clients)]
    await asyncio.gather(*asks)
    return seen


def quantile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def test_twice_the_capacity() -> None:
    """Answers are right, refusals come at once, what is accepted is answered soon, and memory does not grow."""
    with start_service("--max-queue", str(QUEUE)) as service:
        expected = {}
        for seed in SEEDS:
            parameters = {"seed": str(seed), "ensemble_size": str(NETWORKS)}
            answer = httpx.post(service.address + PREDICT, content=IMAGE, params=parameters).json()
            expected[seed] = answer["predictions"][0]["probabilities"]
        few = QUEUE // NETWORKS // 2
        alone = asyncio.run(apply(service, expected, few, 1e9, 10))
        assert not alone.wrong
        assert not alone.refused
        capacity = len(alone.answered) / 10
        before = service.read_memory()
        seen = asyncio.run(apply(service, expected, CLIENTS, 2 * capacity, SECONDS))
        growth = service.read_memory() - before
        report(
            what="64 clients at twice the capacity",
            seconds=SECONDS,
            capacity_per_s=capacity,
            asked_per_s=(len(seen.answered) + len(seen.refused)) / SECONDS,
            answered_per_s=len(seen.answered) / SECONDS,
            refused=len(seen.refused),
            wrong=len(seen.wrong),
            answered_p50_s=quantile(seen.answered, 0.5),
            answered_p99_s=quantile(seen.answered, 0.99),
            refused_p50_s=quantile(seen.refused, 0.5),
            refused_p99_s=quantile(seen.refused, 0.99),
            memory_growth_mib=growth,
        )
        assert not seen.wrong
        assert len(seen.refused) > 100
        assert len(seen.answered) > 0.5 * capacity * SECONDS  # as clients, and refusals, take their share of the cores
        assert quantile(seen.answered, 0.99) < 2 * QUEUE / NETWORKS / capacity + 0.5 * find_slowness()
        assert quantile(seen.refused, 0.99) < 0.25 * find_slowness()
        assert growth < 50
