"""Versions of a model: those that are loaded, and the file that names them."""

import json
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

import models.foreign_files
from models.checkpoint import load_checkpoint
from models.checkpoint_files import CheckpointError
from models.model import Model
from service.catalog import Catalog
from service.engine.engine import Engine
from service.errors import ServiceError
from service.sizes import count_bytes
from service.versions import ITSELF, Served, Versions, read_versions, write_versions
from tests.checkpoints import edit, renew, save_curve, vary
from tests.waiting import PATIENCE


@pytest.fixture
def folder(store: Path) -> Path:
    """A model's folder: a checkpoint, and two others in it, `two` and `three`."""
    folder = store / "digits"
    for number, name in enumerate(("two", "three"), 1):
        shutil.copytree(store / "digits", store / "copy", ignore=shutil.ignore_patterns("two"))
        for _ in range(number):
            vary(store / "copy")
        (store / "copy").rename(folder / name)
    return folder


def write(folder: Path, **versions: Any) -> None:
    (folder / "versions.json").write_text(json.dumps(versions))


def change(catalog: Catalog, how: Callable[[Versions], Versions], name: str = "digits") -> Served:
    return catalog.request_change(name, how).result(PATIENCE)


def name(**versions: Any) -> Callable[[Versions], Versions]:
    return lambda before: before.model_copy(update=versions)


def replace(folder: Path, make: Callable[[Path], object]) -> None:
    shutil.rmtree(folder)
    make(folder)


def list_folders(served: Served) -> dict[str, str]:
    """Folders by role."""
    folders = {id(model): folder for folder, model in served.models.items()}
    return {role: folders[id(model)] for role, model in served.roles.items()}


def test_a_checkpoint_alone_is_the_stable_version(store: Path, engine: Engine) -> None:
    catalog = Catalog(store, engine, None)
    served = catalog.find_versions("digits")
    assert served.versions == Versions() == read_versions(store / "digits")
    assert list_folders(served) == {"stable": ITSELF}
    assert catalog.find("digits", "stable") is catalog.find("digits", served.stable.version) is served.stable
    assert not (store / "digits" / "versions.json").exists()


def test_versions_are_found_by_name_and_by_digest(folder: Path, store: Path, engine: Engine) -> None:
    write(folder, stable="two", candidate="three")
    shutil.move(folder / "config.json", store / "config.kept")  # the folder itself is no checkpoint now
    catalog = Catalog(store, engine, None)
    assert [model.name for model in catalog] == ["digits"]
    versions = {
        role: load_checkpoint(folder / place).version for role, place in (("stable", "two"), ("candidate", "three"))
    }
    for role, version in versions.items():
        found = catalog.resolve("digits", role)
        assert (found.name, found.version) == ("digits", version)
        assert catalog.resolve("digits", version) is found
        assert catalog.find_role(found) == role
    assert catalog.resolve("digits") is catalog.resolve("digits", "stable")
    with pytest.raises(ServiceError) as caught:
        catalog.find("digits", "previous")
    assert caught.value.status == 404
    assert all(text in caught.value.detail.hint for text in (*versions, *versions.values()))


def test_a_promotion_and_its_roll_back_exchange_versions_that_stay_loaded(
    folder: Path, store: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models.foreign_files, "SETTLED_SECONDS", -1)
    write(folder, candidate="two", share=0.5, shadow=True)
    catalog = Catalog(store, engine, None)
    old, new = (catalog.find("digits", role) for role in ("stable", "candidate"))
    monkeypatch.setattr(Engine, "load", lambda *_: pytest.fail("nothing is read again"))

    promoted = change(catalog, Versions.promote)
    assert (promoted.stable, promoted.roles["previous"], promoted.candidate) == (new, old, None)
    assert read_versions(folder) == Versions(stable="two", previous=ITSELF)
    assert catalog.resolve("digits") is new
    assert catalog.find_role(old) == "previous"
    with pytest.raises(ServiceError, match="no candidate to promote"):
        change(catalog, Versions.promote)

    back = change(catalog, Versions.roll_back)
    assert (back.stable, back.candidate) == (old, new)
    assert read_versions(folder) == Versions(candidate="two")  # and it gets no requests
    with pytest.raises(ServiceError, match="no previous version"):
        change(catalog, Versions.roll_back)
    catalog.refresh()
    assert catalog.find_versions("digits") is back


def test_services_that_share_the_folder_follow_and_restarts_keep_it(folder: Path, store: Path, engine: Engine) -> None:
    here, there = Catalog(store, engine, None), Catalog(store, engine, None)
    change(here, name(candidate="two", share=0.25))
    there.refresh()
    assert there.find_versions("digits").versions == Versions(candidate="two", share=0.25)
    change(there, Versions.promote)
    here.reload("digits")
    later = Catalog(store, engine, None)
    version = load_checkpoint(folder / "two").version
    for catalog in (here, there, later):
        assert catalog.resolve("digits").version == version
        assert list_folders(catalog.find_versions("digits")) == {"stable": "two", "previous": ITSELF}


