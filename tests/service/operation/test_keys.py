"""Keys by themselves, with a clock that only the test moves, and an app that is nothing but guarded."""

import asyncio
import logging
import re
import tomllib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from fastapi import Depends, FastAPI, Request

import models.foreign_files
import service.operation.access
from service.errors import ServiceError, add_error_handlers
from service.operation.access import (
    MOST_BYTES,
    MOST_CHARACTERS,
    RETRY_SECONDS,
    KeyFile,
    KeyFileError,
    check_keys,
    create_key,
    read_keys,
    require,
)
from service.operation.quotas import Quotas
from service.settings import Broken
from tests.keys import write_keys


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(service.operation.access, "time", SimpleNamespace(monotonic=lambda: clock.now))
    monkeypatch.setattr(models.foreign_files, "SETTLED_SECONDS", -3600)  # every file has settled
    return clock


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.toml"


def test_a_key_is_found_by_its_digest_and_no_other(path: Path) -> None:
    made = write_keys(path, alice=["predict", "weights"], bob=["admin"], carol=[])
    keys = KeyFile(path)
    for name, scopes in {"alice": {"predict", "weights"}, "bob": {"admin"}, "carol": set()}.items():
        found = keys.find(made[name])
        assert found is not None
        assert found[0] == name
        assert found[1].scopes == scopes
    assert keys.find(made["alice"] + " ") is None
    assert keys.find("") is None
    assert keys.fault is None
    assert not keys.closed


