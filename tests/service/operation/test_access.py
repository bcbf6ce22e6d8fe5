import errno
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest

import models.foreign_files
import service.operation.access
from service.app import create_app
from service.catalog import ConfigurationError
from service.operation.access import Key, KeyFile, KeyFileError, create_key, read_keys
from service.settings import Broken, Settings
from tests.conftest import serve
from tests.costs import bound_time
from tests.keys import write_keys
from tests.pictures import draw_image, encode

PICTURE = encode(draw_image(size=(8, 8)))
HEADERS = {b"Content-Type": b"image/png"}


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    path = tmp_path_factory.mktemp("keys") / "keys.toml"
    return path, write_keys(path, reader=["predict"], researcher=["predict", "weights"], operator=["admin"], guest=[])


@pytest.fixture(scope="module")
def guarded(checkpoints: Path, keys: tuple[Path, dict[str, str]]) -> Iterator[httpx.Client]:
    app = create_app(Settings(checkpoints=checkpoints, keys=keys[0]))
    with serve(app) as address, httpx.Client(base_url=address) as client:
        yield client


def ask(client: httpx.Client, what: str, key: str | None) -> httpx.Response:
    headers = {b"Authorization": f"Bearer {key}".encode()} if key is not None else {}
    if what == "predict":
        parameters = {"ensemble_size": "2"}
        url = "/v1/models/digits/predict"
        return client.post(url, content=PICTURE, headers=[*HEADERS.items(), *headers.items()], params=parameters)
    if what == "reload":
        return client.post("/v1/models/digits:reload", headers=headers)
    return client.get({"weights": "/v1/models/digits/weights", "models": "/v1/models"}[what], headers=headers)


@pytest.mark.parametrize(
    ("name", "allowed"),
    [
        ("reader", {"models", "predict"}),
        ("researcher", {"models", "predict", "weights"}),
        ("operator", {"models", "reload"}),
        ("guest", {"models"}),
    ],
)
def test_a_key_is_good_for_its_scopes(
    guarded: httpx.Client, keys: tuple[Path, dict[str, str]], name: str, allowed: set[str]
) -> None:
    for what in ("models", "predict", "weights", "reload"):
        response = ask(guarded, what, keys[1][name])
        assert response.status_code == (200 if what in allowed else 403)
        if what not in allowed:
            error = response.json()["error"]
            assert error["code"] == "missing_scope"
            assert keys[1][name] not in response.text


@pytest.mark.parametrize("key", [None, "wrong", "a" * 5000, "ключ"])
def test_strangers_get_nothing(guarded: httpx.Client, key: str | None) -> None:
    for what in ("models", "predict", "weights", "reload"):
        response = ask(guarded, what, key)
        assert response.status_code == 401
        assert response.headers["www-authenticate"] == "Bearer"
        assert response.json()["error"]["code"] == "unauthorized"
    assert guarded.get("/v1/models", headers={"Authorization": "Basic abc"}).status_code == 401
    assert guarded.head("/v1/models/digits/weights").status_code == 401


def test_health_is_open_unless_it_is_not_to_be(
    guarded: httpx.Client, checkpoints: Path, keys: tuple[Path, dict[str, str]]
) -> None:
    assert guarded.get("/healthz").status_code == guarded.get("/readyz").status_code == 200
    with serve(create_app(Settings(checkpoints=checkpoints, keys=keys[0], open_health=False))) as address:
        assert httpx.get(f"{address}/readyz").status_code == 401
        authorization = {"Authorization": f"Bearer {keys[1]['guest']}"}
        assert httpx.get(f"{address}/readyz", headers=authorization).status_code == 200


