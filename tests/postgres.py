"""A real server of PostgreSQL, from Debian's package, on a socket of its own."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from tempfile import mkdtemp

from tests.programs import find_program

USER = "nobody" if hasattr(os, "geteuid") and os.geteuid() == 0 else None
"""Who runs the server, which refuses to be run by root."""


class PostgresServer:
    """A running server."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._numbers = count(1)

    def create_database(self) -> str:
        """The URL of a new database."""
        name = f"feedback{next(self._numbers)}"
        run("createdb", "--host", str(self._folder), "--username", "tester", name)
        return f"postgresql://tester@/{name}?host={self._folder}"


@contextmanager
def serve_postgres() -> Iterator[PostgresServer]:
    """Starts a server in a folder that is removed in the end. Paths of sockets must be short."""
    folder = Path(mkdtemp(prefix="pg", dir="/tmp"))
    try:
        if USER:
            shutil.chown(folder, USER)
        data = str(folder / "data")
        run("initdb", "--pgdata", data, "--username", "tester", "--auth", "trust", "--no-sync", "--encoding", "UTF8")
        options = f"-c listen_addresses='' -c fsync=off -k {folder}"
        run("pg_ctl", "--pgdata", data, "--options", options, "--log", str(folder / "log"), "--wait", "start")
        try:
            yield PostgresServer(folder)
        finally:
            run("pg_ctl", "--pgdata", data, "--mode", "immediate", "stop")
    finally:
        shutil.rmtree(folder)


def run(program: str, *arguments: str) -> None:
    path = find_program(program)
    assert path
    ran = subprocess.run([path, *arguments], user=USER, cwd="/", capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stdout + ran.stderr
