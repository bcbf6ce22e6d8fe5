"""Two replicas, behind nginx and on Ray Serve, each with half of the processors, against one process with all."""

import asyncio
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from benchmarks.load import Load, apply_load, connect
from benchmarks.report import Ratio
from benchmarks.servers import ROOT, find_free_port, make_command, run_server, wait_for
from benchmarks.serving import CLIENTS, IMAGE, SECONDS, ask_once, write_request

SETTINGS = ROOT / "deploy" / "nginx" / "nginx.conf"
UPSTREAM, LISTEN, LOCATION, PASSED = "server hyperdraw:8000", "listen 8000;", "location / ", "//hyperdraw;"
REPLICAS = 2


def find_nginx() -> str | None:
    """The path of nginx, if it is installed; users have not always its folder in their path."""
    return shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")


@contextmanager
def run_nginx(folder: Path, sockets: Sequence[Path], below: str = "") -> Iterator[int]:
    """Runs nginx with the shipped settings in front of services on Unix sockets; yields its port.

    Args:
        folder: a folder for its files, which all users may enter.
        sockets: the sockets.
        below: path below which it serves them, such as /ml.

    Raises:
        FileNotFoundError: if nginx is not installed.
    """
    program, port = find_nginx(), find_free_port()
    if program is None:
        raise FileNotFoundError("nginx is not installed: apt-get install nginx-light")
    settings = SETTINGS.read_text()
    (line,) = [line for line in settings.splitlines() if UPSTREAM in line]
    changes = {
        "/tmp/": f"{folder}/",  # noqa: S108  # what the settings name
        line: "\n".join(line.replace(UPSTREAM, f"server unix:{path}") for path in sockets),
        LISTEN: f"listen 127.0.0.1:{port};",
    }
    if below:
        changes |= {LOCATION: f"location {below}/ ", PASSED: "//hyperdraw/;"}
    for before, after in changes.items():
        assert before in settings
        settings = settings.replace(before, after)
    (folder / "nginx.conf").write_text(settings)
    user = "user root; " if os.geteuid() == 0 else ""  # who may open the sockets
    with run_server([program, "-c", str(folder / "nginx.conf"), "-g", f"{user}daemon off;"], {}):
        yield port


def measure_replicas(directory: Path, device: torch.device) -> Iterator[Ratio]:
    """Single images by 100 networks, by as many as each needs, and by one, which says what a proxy costs a request."""
    threads = max(1, (os.cpu_count() or 1) // REPLICAS)
    ways = {"": "", ", as many networks as needed": "?ensemble_size=auto", ", one network": "?ensemble_size=1"}
    for how, query in ways.items():
        path = f"/v1/models/{directory.name}/predict{query}"
        with run_server(make_command(directory, device), {}) as port:
            alone = asyncio.run(_measure(port, path))
        with TemporaryDirectory(prefix="hd") as name, ExitStack() as stack:
            folder = Path(name)
            sockets = [folder / f"{number}.sock" for number in range(REPLICAS)]
            for socket in sockets:
                command = [*make_command(directory, device), "--socket", str(socket), "--threads", str(threads)]
                stack.enter_context(run_server(command, {}))
            together = {"": asyncio.run(_measure(stack.enter_context(run_nginx(folder, sockets)), path))}
        if find_spec("ray"):
            from benchmarks.ray_cluster import run_ray  # needs what Ray brings

            with run_ray(directory) as cluster:
                together[", on Ray"] = asyncio.run(_measure(cluster.port, path))
        for place, loads in together.items():
            for clients in CLIENTS:
                we, one, case = loads[clients], alone[clients], f"{clients} clients{how}{place}"
                more = we.throughput / one.throughput
                yield Ratio("replicas", case, more, "answers a second of one", 1 / we.throughput)
                longer = we.quantile(0.5) / one.quantile(0.5)
                yield Ratio("replicas", case, longer, "p50 of one", we.quantile(0.5), True)


async def _measure(port: int, path: str) -> dict[int, Load]:
    body = write_request(IMAGE.read_bytes())
    await wait_for(lambda: ask_once(port, path, body))
    await asyncio.sleep(2)  # until all replicas are ready
    return {clients: await apply_load(lambda: connect(port, path, body), clients, SECONDS) for clients in CLIENTS}