def test_a_roll_back_is_possible_while_there_is_another_candidate(folder: Path, store: Path, engine: Engine) -> None:
    write(folder, candidate="two")
    catalog = Catalog(store, engine, None)
    first = catalog.resolve("digits").version
    change(catalog, Versions.promote)
    third = change(catalog, name(candidate="three"))
    assert list_folders(third) == {"stable": "two", "candidate": "three"}  # two at a time
    assert third.versions.previous == ITSELF
    back = change(catalog, Versions.roll_back)
    assert back.stable.version == first
    assert list_folders(back) == {"stable": ITSELF, "candidate": "two"}


@pytest.mark.parametrize(
    ("break_it", "reason"),
    [
        (lambda path: (path / "model.safetensors").write_bytes(b"cut"), "two was not loaded|its SHA-256"),
        (shutil.rmtree, "digits was not loaded: two/config.json: No such file"),
        (renew, "not calibrated to raise out_of_distribution and suspect_adversarial"),
        (lambda path: replace(path, save_curve), "takes other inputs"),
        (
            lambda path: edit(path / "config.json", lambda c: c["task"]["classes"].reverse()),
            "other outputs|calibration",
        ),
        (lambda path: replace(path, lambda path: shutil.copytree(path.parent, path)), "is the stable version, too"),
    ],
)
def test_a_candidate_that_cannot_be_served_is_refused_and_the_stable_version_is_not_touched(
    folder: Path,
    store: Path,
    engine: Engine,
    break_it: Callable[[Path], object],
    reason: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    shutil.rmtree(folder / "three")
    break_it(folder / "two")
    catalog = Catalog(store, engine, None)
    stable = catalog.resolve("digits")
    with pytest.raises(ServiceError, match=reason) as caught:
        change(catalog, name(candidate="two"))
    assert (caught.value.status, caught.value.detail.code) == (409, "reload_failed")
    assert "What was served before is still served" in caught.value.detail.hint
    assert not (folder / "versions.json").exists()

    write(folder, candidate="two", share=1.0, shadow=True)  # as another service, or somebody by hand
    with caplog.at_level(logging.ERROR, "service.catalog"):
        catalog.refresh()
        catalog.refresh()
    [record] = caplog.records
    assert record.getMessage().startswith("digits/two is refused: two")
    for one in (catalog, Catalog(store, engine, None)):
        assert one.resolve("digits").version == stable.version
        assert set(one.refused) == {"digits/two"}
        assert one.find_versions("digits").candidate is None
        with pytest.raises(ServiceError) as caught:
            one.find("digits", "candidate")
        assert (caught.value.status, caught.value.detail.code) == (503, "model_refused")
    assert catalog.resolve("digits") is stable
    with pytest.raises(ServiceError, match="was not loaded"):
        change(catalog, Versions.promote)
    assert read_versions(folder).stable == ITSELF
    assert change(catalog, name(candidate=None, share=0.0, shadow=False)).stable is stable
    assert catalog.refused == {}


def test_a_version_whose_files_break_while_it_is_served_stays_and_can_be_rolled_back_from(
    folder: Path, store: Path, engine: Engine
) -> None:
    write(folder, candidate="two")
    catalog = Catalog(store, engine, None)
    old = catalog.resolve("digits")
    change(catalog, Versions.promote)
    shutil.rmtree(folder / "two")
    catalog.refresh()
    assert catalog.refused == {}
    assert list_folders(catalog.find_versions("digits")) == {"stable": "two", "previous": ITSELF}
    assert change(catalog, Versions.roll_back).stable is old
    assert Catalog(store, engine, None).resolve("digits").version == old.version


def test_a_candidate_whose_files_break_can_be_stopped_but_not_promoted(
    folder: Path, store: Path, engine: Engine
) -> None:
    write(folder, candidate="two", share=0.5)
    catalog = Catalog(store, engine, None)
    candidate = catalog.find("digits", "candidate")
    (folder / "two" / "model.safetensors").write_bytes(b"cut")
    for change_it in (Versions.promote, name(share=0.6), name(share=0.0, shadow=True)):
        with pytest.raises(ServiceError, match="its SHA-256"):
            change(catalog, change_it)
    assert read_versions(folder).share == 0.5
    stopped = change(catalog, name(share=0.0))
    assert (stopped.candidate, stopped.versions.share) == (candidate, 0.0)
    assert change(catalog, name(candidate=None)).candidate is None


def test_both_versions_count_towards_the_memory_that_models_may_take(folder: Path, store: Path, engine: Engine) -> None:
    write(folder, candidate="two")
    both = sum(count_bytes(Model(load_checkpoint(path))) for path in (folder, folder / "two"))
    tight = Catalog(store, engine, None, max_bytes=both - 1)
    assert list_folders(tight.find_versions("digits")) == {"stable": ITSELF}
    assert "MiB allowed" in tight.refused["digits/two"]
    shutil.copytree(folder / "two", store / "other")
    enough = Catalog(store, engine, "digits", max_bytes=both)
    assert list_folders(enough.find_versions("digits")) == {"stable": ITSELF, "candidate": "two"}
    assert "MiB allowed" in enough.refused["other"]
    change(enough, Versions.promote)
    assert change(enough, name(candidate="three")).candidate is not None  # in the place of the previous version
    write(folder)  # which frees the memory
    enough.refresh()
    assert enough.reload("other")[1]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "Invalid JSON"),
        ("[]", "should be an object"),
        ('{"stable": "../elsewhere"}', "name of a folder"),
        ('{"stable": ".hidden"}', "name of a folder"),
        ('{"stable": "two", "candidate": "two"}', "different folders"),
        ('{"stable": "two", "previous": "two"}', "different folders"),
        ('{"candidate": "two", "previous": "two"}', "different folders"),
        ('{"share": 0.5}', "^[^:]*versions.json: share and shadow need a candidate"),
        ('{"candidate": "two", "share": 1.5}', "less than or equal to 1"),
        ('{"candidate": "two", "share": NaN}', "Invalid JSON|finite"),
        ('{"candidates": "two"}', "Extra inputs"),
        ('{"stable": 7}', "valid string"),
    ],
)
def test_damaged_files_are_told_and_change_nothing(
    folder: Path, store: Path, engine: Engine, content: str, reason: str
) -> None:
    catalog = Catalog(store, engine, None)
    stable = catalog.resolve("digits")
    (folder / "versions.json").write_text(content)
    with pytest.raises(CheckpointError, match=reason):
        read_versions(folder)
    catalog.refresh()
    assert catalog.resolve("digits") is stable
    assert list(catalog.refused) == ["digits/versions.json"]
    for act in (lambda: catalog.reload("digits"), lambda: change(catalog, name(candidate="two"))):
        with pytest.raises(ServiceError, match=r"versions\.json") as caught:
            act()
        assert caught.value.status == 409
    assert (folder / "versions.json").read_text() == content
    shutil.copytree(folder / "two", store / "other")
    assert set(Catalog(store, engine, None).refused) == {"digits"}
    (folder / "versions.json").unlink()
    catalog.refresh()
    assert catalog.refused == {}


