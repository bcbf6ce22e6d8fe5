"""A real server of Redis, from Debian's package."""

import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.programs import find_program
from tests.waiting import wait_until


@contextmanager
def serve_redis(folder: Path, port: int) -> Iterator[str]:
    """Starts a server that keeps nothing on disk; yields its address."""
    program = find_program("redis-server")
    assert program
    command = [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as server:
        try:
            wait_until(lambda: _listens(port) or server.poll() is not None)
            assert server.poll() is None
            yield f"redis://127.0.0.1:{port}"
        finally:
            server.kill()


def _listens(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False
