"""All kinds of requests, for long: nothing may add up."""

import os
import random
import threading
import time
from collections import Counter
from contextlib import suppress

import httpx

from tests.faults.conftest import IMAGE, MODEL, PNG, PREDICT, WEIGHTS, fit_slope, report, start_service

SECONDS = float(os.environ.get("SOAK_SECONDS", "600"))
CLIENTS = 4
T_QUANTILE = 2.896
"""Of Student's distribution with 8 degrees of freedom: a slope of nothing exceeds it in 1 of 100 soaks."""


def ask(client: httpx.Client, kind: str, chance: random.Random) -> None:
    seed = {"seed": str(chance.randrange(10**9))} if chance.random() < 0.5 else {}
    match kind:
        case "predict":
            parameters = {**seed, "ensemble_size": str(chance.choice([1, 10, 100]))}
            files = [("images", IMAGE)] * chance.choice([1, 1, 1, 8])
            client.post(PREDICT, params=parameters, files=files).raise_for_status()
        case "binary":
            client.post(PREDICT, params={**seed, "format": "safetensors"}, content=IMAGE, headers=PNG)
        case "weights":
            client.get(WEIGHTS, params={**seed, "count": str(chance.choice([1, 20]))}).raise_for_status()
        case "protocol":
            client.get(f"/v2/models/{MODEL}/stats").raise_for_status()
        case "invalid":
            content = IMAGE[: chance.randrange(len(IMAGE))]
            assert client.post(PREDICT, content=content, headers=PNG).status_code in (200, 422)
        case "late":
            headers = {**PNG, "X-Request-Timeout": "0.001"}
            assert client.post(PREDICT, content=IMAGE, headers=headers).status_code in (200, 504)
        case "leave":
            with suppress(httpx.TimeoutException):
                client.post(PREDICT, content=IMAGE, headers=PNG, timeout=0.005)
        case "leave a download":
            with client.stream("GET", WEIGHTS, params={"count": "100"}) as response:
                next(response.iter_bytes(1000))
        case "reload":
            client.post(f"/v1/models/{MODEL}:reload").raise_for_status()


KINDS = ["predict"] * 20 + ["binary", "weights", "protocol", "invalid", "late", "leave", "leave a download"] * 2
KINDS.append("reload")


def test_memory_does_not_grow() -> None:
    with start_service() as service:
        counts: Counter[str] = Counter()
        failures: list[str] = []
        end = time.monotonic() + SECONDS

        def ask_on(number: int) -> None:
            chance = random.Random(number)
            with httpx.Client(base_url=service.address, timeout=60) as client:
                while time.monotonic() < end:
                    kind = chance.choice(KINDS)
                    try:
                        ask(client, kind, chance)
                        counts[kind] += 1
                    except Exception as error:
                        failures.append(f"{kind}: {error!r}")

        threads = [threading.Thread(target=ask_on, args=[number]) for number in range(CLIENTS)]
        for thread in threads:
            thread.start()
        memory = []
        while time.monotonic() < end:
            memory.append(service.read_memory())
            time.sleep(0.5)
        for thread in threads:
            thread.join()
        settled = memory[len(memory) // 3 :]
        slope, t = fit_slope(settled)
        report(
            what="soak",
            seconds=SECONDS,
            requests=dict(counts),
            memory_mib=[round(settled[i * (len(settled) - 1) // 8], 1) for i in range(9)],
            slope_mib_per_hour=slope * 7200,
            t_statistic=t,
            failures=failures[:3],
        )
        assert failures == []
        assert t < T_QUANTILE
