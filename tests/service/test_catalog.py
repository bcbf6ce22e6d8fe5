"""The models that a service offers, as their files change."""

import errno
import os
import shutil
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import models.foreign_files
import service.catalog
import service.engine.engine
import service.load_queue
from models.checkpoint import load_checkpoint
from models.checkpoint_files import CheckpointError
from models.device import DeviceError, is_out_of_memory
from models.model import Model
from service.app import create_app
from service.catalog import Catalog, ConfigurationError
from service.engine.engine import Engine
from service.errors import ServiceError
from service.settings import Settings
from service.sizes import count_bytes
from tests.checkpoints import renew
from tests.waiting import PATIENCE


def test_requests_are_answered_by_the_version_that_they_began_with(store: Path, engine: Engine) -> None:
    catalog = Catalog(store, engine, None)
    old = catalog.resolve("digits")
    images = torch.zeros(200, 1, 8, 8, dtype=torch.uint8)
    alone = engine.predict(old, images[:1], 7, 50).result(PATIENCE)
    running = engine.predict(old, images, 7, 1000)
    renew(store / "digits")
    new, changed = catalog.reload("digits")
    assert changed
    assert catalog.resolve("digits") is new
    torch.testing.assert_close(running.result(PATIENCE).prediction.members[:50, :1], alone.prediction.members)
    assert not torch.equal(
        engine.predict(new, images[:1], 7, 50).result(PATIENCE).prediction.members, alone.prediction.members
    )


def test_a_checkpoint_that_is_copied_slowly_is_served_when_it_is_whole(store: Path, engine: Engine) -> None:
    catalog = Catalog(store, engine, None)
    (store / "slow").mkdir()
    for name in ("config.json", "density.safetensors", "calibration.json", "model.safetensors"):
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
    version = renew(store / ".digits-2")
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
    renew(store / "a")
    assert catalog.reload("a")[1]  # in the place of its predecessor
    with pytest.raises(ServiceError, match="MiB allowed"):
        catalog.reload("digits")
    with pytest.raises(ConfigurationError, match="MiB allowed"):
        Catalog(store, engine, None, max_bytes=count_bytes(Model(load_checkpoint(store / "a"))) - 1)