def test_a_key_is_random_and_its_entry_holds_its_digest_alone() -> None:
    key, entry = create_key("alice", ["predict", "weights"])
    other, _ = create_key("alice", ["predict", "weights"])
    assert key != other
    assert len(key) == 43  # 256 bits in base64
    assert key not in entry
    assert entry.endswith('scopes = ["predict", "weights"]\n')
    (table,) = tomllib.loads(entry).values()
    assert re.fullmatch("[0-9a-f]{64}", table["sha256"])
    assert table["scopes"] == ["predict", "weights"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("[half", "is not valid TOML: "),
        ("a = " + "[\n" * 10_000, "is not valid TOML: it is nested too deeply"),
        (b"\xff", "is not valid TOML: 'utf-8' codec"),
        ("[alice]\nscopes = []", "is not valid: alice.sha256: Field required"),
        (f'[alice]\nsha256 = "{"0" * 63}"\nscopes = []', "is not valid: alice.sha256: String should match"),
        (f'[alice]\nsha256 = "{"0" * 64}"\nscopes = ["all"]', "is not valid: alice.scopes.0: "),
        (f'[alice]\nsha256 = "{"0" * 64}"\nscopes = []\nmore = 1', "is not valid: alice.more: "),
        ("#" * (MOST_CHARACTERS + 1), f"is not valid: a line has more than {MOST_CHARACTERS} characters"),
        (("#" * 99 + "\n") * (MOST_BYTES // 100 + 1), f"cannot be read: larger than {MOST_BYTES} bytes"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(path: Path, content: str | bytes, reason: str) -> None:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(KeyFileError) as caught:
        read_keys(path)
    assert str(caught.value).startswith(f"the key file {path} {reason}")


@pytest.mark.parametrize("content", ["", "#" * MOST_CHARACTERS, ("#" * 63 + "\n") * (MOST_BYTES // 64)])
def test_a_file_within_its_bounds_is_read(path: Path, content: str) -> None:
    path.write_text(content)
    assert read_keys(path) == {}


def test_a_file_that_everybody_can_change_is_refused(path: Path) -> None:
    write_keys(path, alice=[])
    path.chmod(0o646)
    with pytest.raises(KeyFileError, match="so others can change it"):
        read_keys(path)
    path.chmod(0o664)  # its group may
    assert read_keys(path).keys() == {"alice"}


@pytest.mark.parametrize("broken", ["keep", "close"])
def test_old_keys_stay_or_go_with_a_broken_file(
    path: Path, broken: Broken, clock: SimpleNamespace, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    key = write_keys(path, alice=["predict"])["alice"]
    keys = KeyFile(path, broken)
    assert keys.find(key) is not None
    assert not caplog.records  # it has not changed since it was read
    path.write_text("[half")
    for _ in range(3):
        assert keys.find(key) is not None
        assert str(keys.fault).startswith(f"the key file {path} is not valid TOML")
    assert keys.closed == (broken == "close")
    (record,) = caplog.records
    assert record.levelname == "ERROR"
    tail = {"keep": "the last valid keys still count", "close": "no key is valid now"}[broken]
    assert record.message.endswith(f"; {tail}")
    if broken == "close":
        with pytest.raises(ServiceError) as refused:
            check_keys(keys)
        assert (refused.value.status, refused.value.detail.code) == (503, "keys_unusable")
        assert refused.value.detail.message == "The key file cannot be used, so no key is valid."
    else:
        check_keys(keys)
    new = write_keys(path, bob=["admin"], carol=[])["bob"]
    assert keys.find(new) is not None
    assert keys.find(key) is None
    assert keys.fault is None
    assert not keys.closed
    assert caplog.records[1].message == f"read 2 keys from {path}"


def test_another_fault_is_told_again(path: Path, clock: SimpleNamespace, caplog: pytest.LogCaptureFixture) -> None:
    write_keys(path, alice=[])
    keys = KeyFile(path)
    path.write_text("[half")
    first = keys.fault
    path.write_text("[a]\nb = 1")
    assert keys.fault not in (first, None)
    assert len(caplog.records) == 2


def test_a_file_is_read_once_for_each_change(
    path: Path, clock: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = 0

    def count_reads(path: Path) -> Any:
        nonlocal reads
        reads += 1
        return read_keys(path)

    monkeypatch.setattr(service.operation.access, "read_keys", count_reads)
    key = write_keys(path, alice=[])["alice"]
    keys = KeyFile(path)
    for _ in range(5):
        assert keys.find(key) is not None
        clock.now += 1000
    assert reads == 2  # when it was opened, and to be sure that it had not changed since
    path.write_text(path.read_text() + "\n")
    for _ in range(5):
        assert keys.find(key) is not None
        clock.now += 1000
    assert reads == 3


def test_a_file_that_has_just_changed_is_read_again(
    path: Path, clock: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may change once more and have the same stamp."""
    monkeypatch.setattr(models.foreign_files, "SETTLED_SECONDS", 3600)
    old = write_keys(path, alice=[])["alice"]
    keys = KeyFile(path)
    assert keys.find(old) is not None
    stamp = models.foreign_files.take_stamp(path)
    monkeypatch.setattr(service.operation.access, "take_stamp", lambda _: stamp)
    new = write_keys(path, alice=[])["alice"]
    clock.now += RETRY_SECONDS - 0.1
    assert keys.find(new) is None
    clock.now += 0.1
    assert keys.find(new) is not None


def test_a_fault_that_may_pass_is_looked_at_again(
    path: Path, clock: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = write_keys(path, alice=[])["alice"]
    keys = KeyFile(path)
    assert keys.find(key) is not None
    new = write_keys(path, alice=[])["alice"]

    def fail(*_: object, **__: object) -> None:
        raise OSError(24, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(service.operation.access, "read_file", fail)
        assert keys.find(key) is not None
        assert keys.fault == f"the key file {path} cannot be read: Too many open files"
    clock.now += RETRY_SECONDS - 0.1
    assert keys.find(new) is None
    clock.now += 0.1
    assert keys.find(new) is not None


class Guarded:
    """An app with a route for each scope, and one for any key."""

    def __init__(self, keys: KeyFile | None, **settings: bool) -> None:
        self.app = FastAPI()
        self.app.state.keys = keys
        self.app.state.settings = SimpleNamespace(**settings)
        self.app.state.quotas = Quotas()
        add_error_handlers(self.app)

        async def tell_key(request: Request) -> str | None:
            return request.scope.get("hyperdraw.key")

        for path, guard in {
            "predict": require("predict"),
            "admin": require("admin"),
            "any": require(None),
            "open": require(None, unless="open_here"),
        }.items():
            self.app.get(f"/{path}", dependencies=[Depends(guard)])(tell_key)

    def ask(self, path: str, key: str | None = None) -> httpx.Response:
        async def get() -> httpx.Response:
            async with httpx.AsyncClient(transport=httpx.ASGITransport(self.app), base_url="http://test") as client:
                return await client.get(f"/{path}", headers={"Authorization": f"Bearer {key}"} if key else {})

        return asyncio.run(get())


@pytest.fixture
def guarded(path: Path) -> tuple[Guarded, dict[str, str]]:
    made = write_keys(path, alice=["predict", "weights"], carol=[])
    return Guarded(KeyFile(path), open_here=False), made


def test_a_key_opens_what_its_scopes_say(guarded: tuple[Guarded, dict[str, str]]) -> None:
    app, keys = guarded
    assert app.ask("predict", keys["alice"]).json() == "alice"  # known to the log
    assert app.ask("any", keys["carol"]).json() == "carol"
    refused = app.ask("admin", keys["alice"])
    assert refused.status_code == 403
    assert refused.json()["error"] == {
        "code": "missing_scope",
        "message": "Key 'alice' has scope predict, weights; this needs admin.",
        "hint": "Use a key with the scope admin.",
    }
    assert "has scope nothing; this needs predict" in app.ask("predict", keys["carol"]).json()["error"]["message"]


@pytest.mark.parametrize("route", ["predict", "admin", "any", "open"])
@pytest.mark.parametrize(("key", "message"), [(None, "An API key is required."), ("wrong", "The API key is unknown.")])
def test_without_a_valid_key_nothing_opens(
    guarded: tuple[Guarded, dict[str, str]], route: str, key: str | None, message: str
) -> None:
    refused = guarded[0].ask(route, key)
    assert refused.status_code == 401
    assert refused.headers["WWW-Authenticate"] == "Bearer"
    assert refused.json()["error"] == {
        "code": "unauthorized",
        "message": message,
        "hint": "Send a key as the header Authorization: Bearer KEY.",
    }


def test_a_setting_may_open_a_route_and_no_other(path: Path) -> None:
    write_keys(path, alice=[])
    app = Guarded(KeyFile(path), open_here=True)
    assert app.ask("open").status_code == 200
    assert app.ask("any").status_code == 401


def test_without_keys_all_is_open() -> None:
    app = Guarded(None, open_here=False)
    assert [app.ask(path).status_code for path in ("predict", "admin", "any", "open")] == [200] * 4


def test_no_key_opens_anything_while_none_is_valid(path: Path, clock: SimpleNamespace) -> None:
    key = write_keys(path, alice=["predict"])["alice"]
    app = Guarded(KeyFile(path, "close"), open_here=False)
    assert app.ask("predict", key).status_code == 200
    path.write_text("[half")
    assert app.ask("predict", key).status_code == 503
    assert app.ask("predict").status_code == 503
