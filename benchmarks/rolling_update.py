"""What clients notice of an update: two replicas are replaced, one after the other, while clients ask.

Eight clients ask for predictions, and one for downloads. What is refused or breaks is counted, and asked again.
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import httpx
import numpy as np
import torch
import typer

from benchmarks.replicas import run_nginx
from benchmarks.servers import ROOT, make_command, run_server, wait_for
from benchmarks.serving import IMAGE

CLIENTS = 8
DRAIN_DELAY = 1.0
"""Seconds that a replica serves on after it was told to end."""
PREDICT, DOWNLOAD = "predict", "weights"

Update = Callable[[], Awaitable[None]]
"""Replaces all replicas."""


@dataclass
class Outcome:
    """What clients saw."""

    seconds: dict[str, list[float]] = field(default_factory=lambda: {PREDICT: [], DOWNLOAD: []})
    """Until each answer."""
    failures: list[str] = field(default_factory=list)

    def describe(self) -> str:
        """Cells of a table."""
        seconds = self.seconds[PREDICT]
        counts = f"{len(seconds):,} | {len(self.seconds[DOWNLOAD]):,} | {len(self.failures):,}"
        times = [f"{np.quantile(seconds, share):.3f} s" if seconds else "–" for share in (0.5, 0.99, 1)]
        return " | ".join([counts, *times])


@contextmanager
def run_behind_nginx(directory: Path) -> Iterator[tuple[int, Update]]:
    """Runs two replicas of one thread behind nginx; yields nginx's port, and what replaces the replicas."""
    command = [*make_command(directory, torch.device("cpu")), "--threads", "1", "--drain-delay", str(DRAIN_DELAY)]
    with TemporaryDirectory(prefix="hd") as name, ExitStack() as stack:
        sockets = [Path(name) / f"{number}.sock" for number in range(2)]
        replicas = [stack.enter_context(ExitStack()) for _ in sockets]

        async def replace() -> None:
            for replica, socket in zip(replicas, sockets, strict=True):
                await asyncio.to_thread(replica.close)
                replica.enter_context(run_server([*command, "--socket", str(socket)], {}))
                await wait_for(partial(_ask_ready, socket))

        asyncio.run(replace())
        yield stack.enter_context(run_nginx(Path(name), sockets)), replace


@contextmanager
def run_on_ray(directory: Path) -> Iterator[tuple[int, Update]]:
    """Runs two replicas on Ray Serve; yields its port, and what replaces the replicas."""
    from benchmarks.ray_cluster import run_ray  # needs what Ray brings

    with run_ray(directory) as cluster:
        yield cluster.port, partial(asyncio.to_thread, cluster.deploy)


async def measure_update(model: str, networks: int, seconds: float, replace: Update) -> tuple[Outcome, Outcome]:
    """What clients see for a while, and while all replicas are replaced.

    Args:
        model: address of the model, with a slash at its end.
        networks: number of networks of each download.
        seconds: length of the first part, and of the second after the update.
        replace: replaces the replicas.
    """
    before, meanwhile = Outcome(), Outcome()
    async with asking(model, networks, before):
        await asyncio.sleep(seconds)
    async with asking(model, networks, meanwhile):
        await replace()
        await asyncio.sleep(seconds)
    return before, meanwhile


async def _ask_ready(socket: Path) -> None:
    """Asks a replica whether it is ready."""
    async with httpx.AsyncClient(transport=httpx.AsyncHTTPTransport(uds=str(socket))) as client:
        try:
            (await client.get("http://localhost/readyz")).raise_for_status()
        except httpx.HTTPError as error:
            raise RuntimeError("it is not ready") from error


@asynccontextmanager
async def asking(model: str, networks: int, outcome: Outcome) -> AsyncIterator[None]:
    """Lets clients ask. They finish what they have begun.

    Args:
        model: address of the model, with a slash at its end.
        networks: number of networks of each download.
        outcome: takes what they see.
    """
    ended = False

    async def ask(method: str, path: str, **others: Any) -> None:
        async with httpx.AsyncClient(base_url=model, timeout=60) as client:
            while not ended:
                start = time.perf_counter()
                try:
                    (await client.request(method, path, **others)).raise_for_status()
                except httpx.HTTPError as error:
                    outcome.failures.append(repr(error))
                else:
                    outcome.seconds[path].append(time.perf_counter() - start)

    async with asyncio.TaskGroup() as clients:
        for _ in range(CLIENTS):
            clients.create_task(ask("POST", PREDICT, files={"images": IMAGE.read_bytes()}))
        clients.create_task(ask("GET", DOWNLOAD, params={"count": networks}))
        try:
            yield
        finally:
            ended = True


def main(
    checkpoint: Annotated[Path, typer.Argument(help="What is served.")] = ROOT / "checkpoints" / "mnist-hyperdraw",
    networks: Annotated[int, typer.Option(min=1, help="Number of networks of a download.")] = 100,
    seconds: Annotated[float, typer.Option(min=0, help="Seconds before and after the update.")] = 10,
    ray: Annotated[bool, typer.Option("--ray", help="On Ray Serve, instead of behind nginx.")] = False,
) -> None:
    """Replace two replicas, one after the other, and count what clients lose."""
    directory = checkpoint.resolve()
    with (run_on_ray if ray else run_behind_nginx)(directory) as (port, replace):
        model = f"http://127.0.0.1:{port}/v1/models/{directory.name}/"
        before, meanwhile = asyncio.run(measure_update(model, networks, seconds, replace))
    typer.echo("| | predictions | downloads | failed | median | p99 | longest |")
    typer.echo("| --- | --- | --- | --- | --- | --- | --- |")
    typer.echo(f"| before | {before.describe()} |")
    typer.echo(f"| while both are replaced | {meanwhile.describe()} |")
    for failure, count in Counter(before.failures + meanwhile.failures).most_common(10):
        typer.echo(f"{count} × {failure}", err=True)


if __name__ == "__main__":
    typer.run(main)
