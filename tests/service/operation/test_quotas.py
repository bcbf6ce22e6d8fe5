"""How much a key may ask."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from limits import parse_many

from benchmarks.servers import find_free_port
from service.admission import Admission, OverloadedError
from service.app import create_app
from service.catalog import ConfigurationError
from service.errors import ServiceError
from service.operation.access import KeyFile, KeyFileError, create_key, read_keys
from service.operation.quotas import RETRY_SECONDS, Quotas, find_wait
from service.settings import Settings
from tests.conftest import serve
from tests.engine import hold
from tests.pictures import draw_image, encode
from tests.redis import serve_redis
from tests.sequences import STROKES, save_writer
from tests.waiting import wait_until

PICTURE = encode(draw_image(size=(8, 8)))

Serve = Callable[..., tuple[httpx.Client, httpx.Client]]


def write_keys(path: Path, entry: str) -> dict[str, str]:
    """Writes the keys of alice, with more lines in her entry, and of bob; returns them."""
    keys = {name: create_key(name, ["predict", "weights"]) for name in ("alice", "bob")}
    path.write_text(f"{keys['alice'][1]}{entry}\n\n{keys['bob'][1]}")
    return {name: key for name, (key, _) in keys.items()}


@pytest.fixture
def serve_with(tmp_path: Path, checkpoints: Path) -> Iterator[Serve]:
    """Serves alice, whose entry has these lines, and bob."""
    with ExitStack() as stack:

        def start(entry: str, **settings: object) -> tuple[httpx.Client, httpx.Client]:
            path = tmp_path / "keys.toml"
            keys = write_keys(path, entry)
            app = create_app(Settings(checkpoints=checkpoints, keys=path, decoders=1, **settings))  # type: ignore[arg-type]
            address = stack.enter_context(serve(app))
            clients = [
                httpx.Client(base_url=address, headers={"Authorization": f"Bearer {key}"}) for key in keys.values()
            ]
            for client in clients:
                vars(client)["app"] = app
                stack.enter_context(client)
            return clients[0], clients[1]

        yield start


def predict(client: httpx.Client, networks: int = 2) -> httpx.Response:
    return client.post(f"/v1/models/digits/predict?ensemble_size={networks}", files={"images": PICTURE})


def read_metric(client: httpx.Client, name: str) -> float:
    lines = [line for line in client.get("/metrics").text.splitlines() if line.startswith(f"{name} ")]
    return float(lines[0].split()[-1]) if lines else 0.0


@pytest.mark.parametrize(
    ("state", "most", "seconds"),
    [
        ((10, 1.0, 0, 1.0), 4, 0.6),
        ((10, 0.3, 0, 0.3), 4, 0.0),
        ((0, 0.0, 10, 1.5), 4, 1.1),
        ((0, 0.0, 10, 1.5), 0, 1.5),
        ((10, 0.5, 4, 1.5), 4, 0.5),
        ((0, 0.0, 0, 0.0), 4, 0.0),
    ],
)
def test_the_wait_is_known(state: tuple[int, float, int, float], most: int, seconds: float) -> None:
    assert find_wait(*state, 1.0, most) == pytest.approx(max(0.0, seconds))


async def take_until_refused(quotas: Quotas, window: str, amount: int) -> tuple[int, ServiceError]:
    windows = parse_many(window)
    for count in range(1000):
        try:
            await quotas.take("alice", "networks", windows, amount)
        except ServiceError as error:
            return count, error
    raise AssertionError("nothing was refused")


@pytest.mark.parametrize(("window", "amount", "count"), [("10/hour", 3, 3), ("10/hour; 2/day", 1, 2), ("5/hour", 5, 1)])
def test_all_windows_hold(window: str, amount: int, count: int) -> None:
    found, error = asyncio.run(take_until_refused(Quotas(), window, amount))
    assert found == count
    assert (error.status, error.detail.code) == (429, "quota_exceeded")
    assert 1 <= int((error.headers or {})["Retry-After"]) <= 2 * 86400


def test_what_comes_after_the_wait_is_admitted() -> None:
    async def run() -> None:
        quotas = Quotas()
        _, error = await take_until_refused(quotas, "20/second", 5)
        await asyncio.sleep(int((error.headers or {})["Retry-After"]))
        await quotas.take("alice", "networks", parse_many("20/second"), 5)

    asyncio.run(run())


def test_requests_of_a_key_are_limited(serve_with: Serve) -> None:
    alice, bob = serve_with('requests = "3/hour"')
    assert [predict(alice).status_code for _ in range(3)] == [200] * 3
    refused = predict(alice)
    assert refused.status_code == 429
    assert refused.json()["error"]["code"] == "quota_exceeded"
    assert 1 <= int(refused.headers["Retry-After"]) <= 7200
    assert alice.get("/v1/models").status_code == 200  # it costs nothing
    assert alice.get("/v1/models/digits/weights").status_code == 429
    assert predict(bob).status_code == 200
    assert read_metric(bob, 'hyperdraw_key_refused_requests_total{key="alice",quantity="requests"}') == 2
    assert read_metric(bob, 'hyperdraw_key_requests_total{key="alice"}') == 6


def test_networks_of_a_key_are_limited_whatever_they_are_for(serve_with: Serve) -> None:
    alice, _ = serve_with('networks = "10/hour"')
    assert predict(alice, 4).status_code == 200
    assert alice.get("/v1/models/digits/weights", params={"count": 4}).status_code == 200
    assert alice.head("/v1/models/digits/weights", params={"count": 4}).status_code == 200
    assert predict(alice, 3).json()["error"]["code"] == "quota_exceeded"
    assert predict(alice, 2).status_code == 200
    too_large = predict(alice, 11)
    assert (too_large.status_code, too_large.json()["error"]["code"]) == (422, "quota_too_small")


def test_each_element_of_a_sequence_is_an_input(tmp_path: Path) -> None:
    asked: list[tuple[str, dict[str, Any], int]] = [
        ("models/writer/generate", {"prompt": "ab", "max_tokens": 8, "ensemble_size": 2}, 20),
        ("models/writer/generate", {"prompt": "ab", "max_tokens": 8, "member": 1, "stream": True}, 10),
        ("models/writer/score", {"text": "abba", "ensemble_size": 3}, 12),
        ("models/writer/predict?ensemble_size=2", {"inputs": ["ab", "abba"]}, 12),
        ("models/writer/predict?ensemble_size=2", {"inputs": ["", "ab"]}, 6),
        ("completions", {"model": "writer", "prompt": ["ab", "a"], "max_tokens": 4, "n": 2, "ensemble_size": 1}, 22),
        ("models/drawer/generate", {"max_points": 6, "drawings": 2, "ensemble_size": 2}, 24),
        ("models/drawer/score", {"drawing": [[10, 0, 0], [0, 10, 1]], "ensemble_size": 3}, 6),
    ]
    save_writer(tmp_path / "models" / "writer")
    save_writer(tmp_path / "models" / "drawer", spec=STROKES)
    made = {
        (number, allowed): create_key(f"{number}-{allowed}", ["predict"])
        for number, (*_, cost) in enumerate(asked)
        for allowed in (cost, cost - 1)
    }
    entries = [f'{entry}networks = "{allowed}/hour"' for (_, allowed), (_, entry) in made.items()]
    (tmp_path / "keys.toml").write_text("\n".join(entries))
    settings = Settings(checkpoints=tmp_path / "models", keys=tmp_path / "keys.toml")
    with serve(create_app(settings)) as address, httpx.Client(base_url=f"{address}/v1/") as client:
        for number, (path, body, cost) in enumerate(asked):
            answers = [
                client.post(path, json=body, headers={"Authorization": f"Bearer {made[number, allowed][0]}"})
                for allowed in (cost, cost, cost - 1)
            ]
            codes = [answer.status_code == 200 or answer.json()["error"]["code"] for answer in answers]
            assert codes == [True, "quota_exceeded", "quota_too_small"], path


def test_requests_at_the_same_time_are_limited(serve_with: Serve) -> None:
    alice, bob = serve_with("concurrent = 1")
    engine = vars(alice)["app"].state.engine
    answers: list[int] = []
    with hold(engine):
        first = threading.Thread(target=lambda: answers.append(predict(alice).status_code))
        first.start()
        wait_until(lambda: engine.admission.amount)
        refused = predict(alice)
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "too_many_concurrent")
    first.join()
    assert answers == [200]
    assert [predict(alice).status_code for _ in range(3)] == [200] * 3
    assert predict(bob).status_code == 200


def test_a_key_expires(serve_with: Serve) -> None:
    alice, bob = serve_with("expires = 2020-01-01T00:00:00Z\nnote = 'was here'")
    refused = alice.get("/v1/models")
    assert refused.status_code == 401
    assert "expired at 2020-01-01" in refused.json()["error"]["message"]
    assert bob.get("/v1/models").status_code == 200


@pytest.mark.parametrize(
    "entry",
    [
        'requests = "often"',
        'requests = "0/hour"',
        "requests = 3",
        "concurrent = 0",
        "weight = 0.0",
        "weight = inf",
        "expires = 2030-01-01T00:00:00",
        'limit = "3/hour"',
    ],
)
def test_what_is_no_quota_is_refused(tmp_path: Path, entry: str) -> None:
    write_keys(tmp_path / "keys.toml", entry)
    with pytest.raises(KeyFileError, match=f"alice.{entry.split()[0]}"):
        read_keys(tmp_path / "keys.toml")


def test_shares_follow_weights(tmp_path: Path) -> None:
    write_keys(tmp_path / "keys.toml", "weight = 3.0")
    keys = KeyFile(tmp_path / "keys.toml")
    assert [keys.weigh(client) for client in ("key alice", "key bob", "alice", "192.0.2.1")] == [3, 1, 1, 1]
    admission = Admission(1000, keys.weigh)
    held = {}
    for client in ("key alice", "key bob"):
        admission.reserve(client, 20)
    for client in ("key alice", "key bob"):
        count = 20
        try:
            while True:
                admission.reserve(client, 20)
                count += 20
        except OverloadedError:
            held[client] = count
    assert held == {"key alice": 660, "key bob": 220}  # of 900, in steps of 20


@contextmanager
def two_services(checkpoints: Path, keys: Path, store: str) -> Iterator[list[str]]:
    with ExitStack() as stack:
        settings = Settings(checkpoints=checkpoints, keys=keys, decoders=1, quota_store=store)
        yield [stack.enter_context(serve(create_app(settings))) for _ in range(2)]


@pytest.mark.needs("redis-server")
def test_services_share_what_keys_have_used(tmp_path: Path, checkpoints: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.operation.quotas.RETRY_SECONDS", 0.1)
    key = write_keys(tmp_path / "keys.toml", 'requests = "4/hour"')["alice"]
    port = find_free_port()
    with ExitStack() as stack:
        redis = stack.enter_context(ExitStack())
        store = redis.enter_context(serve_redis(tmp_path, port))
        one, two = (
            stack.enter_context(httpx.Client(base_url=address, headers={"Authorization": f"Bearer {key}"}))
            for address in stack.enter_context(two_services(checkpoints, tmp_path / "keys.toml", store))
        )
        assert [predict(client).status_code for client in (one, two, one, two)] == [200] * 4
        assert [predict(client).status_code for client in (one, two)] == [429] * 2
        redis.close()
        start = time.monotonic()
        assert [predict(one).status_code for _ in range(5)] == [200] * 4 + [429]  # each counts for itself
        assert time.monotonic() - start < 10
        assert any("store of quotas" in each for each in one.get("/readyz").json()["warnings"])
        with ExitStack() as late, httpx.Client() as client:  # which begins without the server
            (address, _) = late.enter_context(two_services(checkpoints, tmp_path / "keys.toml", store))
            assert client.get(f"{address}/readyz").json()["warnings"]
        assert read_metric(one, "hyperdraw_quotas_fault") == 1
        stack.enter_context(serve_redis(tmp_path, port))
        time.sleep(0.2)
        assert predict(one).status_code == 200
        assert read_metric(one, "hyperdraw_quotas_fault") == 0
    assert RETRY_SECONDS > 1


def test_a_store_needs_keys(checkpoints: Path) -> None:
    with pytest.raises(ConfigurationError, match="name a key file"):
        create_app(Settings(checkpoints=checkpoints, quota_store="redis://127.0.0.1:9"))


@pytest.mark.parametrize("store", ["memcached://x", "redis:/x", "nothing", "redis://host:port"])
def test_what_is_no_store_is_refused(store: str) -> None:
    with pytest.raises(ConfigurationError, match="store of quotas"):
        Quotas(store)
