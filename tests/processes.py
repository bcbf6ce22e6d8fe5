"""The service as a process of its own."""

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx

from tests import ROOT


@contextmanager
def start_process(checkpoints: Path, *arguments: str) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """`hyperdraw-serve`, ready, and its address; killed in the end if it still runs."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "service", "--checkpoints", str(checkpoints), "--port", str(port), *arguments]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=ROOT)
    address = f"http://127.0.0.1:{port}"
    try:
        await_ready(address, process)
        yield process, address
    finally:
        process.kill()
        process.wait()


def await_ready(address: str, process: subprocess.Popen[bytes] | None = None) -> float:
    """Until a service is ready, which its process must live to see; the seconds that it took."""
    start = time.monotonic()
    while time.monotonic() < start + 120:
        assert process is None or process.poll() is None
        with suppress(httpx.TransportError):
            if httpx.get(f"{address}/readyz").status_code == 200:
                return time.monotonic() - start
        time.sleep(0.05)
    raise TimeoutError("the service is not ready")