def test_keys_change_with_their_file(tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    old = write_keys(path, alice=["predict"])["alice"]
    keys = KeyFile(path)
    found = keys.find(old)
    assert found is not None
    assert found[0] == "alice"
    assert found[1].scopes == {"predict"}

    replacement = tmp_path / "new.toml"
    new = write_keys(replacement, bob=["admin"])["bob"]
    replacement.replace(path)
    assert keys.find(old) is None
    assert keys.find(new) is not None

    path.write_text("[half")
    assert keys.find(new) is not None  # until there is a file that can be read
    path.unlink()
    assert keys.find(new) is not None
    write_keys(path)
    assert keys.find(new) is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[half", "is not valid TOML"),
        (b"\xff", "is not valid TOML"),
        (b'[a]\nsha256 = "abc"\nscopes = []', "a.sha256: .*match"),
        (b'[a]\nscopes = ["predict"]', "a.sha256: .*required"),
        (b'[a]\nsha256 = "' + b"0" * 64 + b'"\nscopes = ["root"]', "a.scopes.0: .*'predict', 'weights' or 'admin'"),
        (b'[a]\nsha256 = "' + b"0" * 64 + b'"\nscopes = []\nkey = "secret"', "a.key: an entry may have sha256"),
    ],
)
def test_files_of_keys_that_are_not_valid(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "keys.toml"
    path.write_bytes(content)
    with pytest.raises(KeyFileError, match=message) as caught:
        read_keys(path)
    assert "secret" not in str(caught.value)
    with pytest.raises(KeyFileError, match="cannot be read"):
        read_keys(tmp_path / "nowhere.toml")


def test_the_file_holds_no_key() -> None:
    key, entry = create_key("alice", ["predict", "admin"])
    assert len(key) >= 43
    assert key not in entry
    assert hashlib.sha256(key.encode()).hexdigest() in entry
    assert create_key("alice", ["predict"])[0] != key


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "::", "no.such.host.invalid"])
def test_other_machines_are_not_served_by_accident(checkpoints: Path, host: str) -> None:
    with pytest.raises(ConfigurationError, match="--keys"):
        create_app(Settings(checkpoints=checkpoints, host=host))
    with pytest.raises(ConfigurationError, match="--keys"):
        create_app(Settings(checkpoints=checkpoints, published_host=host))
    with pytest.raises(ConfigurationError, match="--keys"):
        create_app(Settings(checkpoints=checkpoints, host=host, socket=checkpoints / "socket", grpc_port=0))


@pytest.mark.parametrize(
    "settings",
    [
        {"host": "::1"},
        {"host": "localhost"},
        {"host": "0.0.0.0", "published_host": "127.0.0.1"},
        {"host": "0.0.0.0", "allow_anonymous": True},
        {"host": "0.0.0.0", "keys": "keys.toml"},
    ],
)
def test_other_machines_are_served_on_purpose(settings: dict[str, object]) -> None:
    Settings.model_validate(settings).check_exposure()


def test_secure_headers_and_no_foreign_origins(guarded: httpx.Client, checkpoints: Path) -> None:
    for path in ("/", "/healthz", "/v1/models", "/nowhere", "/static/app.js"):
        response = guarded.get(path, headers={"Origin": "https://example.org"})
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["x-frame-options"] == "DENY"
        assert "default-src 'none'" in response.headers["content-security-policy"]
        assert "access-control-allow-origin" not in response.headers
        assert "server" not in response.headers
    preflight = {"Origin": "https://example.org", "Access-Control-Request-Method": "POST"}
    assert guarded.options("/v1/models/digits/predict", headers=preflight).status_code == 405
    with serve(create_app(Settings(checkpoints=checkpoints, cors_origins=["https://example.org"]))) as address:
        response = httpx.options(f"{address}/v1/models/digits/predict", headers=preflight)
        assert response.headers["access-control-allow-origin"] == "https://example.org"
        response = httpx.get(f"{address}/v1/models", headers={"Origin": "https://example.net"})
        assert "access-control-allow-origin" not in response.headers


@pytest.fixture
def alone(tmp_path: Path) -> tuple[Path, str]:
    """A file that holds one key, and the key."""
    path = tmp_path / "own" / "keys.toml"
    path.parent.mkdir()
    return path, write_keys(path, alice=["predict"])["alice"]


def fail_to_open(*args: object, **kwargs: object) -> None:
    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


