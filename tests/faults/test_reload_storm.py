"""Models that change all the time."""

import shutil
import threading
import time
from pathlib import Path

import httpx

from models.checkpoint import load_checkpoint, save_checkpoint
from tests import ROOT
from tests.faults.conftest import IMAGE, MODEL, PREDICT, SECONDS, WEIGHTS, report, start_service


def find_p99(seconds: list[float]) -> float:
    return sorted(seconds)[int(len(seconds) * 0.99)]


def test_reloads_under_load(tmp_path: Path) -> None:
    """Every answer is one version's own, no request fails, readiness never drops, and memory does not grow."""
    versions = [tmp_path / "versions" / name / MODEL for name in ("a", "b")]
    for directory in versions:
        shutil.copytree(ROOT / "checkpoints" / MODEL, directory)
    checkpoint = load_checkpoint(versions[1])
    for parameter in checkpoint.sampler.parameters():
        parameter.mul_(1.01)
    save_checkpoint(versions[1], checkpoint.config, checkpoint.sampler, "float32")
    served = tmp_path / "served"
    served.mkdir()
    link = served / MODEL
    link.symlink_to(versions[0])

    with start_service(checkpoints=served) as service:
        stop = threading.Event()
        failures: list[str] = []
        said: dict[str, set[float]] = {}
        counts = {"predictions": 0, "downloads": 0, "readiness": 0}
        seconds: list[float] = []
        """Of predictions."""

        def ask_on(what: str) -> None:
            with httpx.Client(base_url=service.address, timeout=60) as client:
                while not stop.is_set():
                    try:
                        if what == "predictions":
                            start = time.monotonic()
                            answer = client.post(PREDICT, params={"seed": "7"}, content=IMAGE).raise_for_status().json()
                            seconds.append(time.monotonic() - start)
                            entropy = answer["predictions"][0]["uncertainty"]["predictive_entropy"]
                            said.setdefault(answer["model"]["version"], set()).add(round(entropy, 4))
                        elif what == "downloads":
                            client.get(WEIGHTS, params={"seed": "7", "count": "50"}).raise_for_status()
                        else:
                            client.get("/readyz").raise_for_status()
                        counts[what] += 1
                    except httpx.HTTPError as error:
                        failures.append(f"{what}: {error!r}")

        threads = [threading.Thread(target=ask_on, args=[what]) for what in [*counts, "predictions", "predictions"]]
        for thread in threads:
            thread.start()
        time.sleep(SECONDS / 4)
        calm, calm_count = find_p99(seconds), len(seconds)
        memory, reloads, times = [], 0, []
        end = time.monotonic() + SECONDS / 2
        while time.monotonic() < end:
            reloads += 1
            replacement = served / ".next"
            replacement.symlink_to(versions[reloads % 2])
            replacement.replace(link)
            start = time.monotonic()
            answer = httpx.post(f"{service.address}/v1/models/{MODEL}:reload", timeout=60).json()
            times.append(time.monotonic() - start)
            if not answer.get("changed"):
                failures.append(f"reload: {answer}")
            memory.append(service.read_memory())
        stop.set()
        for thread in threads:
            thread.join()
        half = memory[len(memory) // 2 :]
        report(
            what="reload storm",
            reloads=reloads,
            reload_p50_s=sorted(times)[len(times) // 2],
            calm_p99_s=calm,
            storm_p99_s=find_p99(seconds[calm_count:]),
            **counts,
            failures=len(failures),
            memory_mib=[round(half[0]), round(half[-1]), round(max(half))],
        )
        assert failures == []
        assert len(said) == 2
        assert all(len(entropies) == 1 for entropies in said.values())
        assert half[-1] < 1.1 * half[0] + 50
