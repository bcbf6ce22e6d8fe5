"""A real nginx, from Debian's package, with the shipped settings."""

import os
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests import ROOT
from tests.programs import find_program
from tests.waiting import wait_until

UPSTREAM, LISTEN, LOCATION = "server hyperdraw:8000", "listen 8000;", "location /"
PASSED = "proxy_pass http://hyperdraw;"


@contextmanager
def serve_nginx(folder: Path, sockets: Sequence[Path], below: str) -> Iterator[str]:
    """Starts nginx in front of Unix sockets; yields the address of the service.

    Args:
        folder: an empty folder for its files.
        sockets: the sockets of the replicas.
        below: path below which it serves them, such as /ml.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    settings = (ROOT / "deploy" / "nginx" / "nginx.conf").read_text()
    (line,) = [line for line in settings.splitlines() if UPSTREAM in line]
    upstreams = "\n".join(line.replace(UPSTREAM, f"server unix:{path}") for path in sockets)
    changes = {
        "/tmp/": f"{folder}/",
        line: upstreams,
        LISTEN: f"listen 127.0.0.1:{port};",
        f"{LOCATION} ": f"location {below}/ ",
        PASSED: "proxy_pass http://hyperdraw/;",
    }
    for before, after in changes.items():
        assert before in settings
        settings = settings.replace(before, after)
    file = folder / "nginx.conf"
    file.write_text(settings)
    program = find_program("nginx")
    assert program
    user = "user root; " if os.geteuid() == 0 else ""  # who may read the sockets
    with subprocess.Popen([program, "-c", file, "-g", f"{user}daemon off;"], stderr=subprocess.DEVNULL) as nginx:
        try:
            wait_until(lambda: (folder / "nginx.pid").exists() or nginx.poll() is not None)
            assert nginx.poll() is None
            yield f"http://127.0.0.1:{port}{below}"
        finally:
            nginx.terminate()
