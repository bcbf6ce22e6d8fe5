"""The service on Ray Serve, on a cluster of one machine, with the shipped configuration."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import yaml

from benchmarks.servers import ROOT, find_free_port

CONFIG = ROOT / "deploy" / "ray" / "config.yaml"
PROGRAMS = Path(sys.executable).parent
REPLICAS = 2
"""The least that the configuration allows."""
PATIENCE = 120.0
"""Seconds within which all replicas answer."""


@dataclass(frozen=True)
class RayCluster:
    """Ray on this machine."""

    folder: Path
    """Folder of its files."""
    gcs: int
    """The port for `serve`."""
    port: int
    """The port of its proxy."""
    config: dict[str, Any]
    """The configuration of Ray Serve."""

    @property
    def variables(self) -> dict[str, str]:
        """The variables of the replicas."""
        variables: dict[str, str] = self.config["applications"][0]["runtime_env"]["env_vars"]
        return variables

    def deploy(self) -> None:
        """Starts replicas, or replaces those that run, and waits until all answer.

        Raises:
            subprocess.SubprocessError: if Ray does not take the configuration.
            TimeoutError: if the replicas do not answer.
        """
        before, file = set(find_replicas()), self.folder / "config.yaml"
        self.variables["DEPLOYED"] = str(time.time())  # or nothing would have changed
        file.write_text(yaml.safe_dump(self.config))
        run: list[str | Path] = [PROGRAMS / "serve", "run", "--non-blocking", f"--address=127.0.0.1:{self.gcs}", file]
        subprocess.run(run, cwd=ROOT, check=True, timeout=PATIENCE, capture_output=True)
        deadline = time.monotonic() + PATIENCE
        while before & set(find_replicas()) or len(ask_replicas(self.port)) < REPLICAS:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{REPLICAS} replicas have not answered within {PATIENCE:g} s")
            time.sleep(0.5)


@contextmanager
def run_ray(checkpoints: Path) -> Iterator[RayCluster]:
    """Starts Ray and two replicas, and ends all of their processes afterwards.

    Args:
        checkpoints: what they serve: a checkpoint, or a directory of several.

    Raises:
        subprocess.SubprocessError, TimeoutError: as `RayCluster.deploy`.
    """
    gcs, port = find_free_port(), find_free_port()
    config = yaml.safe_load(CONFIG.read_text())
    config["http_options"]["port"] = port
    scaling = config["applications"][0]["deployments"][0]["autoscaling_config"]
    scaling["max_replicas"] = REPLICAS  # or an update would wait for processors that replicas are added for
    with TemporaryDirectory(prefix="ray") as folder:
        cluster = RayCluster(Path(folder), gcs, port, config)
        cluster.variables["HYPERDRAW_CHECKPOINTS"] = str(checkpoints)
        if checkpoints.name != "checkpoints":
            del cluster.variables["HYPERDRAW_DEFAULT_MODEL"]
        start = [str(PROGRAMS / "ray"), "start", "--head", "--block", "--node-ip-address=127.0.0.1", f"--port={gcs}"]
        sizes = [f"--num-cpus={REPLICAS}", "--object-store-memory=100000000", f"--temp-dir={folder}"]
        quiet = ["--include-dashboard=false", "--disable-usage-stats"]
        head = subprocess.Popen([*start, *sizes, *quiet], cwd=ROOT, stdout=subprocess.DEVNULL, start_new_session=True)
        try:
            cluster.deploy()
            yield cluster
        finally:
            os.killpg(head.pid, signal.SIGKILL)  # or it would wait for half a minute
            head.wait()
            while find_replicas():
                time.sleep(0.1)


def find_replicas() -> list[int]:
    """Numbers of the processes that are replicas."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if path.read_bytes().startswith(b"ray::ServeReplica:hyperdraw:"):
                found.append(int(path.parent.name))
    return found


def ask_replicas(port: int, metric: str = "hyperdraw_waiting_cost") -> dict[str, float]:
    """A metric of each replica that answers one of some requests, by the time since which it counts.

    The process's own start is known to a hundredth of a second, so two replicas may share it.
    """
    found = {}
    for _ in range(12):
        with suppress(httpx.TransportError):
            text = httpx.get(f"http://127.0.0.1:{port}/metrics").text
            if start := re.search(r"^hyperdraw_batch_requests_created (\S+)", text, re.M):
                values = re.findall(rf"^{metric}(?:{{.*}})? (\S+)", text, re.M)
                found[start[1]] = sum(map(float, values))
    return found