def test_what_cannot_be_written_says_what_to_write(
    folder: Path, store: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(folder, candidate="two")
    catalog = Catalog(store, engine, None)
    stable = catalog.resolve("digits")
    opened = os.open

    def refuse(path: Any, flags: int, *arguments: Any, **options: Any) -> int:
        if "versions.json" in str(path) and flags & (os.O_WRONLY | os.O_RDWR):
            raise OSError(30, "Read-only file system", str(path))
        return opened(path, flags, *arguments, **options)

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(ServiceError, match="Read-only file system") as caught:
        change(catalog, Versions.promote)
    assert (caught.value.status, caught.value.detail.code) == (409, "not_writable")
    assert catalog.resolve("digits") is stable
    monkeypatch.undo()
    told = caught.value.detail.hint.partition("{")[2].partition("}")[0]
    (folder / "versions.json").write_text(f"{{{told}}}")  # as the hint says
    catalog.refresh()
    assert list_folders(catalog.find_versions("digits")) == {"stable": "two", "previous": ITSELF}


def test_new_files_of_a_candidate_are_loaded(folder: Path, store: Path, engine: Engine) -> None:
    write(folder, candidate="two")
    catalog = Catalog(store, engine, None)
    stable, before = (catalog.find("digits", role) for role in ("stable", "candidate"))
    version = vary(folder / "two")
    catalog.refresh()
    after = catalog.resolve("digits", "candidate")
    assert (after.version, catalog.resolve("digits")) == (version, stable)
    assert after is not before
    assert load_file(folder / "two" / "model.safetensors")


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
def test_the_share_of_clients_is_about_right_and_only_grows(share: float) -> None:
    """5,000 clients: off by more than 0.03 with a probability below 3e-5, at a share of a half (Hoeffding: 2e-4)."""
    versions, more = Versions(candidate="two", share=share), Versions(candidate="two", share=min(1.0, share + 0.2))
    clients = [f"client {number}" for number in range(5_000)]
    chosen = [client for client in clients if versions.chooses_candidate("digits", client)]
    assert abs(len(chosen) / len(clients) - share) <= (0.03 if 0 < share < 1 else 0)
    assert all(more.chooses_candidate("digits", client) for client in chosen)
    assert chosen == [client for client in clients if versions.model_copy().chooses_candidate("digits", client)]


def test_the_choice_is_the_same_in_every_process() -> None:
    versions = Versions(candidate="two", share=0.5)
    said = "".join("01"[versions.chooses_candidate("digits", str(number))] for number in range(16))
    assert said == "1100101100100110"
    others = [
        "".join("01"[other.chooses_candidate(model, str(number))] for number in range(16))
        for other, model in ((versions, "letters"), (Versions(candidate="three", share=0.5), "digits"))
    ]
    assert len({said, *others}) == 3  # other models and candidates are tried by others


def test_the_file_is_what_was_meant(tmp_path: Path) -> None:
    versions = Versions(stable="a", candidate="b", previous="c", share=0.125, shadow=True)
    write_versions("digits", tmp_path, versions)
    assert read_versions(tmp_path) == versions
    assert [path.name for path in tmp_path.iterdir()] == ["versions.json"]
