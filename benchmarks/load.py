"""Clients that each ask again as soon as they are answered."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import closing
from dataclasses import dataclass

Ask = Callable[[], Awaitable[None]]
"""Sends a request and waits for its answer.

Raises:
    RuntimeError: if it is refused.
"""


@dataclass(frozen=True)
class Load:
    """What some clients saw."""

    clients: int
    latencies: list[float]
    """Seconds, ascending."""
    seconds: float
    """That they asked for, together."""

    @property
    def throughput(self) -> float:
        """Answers a second."""
        return len(self.latencies) / self.seconds

    def quantile(self, share: float) -> float:
        """Seconds within which a share of the answers came."""
        return self.latencies[min(len(self.latencies) - 1, int(share * len(self.latencies)))]


async def apply_load(connect: Callable[[], Awaitable[Ask]], clients: int, seconds: float) -> Load:
    """Lets some clients ask for a while, after one answer each that does not count."""
    asks = [await connect() for _ in range(clients)]
    await asyncio.gather(*(ask() for ask in asks))
    latencies: list[float] = []
    start = time.perf_counter()

    async def ask_on(ask: Ask) -> None:
        while (before := time.perf_counter()) < start + seconds:
            await ask()
            latencies.append(time.perf_counter() - before)

    await asyncio.gather(*map(ask_on, asks))
    return Load(clients, sorted(latencies), time.perf_counter() - start)


async def connect(port: int, path: str, body: bytes) -> Ask:
    """A client that keeps one connection to this machine, and does no more than it must, so as not to be measured."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    lines = [
        f"POST {path} HTTP/1.1",
        "Host: localhost",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
    ]
    message = _join(lines) + body

    async def ask() -> None:
        writer.write(message)
        await read_answer(reader)

    return ask


async def get(port: int, path: str) -> None:
    """Reads all of an answer to a GET request, and closes the connection.

    Raises:
        RuntimeError: if the request is refused.
    """
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    with closing(writer):
        writer.write(_join([f"GET {path} HTTP/1.1", "Host: localhost"]))
        await read_answer(reader)


def _join(lines: list[str]) -> bytes:
    return "\r\n".join([*lines, "", ""]).encode()


async def read_answer(reader: asyncio.StreamReader) -> None:
    """Reads an answer, sent whole or in chunks.

    Raises:
        RuntimeError: if the request was refused, with the answer's last part.
    """
    header = (await reader.readuntil(b"\r\n\r\n")).lower().split(b"\r\n")
    lengths = [int(line[15:]) for line in header if line.startswith(b"content-length:")]
    part = await _read_part(reader, lengths[0]) if lengths else await _read_chunks(reader)
    if header[0].split(b" ", 2)[1] != b"200":
        raise RuntimeError(f"refused: {part.decode()}")


async def _read_part(reader: asyncio.StreamReader, length: int) -> bytes:
    """Reads some bytes, and returns the last of them."""
    part = b""
    while length:
        part = await reader.readexactly(min(length, 2**15))
        length -= len(part)
    return part


async def _read_chunks(reader: asyncio.StreamReader) -> bytes:
    """Reads an answer that is sent in chunks, and returns the last one."""
    last = b""
    while length := int(await reader.readuntil(b"\r\n"), 16):
        last = await _read_part(reader, length)
        await reader.readexactly(2)
    await reader.readexactly(2)
    return last
