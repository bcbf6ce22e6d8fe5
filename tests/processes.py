"""The service as a process of its own."""

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx

from tests import ROOT
from tests.waiting import wait_until


@contextmanager
def start_process(checkpoints: Path, *arguments: str) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """`hyperdraw-serve`, ready, and its address; killed in the end if it still runs."""
    command = [sys.executable, "-m", "service", "--checkpoints", str(checkpoints), "--port", "0", *arguments]
    with TemporaryDirectory() as directory:
        log = Path(directory) / "log"
        with log.open("wb") as file:
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=file, cwd=ROOT)
        try:
            yield process, find_address(log, process)
        finally:
            process.kill()
            process.wait()


def find_address(log: Path, process: subprocess.Popen[bytes]) -> str:
    """The address that a service writes into its log when it is ready, which its process must live to see."""

    def read() -> re.Match[str] | None:
        return re.search(r"running on (http://\S+) ", log.read_text())

    wait_until(lambda: read() or process.poll() is not None)
    found = read()
    assert found, log.read_text()
    return found[1]


def await_ready(address: str) -> float:
    """Returns once a service is ready: the seconds that it took."""
    start = time.monotonic()

    def is_ready() -> bool:
        with suppress(httpx.TransportError):
            return httpx.get(f"{address}/readyz").status_code == 200
        return False

    wait_until(is_ready)
    return time.monotonic() - start
