"""Models that are replaced while they are served, over HTTP."""

import re
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from safetensors.torch import load

from service.app import create_app
from service.catalog import Catalog
from service.engine.engine import Engine
from service.settings import Settings
from tests.checkpoints import renew
from tests.conftest import serve
from tests.pictures import draw_image, encode
from tests.waiting import PATIENCE, wait_until

PICTURE: dict[str, Any] = {"content": encode(draw_image(size=(8, 8))), "headers": {"Content-Type": "image/png"}}


def test_reload_serves_what_is_there_now(store: Path) -> None:
    with (
        serve(create_app(Settings(checkpoints=store))) as address,
        httpx.Client(base_url=address) as client,
    ):
        before = client.get("/v1/models/digits").json()["version"]
        first = client.post("/v1/models/digits:reload").json()
        assert first == {"model": {"name": "digits", "version": before, "method": "hypergan"}, "changed": False}
        version = renew(store / "digits")
        assert client.get("/v1/models/digits").json()["version"] == before  # nobody has asked
        second = client.post("/v1/models/digits:reload").json()
        assert second == {"model": {"name": "digits", "version": version, "method": "hypergan"}, "changed": True}
        assert client.get("/v1/models/digits").json()["version"] == version
        assert client.post("/v1/models/digits/predict", **PICTURE).json()["model"]["version"] == version
        assert client.get("/v1/models/digits/weights", params={"version": before}).status_code == 404

        shutil.copytree(store / "digits", store / "another")
        assert client.get("/v1/models/another").status_code == 404
        assert client.post("/v1/models/another:reload").json()["changed"]
        listed = client.get("/v1/models").json()
        assert (listed["default"], [model["name"] for model in listed["models"]]) == ("digits", ["digits", "another"])


def test_a_failed_reload_changes_nothing_and_says_why(store: Path) -> None:
    with (
        serve(create_app(Settings(checkpoints=store))) as address,
        httpx.Client(base_url=address) as client,
    ):
        before = client.get("/v1/models/digits").json()
        good = (store / "digits" / "model.safetensors").read_bytes()
        (store / "digits" / "model.safetensors").write_bytes(good[:-1])
        response = client.post("/v1/models/digits:reload")
        assert response.status_code == 409
        assert response.json()["error"]["code"] == "reload_failed"
        assert "model.safetensors: its SHA-256" in response.json()["error"]["message"]
        assert str(store) not in response.text
        assert client.get("/v1/models/digits").json() == before
        assert client.get("/v1/models").json()["refused"] == []
        assert client.post("/v1/models/digits/predict", **PICTURE).status_code == 200
        assert client.get("/readyz").status_code == 200
        (store / "digits" / "model.safetensors").write_bytes(good)
        assert client.post("/v1/models/digits:reload").json()["changed"] is False


@pytest.mark.parametrize("name", ["no", "..", ".hidden", "..%2Fdigits", "%2e%2e%2fdigits", "digits%00", "a" * 5000])
def test_only_checkpoints_of_the_directory_can_be_loaded(store: Path, name: str) -> None:
    shutil.copytree(store / "digits", store / "models" / "digits")
    shutil.copytree(store / "digits", store / "models" / ".hidden")
    with serve(create_app(Settings(checkpoints=store / "models"))) as address:
        response = httpx.post(f"{address}/v1/models/{name}:reload")
        assert response.status_code == 404
        assert set(response.json()) == {"error"}
        assert [model["name"] for model in httpx.get(f"{address}/v1/models").json()["models"]] == ["digits"]


def test_a_download_ends_with_the_version_that_it_began_with(store: Path) -> None:
    app = create_app(Settings(checkpoints=store))
    with serve(app) as address, httpx.Client(base_url=address) as client:
        parameters = {"seed": "7", "count": "1000"}  # more than connections hold
        whole = client.get("/v1/models/digits/weights", params=parameters).content
        with client.stream("GET", "/v1/models/digits/weights", params=parameters) as stream:
            parts = stream.iter_bytes(2**16)
            content = next(parts)
            renew(store / "digits")
            assert client.post("/v1/models/digits:reload").json()["changed"]
            content += b"".join(parts)
        assert content == whole
        later = client.get("/v1/models/digits/weights", params=parameters).content
        assert load(later)["linear1.bias"].shape == load(whole)["linear1.bias"].shape
        assert later != whole


def test_changes_are_watched_for(store: Path, caplog: pytest.LogCaptureFixture) -> None:
    app = create_app(Settings(checkpoints=store, watch=0.05))
    catalog: Catalog = app.state.catalog
    with serve(app) as address:

        def names() -> list[str]:
            return [model["name"] for model in httpx.get(f"{address}/v1/models").json()["models"]]

        shutil.copytree(store / "digits", store / ".new")
        (store / ".new").rename(store / "second")
        wait_until(lambda: names() == ["digits", "second"])
        version = renew(store / "second")
        wait_until(lambda: catalog.resolve("second").version == version)
        (store / "second" / "model.safetensors").write_bytes(b"damaged")
        wait_until(lambda: "second is refused" in caplog.text)
        assert catalog.resolve("second").version == version
        shutil.rmtree(store / "second")
        wait_until(lambda: names() == ["digits"])
        shutil.rmtree(store / "digits")
        wait_until(lambda: "contains no checkpoints any more" in caplog.text)
        assert names() == ["digits"]  # an empty directory is more likely a mistake than a wish
        assert httpx.post(f"{address}/v1/models/digits/predict", **PICTURE).status_code == 200
        assert httpx.get(f"{address}/readyz").status_code == 200


