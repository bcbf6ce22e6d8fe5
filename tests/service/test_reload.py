import errno
import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import torch
from safetensors.torch import load

import models.foreign_files
import service.catalog
import service.engine.engine
from models.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from models.device import is_out_of_memory
from models.model import Model
from service.app import create_app
from service.catalog import Catalog, ConfigurationError, count_bytes
from service.engine.engine import Engine
from service.errors import ServiceError
from service.settings import Settings
from tests.conftest import serve
from tests.pictures import draw_image, encode

PICTURE: dict[str, Any] = {"content": encode(draw_image(size=(8, 8))), "headers": {"Content-Type": "image/png"}}


@pytest.fixture
def store(checkpoints: Path, tmp_path: Path) -> Path:
    """A directory with a copy of the checkpoint, to be changed."""
    shutil.copytree(checkpoints / "digits", tmp_path / "digits")
    return tmp_path


@pytest.fixture
def engine() -> Iterator[Engine]:
    engine = Engine(torch.device("cpu"))
    yield engine
    engine.close()


def change(directory: Path) -> str:
    """Writes another version of a checkpoint, as training does; its version."""
    checkpoint = load_checkpoint(directory)
    for parameter in checkpoint.sampler.parameters():
        parameter.mul_(1.001)
    save_checkpoint(directory, checkpoint.config, checkpoint.sampler, "float32")
    changed = load_checkpoint(directory)
    assert changed.version != checkpoint.version
    return changed.version


def wait_until(condition: Callable[[], Any]) -> None:
    start = time.monotonic()
    while not condition():
        assert time.monotonic() < start + 20
        time.sleep(0.01)


def test_reload_serves_what_is_there_now(store: Path) -> None:
    with (
        serve(create_app(Settings(checkpoints=store))) as address,
        httpx.Client(base_url=address, timeout=60) as client,
    ):
        before = client.get("/v1/models/digits").json()["version"]
        first = client.post("/v1/models/digits:reload").json()
        assert first == {"model": {"name": "digits", "version": before, "method": "hypergan"}, "changed": False}
        version = change(store / "digits")
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
        httpx.Client(base_url=address, timeout=60) as client,
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


def test_requests_are_answered_by_the_version_that_they_began_with(store: Path, engine: Engine) -> None:
    catalog = Catalog(store, engine, None)
    old = catalog.resolve("digits")
    images = torch.zeros(200, 1, 8, 8, dtype=torch.uint8)
    alone = engine.predict(old, images[:1], 7, 50).result(60)
    running = engine.predict(old, images, 7, 1000)
    change(store / "digits")
    new, changed = catalog.reload("digits")
    assert changed
    assert catalog.resolve("digits") is new
    torch.testing.assert_close(running.result(60).prediction.members[:50, :1], alone.prediction.members)
    assert not torch.equal(
        engine.predict(new, images[:1], 7, 50).result(60).prediction.members, alone.prediction.members
    )


def test_a_download_ends_with_the_version_that_it_began_with(store: Path) -> None:
    app = create_app(Settings(checkpoints=store))
    with serve(app) as address, httpx.Client(base_url=address, timeout=60) as client:
        parameters = {"seed": "7", "count": "300"}
        whole = client.get("/v1/models/digits/weights", params=parameters).content
        with client.stream("GET", "/v1/models/digits/weights", params=parameters) as stream:
            parts = stream.iter_bytes(2**16)
            content = next(parts)
            change(store / "digits")
            assert client.post("/v1/models/digits:reload").json()["changed"]
            content += b"".join(parts)
        assert content == whole
        later = client.get("/v1/models/digits/weights", params=parameters).content
        assert load(later)["linear1.bias"].shape == load(whole)["linear1.bias"].shape
        assert later != whole


def test_changes_are_watched_for(store: Path) -> None:
    app = create_app(Settings(checkpoints=store, watch=0.05))
    catalog: Catalog = app.state.catalog
    with serve(app) as address:

        def names() -> list[str]:
            return [model["name"] for model in httpx.get(f"{address}/v1/models").json()["models"]]

        shutil.copytree(store / "digits", store / ".new")
        (store / ".new").rename(store / "second")
        wait_until(lambda: names() == ["digits", "second"])
        version = change(store / "second")
        wait_until(lambda: catalog.resolve("second").version == version)
        (store / "second" / "model.safetensors").write_bytes(b"damaged")
        time.sleep(0.3)
        assert catalog.resolve("second").version == version
        shutil.rmtree(store / "second")
        wait_until(lambda: names() == ["digits"])
        shutil.rmtree(store / "digits")
        time.sleep(0.3)
        assert names() == ["digits"]  # an empty directory is more likely a mistake than a wish
        assert httpx.post(f"{address}/v1/models/digits/predict", **PICTURE).status_code == 200
        assert httpx.get(f"{address}/readyz").status_code == 200


