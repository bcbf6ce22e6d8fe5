"""A server that a benchmark starts, asks and ends."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

from benchmarks.load import Ask
from service import SPIN_COUNT

ROOT = Path(__file__).parent.parent

STARTING_SECONDS = 120.0
"""That a server may take until it answers."""
STOPPING_SECONDS = 60.0
"""That it may take to stop."""


def find_free_port() -> int:
    """A port on which nobody listens at the moment."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


@contextmanager
def run_server(command: Sequence[str], variables: Mapping[str, str]) -> Iterator[int]:
    """Runs a server on a free port, and ends it and its children.

    Raises:
        TimeoutError: if it does not answer in time; with what it had to say.
    """
    port = find_free_port()
    inherited = {name: value for name, value in os.environ.items() if name != SPIN_COUNT}  # which each sets as it likes
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            [str(port) if word == "PORT" else word for word in command],
            env={**inherited, "PYTHONPATH": str(ROOT), **variables},
            cwd=ROOT,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        try:
            yield port
        except TimeoutError as error:
            output.seek(0)
            raise TimeoutError(f"{' '.join(command)} does not answer:\n{output.read().decode()}") from error
        finally:
            process.terminate()  # for some have children in sessions of their own, which they alone end
            with suppress(subprocess.TimeoutExpired):
                process.wait(STOPPING_SECONDS)
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


async def wait_for(ask: Ask) -> None:
    """Until the server has answered.

    Raises:
        TimeoutError: if it does not.
    """
    async with asyncio.timeout(STARTING_SECONDS):
        while True:
            try:
                return await ask()
            except (OSError, asyncio.IncompleteReadError, RuntimeError):
                await asyncio.sleep(0.5)


def make_command(directory: Path, device: torch.device) -> list[str]:
    """The command that serves a checkpoint, for `run_server`."""
    options = {"--checkpoints": directory, "--device": device, "--port": "PORT"}
    return [sys.executable, "-m", "service", *(str(word) for option in options.items() for word in option)]
