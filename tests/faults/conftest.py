"""What takes minutes, and one command: `make faults`."""

import json
import math
import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests import ROOT
from tests.processes import start_process

MODEL = "mnist-hyperdraw"
PREDICT = f"/v1/models/{MODEL}/predict"
WEIGHTS = f"/v1/models/{MODEL}/weights"
IMAGE = (ROOT / "service" / "static" / "examples" / "seven.png").read_bytes()
PNG = {"Content-Type": "image/png"}
SECONDS = float(os.environ.get("FAULT_SECONDS", "120"))
"""That a load lasts."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "faults" in item.path.parts:
            item.add_marker("fault")
            item.add_marker(pytest.mark.timeout(1800))


def report(**figures: Any) -> None:
    """Prints what was measured, as a line of JSON, for `pytest -s`."""
    print("\n" + json.dumps({name: round(f, 4) if isinstance(f, float) else f for name, f in figures.items()}))


@dataclass
class Service:
    """The service as a process of its own."""

    process: subprocess.Popen[bytes]
    address: str

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2])

    def read_memory(self) -> float:
        """Resident memory, with that of the processes that decode, MiB."""
        return sum(_read_status(pid, "VmRSS") for pid in self._list_pids()) / 1024

    def read_cpu_seconds(self) -> float:
        """That the process has computed for, with those that decode, also those that have ended."""
        ticks = [int(tick) for tick in self._read_stat(self.process.pid)[11:15]]
        for pid in self._list_pids()[1:]:
            ticks += [int(tick) for tick in self._read_stat(pid)[11:13]]
        return sum(ticks) / os.sysconf("SC_CLK_TCK")

    def _list_pids(self) -> list[int]:
        """Its own, and its children's."""
        children = []
        for path in Path("/proc").iterdir():
            with suppress(OSError):
                if path.name.isdecimal() and int(self._read_stat(int(path.name))[1]) == self.process.pid:
                    children.append(int(path.name))
        return [self.process.pid, *children]

    @staticmethod
    def _read_stat(pid: int) -> list[str]:
        """Fields of the process's stat from the third on."""
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def _read_status(pid: int, field: str) -> int:
    with suppress(OSError, IndexError):  # it may have ended, and then has no memory
        return int(Path(f"/proc/{pid}/status").read_text().split(f"{field}:")[1].split()[0])
    return 0


@contextmanager
def start_service(*arguments: str, checkpoints: Path = ROOT / "checkpoints") -> Iterator[Service]:
    """A service, until it is ready; it must not have ended by itself in the end."""
    with start_process(checkpoints, *arguments) as (process, address):
        yield Service(process, address)
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) in (0, -signal.SIGTERM)


def fit_slope(values: Sequence[float], blocks: int = 10) -> tuple[float, float]:
    """The slope of a series, per step, and its t statistic.

    Neighbours are alike, so means of blocks are fitted, which are nearly independent; their residuals say how far a
    slope of nothing would be off by chance.
    """
    length = len(values) // blocks
    means = [sum(values[i * length : (i + 1) * length]) / length for i in range(blocks)]
    positions = [i - (blocks - 1) / 2 for i in range(blocks)]
    spread = sum(x * x for x in positions)
    center = sum(means) / blocks
    slope = sum(x * y for x, y in zip(positions, means, strict=True)) / spread
    squares = sum((y - center - slope * x) ** 2 for x, y in zip(positions, means, strict=True))
    error = math.sqrt(squares / (blocks - 2) / spread)
    return slope / length, slope / error if error else math.inf if slope else 0.0