def test_a_storm_of_reloads_fails_no_request(store: Path) -> None:
    """Two versions take turns, as fast as they can be loaded, while clients ask; every answer is one version's own."""
    other = store / "other"
    shutil.copytree(store / "digits", other)
    renew(other)
    app = create_app(Settings(checkpoints=store / "digits"))
    stop = threading.Event()
    answers: dict[str, list[float]] = {}
    counts = [0] * 4

    with serve(app) as address, ThreadPoolExecutor() as pool:

        def ask(number: int) -> None:
            with httpx.Client(base_url=address) as client:
                while not stop.is_set():
                    response = client.post("/v1/models/digits/predict?seed=7&ensemble_size=20", **PICTURE)
                    assert response.status_code == 200, response.text
                    assert client.get("/readyz").status_code == 200
                    answer = response.json()
                    said = answer["predictions"][0]["probabilities"]
                    assert said == pytest.approx(answers.setdefault(answer["model"]["version"], said), abs=1e-6)
                    counts[number] += 1

        clients = [pool.submit(ask, number) for number in range(4)]
        reloads = 0
        first = shutil.copytree(store / "digits", store / "first")

        def reload() -> bool:
            """Whether all has been seen: many reloads, both versions, and clients who were answered meanwhile."""
            nonlocal reloads
            source = first if reloads % 2 else other
            for name in ("model.safetensors", "calibration.json", "config.json"):
                if (source / name).exists():
                    shutil.copy(source / name, store / "digits" / name)
                else:
                    (store / "digits" / name).unlink(missing_ok=True)
            assert httpx.post(f"{address}/v1/models/digits:reload").json()["changed"]
            reloads += 1
            return any(client.done() for client in clients) or (reloads > 5 and len(answers) == 2 and min(counts) > 2)

        try:
            wait_until(reload)
        finally:
            stop.set()
        for client in clients:
            client.result()


def test_what_is_watched_for_is_loaded_though_the_queue_is_full(store: Path) -> None:
    app = create_app(Settings(checkpoints=store, watch=0.05, max_queue=1))
    catalog: Catalog = app.state.catalog
    images = torch.zeros(256, 1, 8, 8, dtype=torch.uint8)
    with serve(app) as address:
        endless = app.state.engine.predict(catalog.resolve("digits"), images, 7, 100_000)
        assert httpx.post(f"{address}/v1/models/digits/predict", **PICTURE).status_code == 429
        version = renew(store / "digits")
        shutil.copytree(store / "digits", store / "second")
        wait_until(lambda: catalog.resolve("digits").version == version and len(list(catalog)) == 2)
        assert httpx.post(f"{address}/v1/models/digits:reload").status_code == 200
        assert endless.cancel()


def test_many_reloads_take_no_threads_from_others(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app = create_app(Settings(checkpoints=store))
    go_on, load = threading.Event(), Engine.load

    def load_late(engine: Engine, *arguments: Any) -> Any:
        assert go_on.wait(PATIENCE)
        return load(engine, *arguments)

    monkeypatch.setattr(Engine, "load", load_late)
    with serve(app) as address, ThreadPoolExecutor(60) as pool:
        before = threading.active_count()
        reloads = [pool.submit(httpx.post, f"{address}/v1/models/digits:reload") for _ in range(60)]
        wait_until(lambda: "\nhyperdraw_active_requests 61.0\n" in httpx.get(f"{address}/metrics").text)
        assert not any(future.done() for future in reloads)
        assert threading.active_count() < before + 60 + 20
        answers = [httpx.post(f"{address}/v1/models/digits/predict", **PICTURE) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [200] * 3
        go_on.set()
        assert {future.result(PATIENCE).status_code for future in reloads} == {200}


def test_a_load_that_does_not_end_is_told_and_keeps_nobody_from_stopping(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(store / "digits", store / "other")
    app = create_app(Settings(checkpoints=store, drain_timeout=1))
    go_on, ended = threading.Event(), threading.Event()

    def load(*_: object) -> None:
        go_on.wait(PATIENCE)
        ended.set()

    monkeypatch.setattr(Engine, "load", load)
    with ThreadPoolExecutor() as pool:
        with serve(app) as address:
            waiting = [pool.submit(httpx.post, f"{address}/v1/models/{name}:reload") for name in ("digits", "other")]
            wait_until(lambda: app.state.catalog.load_seconds > 0.1)
            metrics = httpx.get(f"{address}/metrics").text
            told = re.search(r"^hyperdraw_current_load_seconds (.*)$", metrics, re.MULTILINE)
            assert told
            assert 0.1 < float(told[1]) <= app.state.catalog.load_seconds
        assert not ended.is_set()
        go_on.set()
        assert all(future.exception() or future.result().status_code >= 500 for future in waiting)