def test_a_checkpoint_that_is_copied_slowly_is_served_when_it_is_whole(store: Path, engine: Engine) -> None:
    catalog = Catalog(store, engine, None)
    (store / "slow").mkdir()
    for name in ("config.json", "calibration.json", "model.safetensors"):
        content = (store / "digits" / name).read_bytes()
        for part in (content[: len(content) // 2], content):
            (store / "slow" / name).write_bytes(part)
            catalog.refresh()
            whole = name == "model.safetensors" and part == content
            assert [model.name for model in catalog] == (["digits", "slow"] if whole else ["digits"])
            assert bool(catalog.refused) != whole


def test_links_give_checkpoints_their_names(store: Path, engine: Engine) -> None:
    (store / "digits").rename(store / ".digits-1")
    (store / "digits").symlink_to(".digits-1")
    catalog = Catalog(store, engine, None)
    (before,) = catalog
    assert before.name == "digits"
    shutil.copytree(store / ".digits-1", store / ".digits-2")
    version = change(store / ".digits-2")
    (store / "next").symlink_to(".digits-2")
    (store / "next").replace(store / "digits")
    catalog.refresh()
    (after,) = catalog
    assert (after.name, after.version) == ("digits", version)


def test_all_models_together_fit_into_the_memory_that_they_may_take(
    store: Path, engine: Engine, checkpoints: Path
) -> None:
    for name in ("a", "b"):
        shutil.copytree(store / "digits", store / name)
    each = count_bytes(Model(load_checkpoint(checkpoints / "digits")))
    catalog = Catalog(store, engine, "b", max_bytes=2 * each)
    assert [model.name for model in catalog] == ["b", "a"]
    assert "MiB allowed" in catalog.refused["digits"]
    change(store / "a")
    assert catalog.reload("a")[1]  # in the place of its predecessor
    with pytest.raises(ServiceError, match="MiB allowed"):
        catalog.reload("digits")
    with pytest.raises(ConfigurationError, match="MiB allowed"):
        Catalog(store, engine, None, max_bytes=each - 1)


def test_what_memory_does_not_suffice_for_is_refused(
    store: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog = Catalog(store, engine, None)
    version = catalog.resolve("digits").version
    change(store / "digits")

    def fail(*args: Any, **kwargs: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    assert is_out_of_memory(torch.OutOfMemoryError())
    monkeypatch.setattr(Engine, "warm_up", fail)
    with pytest.raises(ServiceError, match="not enough memory"):
        catalog.reload("digits")
    assert catalog.resolve("digits").version == version


def test_a_storm_of_reloads_fails_no_request(store: Path) -> None:
    """Two versions take turns, as fast as they can be loaded, while clients ask; every answer is one version's own."""
    other = store / "other"
    shutil.copytree(store / "digits", other)
    change(other)
    app = create_app(Settings(checkpoints=store / "digits"))
    stop = threading.Event()
    answers: dict[str, list[float]] = {}

    with serve(app) as address, ThreadPoolExecutor() as pool:

        def ask() -> int:
            count = 0
            with httpx.Client(base_url=address, timeout=60) as client:
                while not stop.is_set():
                    response = client.post("/v1/models/digits/predict?seed=7&ensemble_size=20", **PICTURE)
                    assert response.status_code == 200, response.text
                    assert client.get("/readyz").status_code == 200
                    answer = response.json()
                    said = answer["predictions"][0]["probabilities"]
                    assert said == pytest.approx(answers.setdefault(answer["model"]["version"], said), abs=1e-6)
                    count += 1
            return count

        clients = [pool.submit(ask) for _ in range(4)]
        reloads = 0
        end = time.monotonic() + 3
        while time.monotonic() < end:
            for name in ("model.safetensors", "calibration.json", "config.json"):
                source = (other if reloads % 2 == 0 else store / "digits.first") / name
                if not (store / "digits.first").exists():
                    shutil.copytree(store / "digits", store / "digits.first")
                if source.exists():
                    shutil.copy(source, store / "digits" / name)
                else:
                    (store / "digits" / name).unlink(missing_ok=True)
            assert httpx.post(f"{address}/v1/models/digits:reload", timeout=60).json()["changed"]
            reloads += 1
        stop.set()
        assert sum(client.result(60) for client in clients) > 10
    assert reloads > 5
    assert len(answers) == 2


def test_models_are_loaded_one_after_the_other_and_once_for_all_who_wait(
    store: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(store / "digits", store / "other")
    catalog = Catalog(store, engine, None)
    begun, go_on, loads = threading.Semaphore(0), threading.Event(), []

    def load_slowly(directory: Path, **options: Any) -> Any:
        loads.append(directory.name)
        begun.release()
        assert go_on.wait(20)
        return load_checkpoint(directory, **options)

    monkeypatch.setattr(service.engine.engine, "load_checkpoint", load_slowly)
    first = catalog.request_reload("digits")
    assert begun.acquire(timeout=20)
    version = change(store / "digits")  # after that has begun, so that it may not be what it gives
    later = [catalog.request_reload("digits") for _ in range(100)]
    other = catalog.request_reload("other")
    assert not later[0].cancel()
    assert loads == ["digits"]
    go_on.set()
    first.result(20)
    assert {future.result(20)[0].version for future in later} == {version}
    assert other.result(20)[1] is False
    assert loads == ["digits", "digits", "other"]


def test_what_is_watched_for_is_loaded_though_the_queue_is_full(store: Path) -> None:
    app = create_app(Settings(checkpoints=store, watch=0.05, max_queue=1))
    catalog: Catalog = app.state.catalog
    images = torch.zeros(256, 1, 8, 8, dtype=torch.uint8)
    with serve(app) as address:
        endless = app.state.engine.predict(catalog.resolve("digits"), images, 7, 100_000)
        assert httpx.post(f"{address}/v1/models/digits/predict", **PICTURE).status_code == 429
        version = change(store / "digits")
        shutil.copytree(store / "digits", store / "second")
        wait_until(lambda: catalog.resolve("digits").version == version and len(list(catalog)) == 2)
        assert httpx.post(f"{address}/v1/models/digits:reload").status_code == 200
        assert endless.cancel()


class Refusals:
    """Lets some loads of a model fail."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        self.error: Exception | None = None
        self.tried = 0
        load = Engine.load

        def load_or_fail(engine: Engine, directory: Path, *arguments: Any) -> Any:
            if directory.name == name:
                self.tried += 1
                if self.error is not None:
                    raise self.error
            return load(engine, directory, *arguments)

        monkeypatch.setattr(Engine, "load", load_or_fail)


def read_error(number: int) -> CheckpointError:
    error = CheckpointError(Path("model.safetensors"), os.strerror(number))
    error.__cause__ = OSError(number, os.strerror(number))
    return error


@pytest.mark.parametrize(
    "error",
    [MemoryError(), torch.OutOfMemoryError(), read_error(errno.EMFILE), OSError(errno.EIO, "Input/output error")],
)
def test_what_could_not_be_loaded_for_a_passing_reason_is_tried_again(
    store: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    shutil.copytree(store / "digits", store / "other")
    now = 0.0
    monkeypatch.setattr(
        service.catalog, "time", SimpleNamespace(monotonic=lambda: now, time=time.time, sleep=lambda _: None)
    )
    refusals = Refusals(monkeypatch, "digits")
    catalog = Catalog(store, engine, None)
    version = change(store / "digits")
    refusals.error = error
    with pytest.raises(ServiceError) as caught:
        catalog.reload("digits")
    assert caught.value.status == 503
    refusals.tried = 0
    tries = []
    for now in range(1, 400):
        catalog.refresh()
        if refusals.tried:
            tries.append(now)
            refusals.tried = 0
    assert tries == [1, 3, 7, 15, 31, 63, 127, 255]
    other = change(store / "other")
    catalog.refresh()
    assert catalog.resolve("other").version == other
    refusals.error = None
    now = 600
    catalog.refresh()
    assert catalog.resolve("digits").version == version
    refusals.tried = 0
    catalog.refresh()
    assert refusals.tried == 0


@pytest.mark.parametrize("error", [CheckpointError(Path("x"), "odd"), TypeError("odd"), read_error(errno.ENOENT)])
def test_what_lies_in_the_files_is_tried_once_and_keeps_no_other_model_away(
    store: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    shutil.copytree(store / "digits", store / "other")
    refusals = Refusals(monkeypatch, "digits")
    catalog = Catalog(store, engine, None)
    refusals.error = error
    change(store / "digits")
    other = change(store / "other")
    refusals.tried = 0
    for _ in range(3):
        catalog.refresh()
    assert refusals.tried == 1
    assert catalog.resolve("other").version == other
    with pytest.raises(ServiceError) as caught:
        catalog.reload("digits")
    assert caught.value.status == 409
    refusals.error = None
    version = change(store / "digits")
    catalog.refresh()
    assert catalog.resolve("digits").version == version


def test_files_that_change_while_they_are_read_are_read_again(
    store: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog = Catalog(store, engine, None)
    shutil.copytree(store / "digits", store / ".later")
    change(store / ".later")
    version = change(store / ".later")
    load = Engine.load

    def load_late(engine: Engine, directory: Path, *arguments: Any) -> Any:
        checkpoint = load(engine, directory, *arguments)
        monkeypatch.undo()
        for name in ("model.safetensors", "config.json"):
            shutil.copy(store / ".later" / name, store / "digits" / name)
        return checkpoint

    change(store / "digits")
    monkeypatch.setattr(Engine, "load", load_late)
    catalog.refresh()
    assert catalog.resolve("digits").version != version
    catalog.refresh()
    assert catalog.resolve("digits").version == version


@pytest.mark.parametrize("where", ["scandir", "lstat"])
@pytest.mark.parametrize("act", [Catalog.refresh, lambda catalog: catalog.reload("digits")])
def test_models_do_not_vanish_because_the_system_has_no_room(
    store: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch, where: str, act: Callable[[Catalog], object]
) -> None:
    shutil.copytree(store / "digits", store / "other")
    catalog = Catalog(store, engine, None)

    def fail(*args: Any) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patch, suppress(OSError, ServiceError):
        patch.setattr(os if where == "scandir" else Path, where, fail)
        act(catalog)
    assert [model.name for model in catalog] == ["digits", "other"]
    assert catalog.refused == {}


def test_many_reloads_take_no_threads_from_others(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app = create_app(Settings(checkpoints=store))
    go_on, load = threading.Event(), Engine.load

    def load_late(engine: Engine, *arguments: Any) -> Any:
        assert go_on.wait(30)
        return load(engine, *arguments)

    monkeypatch.setattr(Engine, "load", load_late)
    with serve(app) as address, ThreadPoolExecutor(60) as pool:
        reload = partial(httpx.post, f"{address}/v1/models/digits:reload", timeout=60)
        reloads = [pool.submit(reload) for _ in range(60)]
        wait_until(lambda: app.state.catalog.load_seconds > 0)
        time.sleep(0.3)
        assert not any(future.done() for future in reloads)
        assert threading.active_count() < 60 + 40
        answers = [httpx.post(f"{address}/v1/models/digits/predict", timeout=20, **PICTURE) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [200] * 3
        go_on.set()
        assert {future.result(30).status_code for future in reloads} == {200}


def test_a_load_that_does_not_end_is_told_and_keeps_nobody_from_stopping(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(store / "digits", store / "other")
    app = create_app(Settings(checkpoints=store, drain_timeout=1))
    go_on = threading.Event()
    monkeypatch.setattr(Engine, "load", lambda *_: go_on.wait(60))
    with serve(app) as address, ThreadPoolExecutor() as pool:
        waiting = [pool.submit(httpx.post, f"{address}/v1/models/{name}:reload") for name in ("digits", "other")]
        wait_until(lambda: app.state.catalog.load_seconds > 0.1)
        metrics = httpx.get(f"{address}/metrics").text
        assert re.search(r"^hyperdraw_current_load_seconds 0\.[1-9]", metrics, re.MULTILINE)
        start = time.monotonic()
    assert time.monotonic() - start < 10
    go_on.set()
    assert all(future.exception() or future.result().status_code >= 500 for future in waiting)


def test_files_that_are_served_are_not_read_again(store: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    loads = Refusals(monkeypatch, "digits")
    catalog = Catalog(store, engine, None)
    (store / "digits" / "metrics.json").touch()
    catalog.reload("digits")
    catalog.reload("digits")  # as the file may have changed twice at the same time
    assert loads.tried == 3
    monkeypatch.setattr(models.foreign_files, "SETTLED_SECONDS", -1)
    for _ in range(10):
        assert catalog.reload("digits") == (catalog.resolve("digits"), False)
    assert loads.tried == 4
    version = change(store / "digits")
    assert catalog.reload("digits")[0].version == version