def test_what_memory_does_not_suffice_for_is_refused(
    store: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog = Catalog(store, engine, None)
    version = catalog.resolve("digits").version
    renew(store / "digits")

    def fail(*args: Any, **kwargs: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    assert is_out_of_memory(torch.OutOfMemoryError())
    monkeypatch.setattr(Engine, "warm_up", fail)
    with pytest.raises(ServiceError, match="not enough memory"):
        catalog.reload("digits")
    assert catalog.resolve("digits").version == version


def test_models_are_loaded_one_after_the_other_and_once_for_all_who_wait(
    store: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(store / "digits", store / "other")
    catalog = Catalog(store, engine, None)
    old = catalog.resolve("digits").version
    monkeypatch.setattr(models.foreign_files, "SETTLED_SECONDS", 3600)  # so that what is the same is read again
    begun, go_on, loads = threading.Semaphore(0), threading.Event(), []

    def load_slowly(directory: Path, **options: Any) -> Any:
        loads.append(directory.name)
        checkpoint = load_checkpoint(directory, **options)
        begun.release()
        assert go_on.wait(PATIENCE)
        return checkpoint

    monkeypatch.setattr(service.engine.engine, "load_checkpoint", load_slowly)
    first = catalog.request_reload("digits")
    assert begun.acquire(timeout=PATIENCE)
    version = renew(store / "digits")  # after it was read, so that it is not what that gives
    later = [catalog.request_reload("digits") for _ in range(100)]
    other = catalog.request_reload("other")
    assert not later[0].cancel()
    assert not begun.acquire(timeout=0.2)  # nothing else is read meanwhile
    go_on.set()
    assert first.result(PATIENCE)[0].version == old
    assert {future.result(PATIENCE)[0].version for future in later} == {version}
    assert other.result(PATIENCE)[1] is False
    assert loads == ["digits", "digits", "other"]


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
    monkeypatch.setattr(service.catalog, "time", SimpleNamespace(monotonic=lambda: now))
    monkeypatch.setattr(service.load_queue, "MOST_PAUSE_SECONDS", 0.0)
    refusals = Refusals(monkeypatch, "digits")
    catalog = Catalog(store, engine, None)
    version = renew(store / "digits")
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
    other = renew(store / "other")
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
    renew(store / "digits")
    other = renew(store / "other")
    refusals.tried = 0
    for _ in range(3):
        catalog.refresh()
    assert refusals.tried == 1
    assert catalog.resolve("other").version == other
    with pytest.raises(ServiceError) as caught:
        catalog.reload("digits")
    assert caught.value.status == 409
    refusals.error = None
    version = renew(store / "digits")
    catalog.refresh()
    assert catalog.resolve("digits").version == version


def test_files_that_change_while_they_are_read_are_read_again(
    store: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog = Catalog(store, engine, None)
    shutil.copytree(store / "digits", store / ".later")
    renew(store / ".later")
    version = renew(store / ".later")
    load = Engine.load

    def load_late(engine: Engine, directory: Path, *arguments: Any) -> Any:
        checkpoint = load(engine, directory, *arguments)
        monkeypatch.undo()
        for name in ("model.safetensors", "config.json"):
            shutil.copy(store / ".later" / name, store / "digits" / name)
        return checkpoint

    renew(store / "digits")
    monkeypatch.setattr(Engine, "load", load_late)
    catalog.refresh()
    assert catalog.resolve("digits").version != version
    catalog.refresh()
    assert catalog.resolve("digits").version == version


def test_files_are_not_known_for_what_they_had_become_by_the_end_of_a_load(
    store: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that had just changed when they were read may have changed again, with the same time stamp."""
    monkeypatch.setattr(models.foreign_files, "SETTLED_SECONDS", 3600)
    catalog = Catalog(store, engine, None)
    loads, load = 0, Engine.load

    def load_for_long(engine: Engine, *arguments: Any) -> Any:
        nonlocal loads
        loads += 1
        monkeypatch.setattr(models.foreign_files, "SETTLED_SECONDS", -1)
        return load(engine, *arguments)

    monkeypatch.setattr(Engine, "load", load_for_long)
    for _ in range(3):
        catalog.reload("digits")
    assert loads == 2


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


def test_files_that_are_served_are_not_read_again(store: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    loads = Refusals(monkeypatch, "digits")
    catalog = Catalog(store, engine, None)
    monkeypatch.setattr(models.foreign_files, "SETTLED_SECONDS", 3600)
    (store / "digits" / "metrics.json").touch()
    catalog.reload("digits")
    catalog.reload("digits")  # as the file may have changed twice at the same time
    assert loads.tried == 3
    monkeypatch.setattr(models.foreign_files, "SETTLED_SECONDS", -1)
    for _ in range(10):
        assert catalog.reload("digits") == (catalog.resolve("digits"), False)
    assert loads.tried == 4
    version = renew(store / "digits")
    assert catalog.reload("digits")[0].version == version


def test_the_default_comes_first(checkpoints: Path, tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        shutil.copytree(checkpoints / "digits", tmp_path / name)
    (tmp_path / "notes").mkdir()
    catalog = create_app(Settings(checkpoints=tmp_path, default_model="b")).state.catalog
    assert [model.name for model in catalog] == ["b", "a", "c"]
    assert [model.name for model in create_app(Settings(checkpoints=tmp_path / "c")).state.catalog] == ["c"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (lambda d: {"checkpoints": d / "nowhere"}, "nowhere is not a directory"),
        (lambda d: {"checkpoints": d}, "it contains no checkpoint"),
        (lambda d: {"checkpoints": d / "bad"}, "config.json: .*Invalid JSON"),
        (lambda d: {"checkpoints": d / "digits", "default_model": "gpt"}, "there is no model 'gpt'"),
        (lambda d: {"checkpoints": d / "digits", "device": "cuda:99"}, "no device 'cuda:99'"),
        (lambda d: {"checkpoints": d / "digits", "device": "abacus"}, "no device 'abacus'"),
    ],
)
def test_settings_that_cannot_work(
    settings: Callable[[Path], dict[str, Any]], message: str, checkpoints: Path, tmp_path: Path
) -> None:
    if "digits" in str(settings(tmp_path)):
        shutil.copytree(checkpoints / "digits", tmp_path / "digits")
    if "bad" in str(settings(tmp_path)):
        (tmp_path / "bad").mkdir()
        (tmp_path / "bad" / "config.json").write_text("{")
    with pytest.raises((ConfigurationError, DeviceError), match=message):
        create_app(Settings(**settings(tmp_path)))
