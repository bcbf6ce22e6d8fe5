"""A real nginx, from Debian's package, with the shipped settings."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from socket import create_connection

from benchmarks.replicas import run_nginx
from tests.waiting import wait_until


@contextmanager
def serve_nginx(folder: Path, sockets: Sequence[Path], below: str) -> Iterator[str]:
    """Starts nginx in front of Unix sockets, below a path; yields the address of the service."""
    with run_nginx(folder, sockets, below) as port:

        def listens() -> bool:
            with suppress(OSError), create_connection(("127.0.0.1", port), 1):
                return True
            return False

        wait_until(listens)
        yield f"http://127.0.0.1:{port}{below}"
