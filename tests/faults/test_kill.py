"""SIGKILL in the middle of work, under the compose deployment: `docker compose up -d`, then `make faults`.

The host must be this machine, as the process is killed from outside of its container, which is no order to stop it.
"""

import hashlib
import os
import random
import shutil
import signal
import subprocess
import threading
import time
from contextlib import suppress

import httpx
import pytest

from tests import ROOT
from tests.faults.conftest import IMAGE, MODEL, PREDICT, WEIGHTS, report
from tests.processes import await_ready

DOCKER = shutil.which("docker")
ADDRESS = f"http://127.0.0.1:{os.environ.get('HYPERDRAW_PORT', '8000')}"
KILLS = 5


def run_docker(*arguments: str) -> str:
    assert DOCKER is not None
    done = subprocess.run([DOCKER, *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture(autouse=True)
def container() -> str:
    """The running service's container."""
    try:
        found = run_docker("ps", "--quiet", "--filter", "label=com.docker.compose.service=hyperdraw") if DOCKER else ""
    except subprocess.CalledProcessError:
        found = ""
    if not found:
        pytest.skip("the compose deployment does not run: docker compose up -d")
    await_ready(ADDRESS)
    return found


def kill(container: str) -> None:
    os.kill(int(run_docker("inspect", "--format", "{{.State.Pid}}", container)), signal.SIGKILL)


def predict() -> list[float]:
    answer = httpx.post(ADDRESS + PREDICT, params={"seed": "7"}, content=IMAGE, timeout=60).raise_for_status().json()
    probabilities: list[float] = answer["predictions"][0]["probabilities"]
    return probabilities


def test_a_download_goes_on_after_a_kill_in_its_middle(container: str) -> None:
    version = httpx.get(f"{ADDRESS}/v1/models/{MODEL}").json()["version"]
    parameters = {"seed": "7", "count": "200", "version": version}
    with httpx.stream("GET", ADDRESS + WEIGHTS, params=parameters, timeout=60) as whole:
        expected, etag = hashlib.sha256(), whole.headers["etag"]
        for part in whole.iter_bytes():
            expected.update(part)
        length = int(whole.headers["content-length"])

    content = bytearray()
    kills, back = 0, []
    while len(content) < length:
        headers = {"Range": f"bytes={len(content)}-", "If-Range": etag}
        with (
            suppress(httpx.TransportError),
            httpx.stream("GET", ADDRESS + WEIGHTS, params=parameters, headers=headers, timeout=60) as rest,
        ):
            assert rest.status_code == 206
            stop_at = random.randrange(length // 10, length // 4)
            got = 0
            for part in rest.iter_raw():
                content += part
                got += len(part)
                if kills < KILLS and got >= stop_at:
                    kills += 1
                    kill(container)
                    break
        back.append(await_ready(ADDRESS))
    report(what="kill in mid-stream", kills=kills, back_after_s=max(back), mebibytes=length / 2**20)
    assert kills >= 3
    assert hashlib.sha256(content).digest() == expected.digest()


def test_the_service_comes_back_after_a_kill_in_mid_reload(container: str) -> None:
    before = predict()
    back = []
    for number in range(KILLS):

        def reload() -> None:
            with suppress(httpx.TransportError):
                httpx.post(f"{ADDRESS}/v1/models/{MODEL}:reload", timeout=60)

        reloading = threading.Thread(target=reload)
        reloading.start()
        time.sleep(0.02 * number)
        kill(container)
        reloading.join()
        back.append(await_ready(ADDRESS))
        assert predict() == pytest.approx(before, abs=1e-6)
    report(what="kill in mid-reload", kills=KILLS, back_after_s=max(back))
