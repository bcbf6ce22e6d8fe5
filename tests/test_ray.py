"""The service on Ray Serve, with two replicas: `make check-ray`."""

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import hyperdraw
import kubernetes_validate
import numpy as np
import pandas as pd
import pytest
import yaml

from benchmarks.ray_cluster import ask_replicas, find_replicas, run_ray
from service.settings import Settings
from tests import ROOT
from tests.waiting import wait_until

RAY = ROOT / "deploy" / "ray"
PICTURE = ROOT / "service" / "static" / "examples" / "seven.png"
MODEL = "mnist-hyperdraw"
WEIGHTS = f"v1/models/{MODEL}/weights?seed=7&count=8"

pytestmark = [
    pytest.mark.ray,
    pytest.mark.timeout(300),
    pytest.mark.filterwarnings("ignore:Using extra keyword arguments on `Field`"),  # Ray does
]


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with run_ray(ROOT / "checkpoints") as cluster:
        yield cluster.port


@pytest.fixture
def address(port: int) -> str:
    return f"http://127.0.0.1:{port}"


def test_both_replicas_give_the_same_answers(port: int, address: str) -> None:
    with hyperdraw.Client(address) as client:
        answers = [client.predict([PICTURE], model=MODEL, seed=3) for _ in range(16)]
    assert len(ask_replicas(port)) == 2
    probabilities = np.stack(
        [answer.probabilities for answer in answers if isinstance(answer, hyperdraw.Classification)]
    )
    assert probabilities.shape == (16, 1, 10)
    assert (probabilities == probabilities[0]).all()
    assert probabilities[0, 0].argmax() == 7
    assert len({httpx.get(f"{address}/{WEIGHTS}").content for _ in range(8)}) == 1


def test_a_download_goes_on_at_another_replica(address: str) -> None:
    whole = httpx.get(f"{address}/{WEIGHTS}")
    size, tag = len(whole.content), whole.headers["ETag"]
    assert int(whole.headers["Content-Length"]) == size
    parts = []
    for i in range(12):
        wanted = {"Range": f"bytes={i * size // 12}-{(i + 1) * size // 12 - 1}", "If-Range": tag}
        part = httpx.get(f"{address}/{WEIGHTS}", headers=wanted)
        assert part.status_code == 206
        parts.append(part.content)
    assert b"".join(parts) == whole.content


def test_the_work_of_a_client_that_leaves_is_dropped(port: int, address: str) -> None:
    files = [("images", ("seven.png", PICTURE.read_bytes(), "image/png"))] * 200

    def leave() -> None:
        with suppress(httpx.ReadTimeout):  # some may be refused, as so much waits
            httpx.post(f"{address}/v1/models/{MODEL}/predict?ensemble_size=1000", files=files, timeout=3)

    clients = [threading.Thread(target=leave) for _ in range(10)]
    for client in clients:
        client.start()
    wait_until(lambda: sum(ask_replicas(port).values()) > 0)
    for client in clients:
        client.join()
    wait_until(lambda: set(ask_replicas(port).values()) == {0.0})
    assert sum(ask_replicas(port, "hyperdraw_cancelled_requests_total").values()) >= 2


def test_a_killed_replica_loses_no_more_than_what_it_was_answering(port: int, address: str) -> None:
    statuses: Counter[int] = Counter()
    stop = threading.Event()
    image = PICTURE.read_bytes()

    def ask() -> None:
        with httpx.Client(base_url=address, timeout=60) as client:
            while not stop.is_set():
                answer = client.post(f"/v1/models/{MODEL}/predict", files={"images": ("seven.png", image, "image/png")})
                statuses[answer.status_code] += 1

    clients = [threading.Thread(target=ask) for _ in range(4)]
    for client in clients:
        client.start()
    wait_until(lambda: statuses[200] >= 20)
    killed, _ = find_replicas()
    os.kill(killed, signal.SIGKILL)
    before = statuses[200]
    wait_until(lambda: statuses[200] >= before + 20)
    wait_until(lambda: killed not in (own := find_replicas()) and len(own) == 2 and len(ask_replicas(port)) == 2)
    stop.set()
    for client in clients:
        client.join()
    assert statuses.keys() <= {200, 500}
    assert statuses[500] <= len(clients)


def test_a_folder_of_images_is_predicted(address: str, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(100):
        shutil.copy(PICTURE, folder / f"{number}.png")
    program = [sys.executable, str(RAY / "predict_files.py"), str(folder), str(tmp_path / "answers")]
    variables = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}
    subprocess.run([*program, "--model", MODEL, "--url", address], check=True, env=variables, timeout=150)
    answers = pd.read_parquet(tmp_path / "answers")
    assert sorted(answers["path"]) == sorted(str(path) for path in folder.iterdir())
    assert set(answers["label"]) == {"7"}
    assert not answers["out_of_distribution"].any()


@pytest.mark.parametrize(("waiting", "replicas"), [({}, 2), ({"a": 30_000.0, "b": 30_001.0}, 4), ({"a": 1e9}, 8)])
def test_replicas_follow_the_waiting_work(waiting: dict[str, float], replicas: int) -> None:
    from service.ray_serve import WAITING_COST, scale

    context: Any = SimpleNamespace(
        aggregated_metrics={WAITING_COST: waiting}, capacity_adjusted_min_replicas=2, capacity_adjusted_max_replicas=8
    )
    assert scale(context) == (replicas, {})


def test_the_manifest_deploys_what_the_configuration_does() -> None:
    from ray.serve.schema import ServeDeploySchema

    manifest = yaml.safe_load((RAY / "ray_service.yaml").read_text())["spec"]
    configurations = [yaml.safe_load((RAY / "config.yaml").read_text()), yaml.safe_load(manifest["serveConfigV2"])]
    for configuration in configurations:
        (application,) = ServeDeploySchema.model_validate(configuration).applications
        known = {f"HYPERDRAW_{name.upper()}" for name in Settings.model_fields}
        assert application.runtime_env["env_vars"].keys() <= known
    ours, theirs = (configuration["applications"][0] for configuration in configurations)
    for application in (ours, theirs):
        del application["runtime_env"]
        del application["deployments"][0]["ray_actor_options"]
    assert ours == theirs
    cluster = manifest["rayClusterConfig"]
    assert cluster["rayVersion"] == version("ray")
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "ray"}, **group["template"]}
        kubernetes_validate.validate(pod, "1.30", strict=True)