def test_a_change_that_could_not_be_read_at_once_is_read_later(
    alone: tuple[Path, str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path, old = alone
    keys = KeyFile(path)
    monkeypatch.setattr(service.operation.access, "RETRY_SECONDS", 0)
    new = write_keys(path, bob=["admin"])["bob"]
    with monkeypatch.context() as patch:
        patch.setattr(models.foreign_files, "open", fail_to_open, raising=False)
        for _ in range(5):
            assert keys.find(old) is not None
            assert keys.find(new) is None
        assert "Too many open files" in str(keys.fault)
    assert sum("Too many open files" in record.message for record in caplog.records) == 1
    assert keys.find(old) is None
    assert keys.find(new) is not None
    assert keys.fault is None


def test_a_file_that_is_not_mended_is_read_once(alone: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> None:
    path, key = alone
    keys = KeyFile(path)
    reads: list[Path] = []

    def count_and_read(path: Path) -> Mapping[str, Key]:
        reads.append(path)
        return read_keys(path)

    monkeypatch.setattr(service.operation.access, "read_keys", count_and_read)
    monkeypatch.setattr(models.foreign_files, "SETTLED_SECONDS", -1)
    path.write_text("[half")
    for _ in range(10):
        assert keys.find(key) is not None
    assert len(reads) == 1


def test_a_file_that_changes_twice_at_the_same_time_is_read_twice(
    alone: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, old = alone
    now = 0.0
    monkeypatch.setattr(service.operation.access, "time", SimpleNamespace(monotonic=lambda: now))
    status = path.stat()
    keys = KeyFile(path)
    assert keys.find(old) is not None
    new = write_keys(path, carol=["predict"])["carol"]
    stamp = models.foreign_files.take_stamp(path)
    monkeypatch.setattr(service.operation.access, "take_stamp", lambda _: stamp)
    monkeypatch.setattr(models.foreign_files, "SETTLED_SECONDS", 3600)
    assert keys.find(new) is not None
    assert status.st_size == path.stat().st_size
    newest = write_keys(path, david=["predict"])["david"]  # with the same stamp
    now = 1.9
    assert keys.find(newest) is None
    now = 2.0
    assert keys.find(newest) is not None
    assert keys.find(new) is None


def replace_by(path: Path, make: Callable[[Path], object]) -> None:
    path.unlink()
    make(path)


BREAKS: dict[str, Callable[[Path], object]] = {
    "gone": Path.unlink,
    "cut short": lambda path: path.write_text("[half"),
    "world-writable": lambda path: path.chmod(0o646),
    "a pipe": lambda path: replace_by(path, os.mkfifo),
    "a device": lambda path: replace_by(path, lambda path: path.symlink_to("/dev/zero")),
    "a directory": lambda path: replace_by(path, Path.mkdir),
    "too large": lambda path: os.truncate(path, 2**40),
    "a long line": lambda path: path.write_text("a" + ".a" * 100_000 + "=1"),
    "too deep": lambda path: path.write_text("a = " + "[\n" * 100_000),
    "no UTF-8": lambda path: path.write_bytes(b"\xff"),
}


@pytest.mark.parametrize("broken", ["keep", "close"])
@pytest.mark.parametrize("what", BREAKS)
def test_a_broken_file_is_told_and_old_keys_are_kept_or_not(
    checkpoints: Path, alone: tuple[Path, str], what: str, broken: Broken, caplog: pytest.LogCaptureFixture
) -> None:
    path, key = alone
    settings = Settings(checkpoints=checkpoints, keys=path, keys_broken=broken, open_metrics=True)
    with serve(create_app(settings)) as address, httpx.Client(base_url=address) as client:
        client.headers["Authorization"] = f"Bearer {key}"
        assert client.get("/readyz").json() == {"status": "ready"}
        assert "hyperdraw_keys_stale 0.0" in client.get("/metrics").text
        good = path.read_bytes()
        BREAKS[what](path)
        caplog.clear()
        for _ in range(3):
            response = client.get("/v1/models")
            if broken == "close":
                assert response.status_code == 503
                assert response.json()["error"]["code"] == "keys_unusable"
            else:
                assert response.status_code == 200
        ready = client.get("/readyz")
        assert ready.status_code == (503 if broken == "close" else 200)
        assert "key file cannot be used" in ready.text
        assert str(path) not in ready.text
        assert client.get("/healthz").status_code == 200
        assert "hyperdraw_keys_stale 1.0" in client.get("/metrics").text
        assert sum("the key file" in record.message for record in caplog.records) == 1
        replacement = path.with_suffix(".new")
        replacement.write_bytes(good)
        if path.is_dir():
            path.rmdir()
        replacement.replace(path)
        assert client.get("/v1/models").status_code == 200
        assert client.get("/readyz").json() == {"status": "ready"}
        assert client.get("/v1/models", headers={"Authorization": "Bearer other"}).status_code == 401


@pytest.mark.parametrize("what", BREAKS)
def test_a_service_does_not_start_with_a_broken_file(checkpoints: Path, alone: tuple[Path, str], what: str) -> None:
    BREAKS[what](alone[0])
    with bound_time(), pytest.raises(KeyFileError):
        create_app(Settings(checkpoints=checkpoints, keys=alone[0]))
