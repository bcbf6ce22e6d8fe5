"""Texts that a model writes for many clients at once, each of which gets its characters as they are written.

Over HTTP with server-sent events, against one client, and against the engine in process. The clients share this machine
with the service.
"""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks.load import Ask, Load, apply_load, connect
from benchmarks.report import Ratio
from benchmarks.servers import make_command, run_server, wait_for
from models.sequences.writing import Sampling
from service.engine.engine import Engine

CLIENTS = 64
NETWORKS = 1, 8
"""That write a text together."""
CHARACTERS = 200
"""Of a text."""
SECONDS = 6.0
"""That clients ask for."""

Loads = dict[tuple[int, int], Load]
"""By networks and clients."""


def measure_streams(directory: Path, device: torch.device) -> Iterator[Ratio]:
    """Characters a second of many clients, and the pace of each, against those of one."""
    loads = {"the engine": _measure_engine(directory, device), "HTTP": asyncio.run(_measure_http(directory, device))}
    for networks in NETWORKS:
        case = f"{CLIENTS} clients, {networks} network{'s' * (networks > 1)}"
        for way, own in loads.items():
            many, one = own[networks, CLIENTS], own[networks, 1]
            rate, alone = (CHARACTERS * load.throughput for load in (many, one))
            gain, slowdown = rate / alone, many.quantile(0.5) / one.quantile(0.5)
            part = f"writing by {way}"
            yield Ratio(part, case, gain, "characters a second of one client", 1, characters=round(rate))
            yield Ratio(part, case, slowdown, "time for a text of one client", many.quantile(0.5), True)
        for clients in (1, CLIENTS):
            engine, http = (own[networks, clients].throughput for own in loads.values())
            case = f"{clients} client{'s' * (clients > 1)}, {networks} network{'s' * (networks > 1)}"
            yield Ratio("writing by HTTP", case, http / engine, "characters a second of the engine in process")


def _measure_engine(directory: Path, device: torch.device) -> Loads:
    engine = Engine(device)
    model = engine.load_sequences(directory)

    async def measure(networks: int, clients: int) -> Load:
        async def ask() -> None:
            sequence = model.open(0, range(networks), [], more=CHARACTERS, sampling=Sampling(0))
            await asyncio.wrap_future(engine.write(model, sequence).future)

        async def get_ask() -> Ask:
            return ask

        return await apply_load(get_ask, clients, SECONDS)

    loads = {(n, clients): asyncio.run(measure(n, clients)) for n in NETWORKS for clients in (1, CLIENTS)}
    engine.close()
    return loads


async def _measure_http(directory: Path, device: torch.device) -> Loads:
    path, loads = f"/v1/models/{directory.name}/generate", {}
    with run_server(make_command(directory, device), {}) as port:
        for networks in NETWORKS:
            body = json.dumps({"max_tokens": CHARACTERS, "seed": 0, "ensemble_size": networks, "stream": True}).encode()

            async def ask_once(body: bytes = body) -> None:
                await (await connect(port, path, body))()

            async def open_client(body: bytes = body) -> Ask:
                return await connect(port, path, body)

            await wait_for(ask_once)
            for clients in (1, CLIENTS):
                loads[networks, clients] = await apply_load(open_client, clients, SECONDS)
    return loads
