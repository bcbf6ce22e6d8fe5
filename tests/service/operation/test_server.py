import asyncio
import contextlib
import json
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

import service.engine.engine
from service.app import create_app
from service.engine.engine import Engine
from service.operation.server import MAX_HEADER_BYTES, Server
from service.settings import Settings
from tests.conftest import serve
from tests.pictures import draw_image, encode
from tests.processes import start_process
from tests.service.api.test_predictions import await_idle

PICTURE: dict[str, Any] = {"content": encode(draw_image(size=(8, 8))), "headers": {"Content-Type": "image/png"}}


@pytest.fixture(scope="module")
def strict(checkpoints: Path) -> FastAPI:
    """An app without patience."""
    settings = Settings(
        checkpoints=checkpoints,
        header_timeout=0.3,
        keep_alive=1,
        stall_timeout=0.5,
        body_timeout=0.5,
        max_connections=20,
        max_streams=2,
        max_weights_bytes=2**28,
    )
    return create_app(settings)


@pytest.fixture(scope="module")
def address(strict: FastAPI) -> Iterator[tuple[str, int]]:
    with serve(strict) as url:
        yield "127.0.0.1", int(url.rpartition(":")[2])


@pytest.fixture
def http(address: tuple[str, int]) -> str:
    return "http://{}:{}".format(*address)


def exchange(address: tuple[str, int], *parts: bytes, pause: float = 0) -> bytes:
    """What the server answers to bytes, until it closes the connection."""
    with socket.create_connection(address, timeout=10) as connection:
        for part in parts:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                connection.sendall(part)
            time.sleep(pause)
        answer = b""
        with contextlib.suppress(ConnectionResetError):
            while part := connection.recv(2**16):
                answer += part
        return answer


def read_error(answer: bytes) -> tuple[int, str]:
    """The status and the code of an error in the one shape."""
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"application/json" in head
    return int(head.split()[1]), json.loads(body)["error"]["code"]


def test_headers_must_arrive_in_time(address: tuple[str, int]) -> None:
    begin = time.monotonic()
    slow = exchange(
        address, *[bytes([byte]) for byte in b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n" * 3], pause=0.01
    )
    assert read_error(slow) == (408, "headers_too_slow")
    assert exchange(address) == b""  # says nothing, and is sent away
    assert time.monotonic() < begin + 5


def test_headers_of_a_second_request_must_arrive_in_time(address: tuple[str, int]) -> None:
    first = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
    answer = exchange(address, first, *[bytes([byte]) for byte in first * 2], pause=0.02)
    assert answer.startswith(b"HTTP/1.1 200")
    assert b"headers_too_slow" in answer


def test_headers_must_not_be_large(address: tuple[str, int]) -> None:
    line = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"
    for endless in (b"X-A: " + b"a" * 2**20, b"X: a\r\n" * 2**16, b"a" * 2**20):
        assert read_error(exchange(address, line, endless)) == (431, "headers_too_large")
    at_once = b"X-A: " + b"a" * (MAX_HEADER_BYTES + 100) + b"\r\n\r\n"
    assert read_error(exchange(address, line + at_once)) == (431, "headers_too_large")
    fitting = b"X-A: " + b"a" * (MAX_HEADER_BYTES - 100) + b"\r\nConnection: close\r\n\r\n"
    assert exchange(address, line, fitting).startswith(b"HTTP/1.1 200")


CHUNKED = b"POST /v1/models/digits/predict HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    "endless",
    [b"0\r\n" + b"a: b\r\n" * 2**18, b"0\r\na: " + b"b" * 2**20, b"1;" + b"x" * 2**20],
    ids=["trailers", "a trailer", "an extension of a chunk"],
)
def test_what_surrounds_chunks_must_not_be_large(strict: FastAPI, address: tuple[str, int], endless: bytes) -> None:
    """It counts as headers do, and is not kept."""
    assert read_error(exchange(address, CHUNKED, endless)) == (431, "headers_too_large")


def test_trailers_are_dropped(address: tuple[str, int]) -> None:
    picture = PICTURE["content"]
    body = b"%x\r\n%b\r\n0\r\nX-Request-ID: trailer\r\nExpect: 100-continue\r\n\r\n" % (len(picture), picture)
    second = b"GET /healthz HTTP/1.1\r\nHost: a.localhost\r\nConnection: close\r\n\r\n"
    answer = exchange(address, CHUNKED, body, second)
    assert answer.count(b"HTTP/1.1 200") == 2
    assert b"trailer" not in answer


def test_many_small_chunks_are_no_headers(address: tuple[str, int]) -> None:
    chunks = b"1\r\na\r\n" * 2**15  # more framing than headers may have
    assert read_error(exchange(address, CHUNKED, chunks, b"0\r\n\r\n", b"", pause=0.1)) == (422, "invalid_image")


def test_what_nobody_reads_must_end(address: tuple[str, int]) -> None:
    """An upload that was answered before its end; its client has the time to see why."""
    head = b"POST /nowhere HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000000\r\n\r\n"
    begin = time.monotonic()
    assert read_error(exchange(address, head, pause=0.1))[0] == 404
    assert 0.3 < time.monotonic() - begin < 5


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\nA b: c\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",  # smuggling
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
)
def test_what_is_not_http_is_answered_in_the_one_shape(address: tuple[str, int], request_bytes: bytes) -> None:
    answer = exchange(address, request_bytes)
    assert answer.count(b"HTTP/1.1 ") == 1
    assert read_error(answer)[0] in (400, 405)


def test_clients_that_do_not_read_are_sent_away(strict: FastAPI, address: tuple[str, int]) -> None:
    with socket.create_connection(address, timeout=10) as connection:
        connection.sendall(b"GET /v1/models/digits/weights?count=1000 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        while strict.state.streams == 0:
            pass
        begin = time.monotonic()
        while strict.state.streams:
            assert time.monotonic() < begin + 10
            time.sleep(0.01)
    await_idle(strict.state.engine)


def test_only_so_many_downloads_run_at_a_time(strict: FastAPI, http: str) -> None:
    url = f"{http}/v1/models/digits/weights"
    with httpx.stream("GET", f"{url}?count=1000"), httpx.stream("GET", f"{url}?count=1000"):
        refused = httpx.get(url)
        assert refused.status_code == 429
        assert refused.headers["retry-after"] == "1"
        assert refused.json()["error"]["code"] == "too_many_downloads"
        assert httpx.head(url).status_code == 200
    while strict.state.streams:
        time.sleep(0.01)
    for _ in range(3):
        assert httpx.get(url).status_code == 200


def test_downloads_may_only_be_so_large(checkpoints: Path) -> None:
    app = create_app(Settings(checkpoints=checkpoints, max_weights_bytes=2**20))
    with serve(app) as address:
        refused = httpx.get(f"{address}/v1/models/digits/weights?count=1000")
        assert refused.status_code == 422
        assert refused.json()["error"]["code"] == "weights_too_large"
        assert httpx.get(f"{address}/v1/models/digits/weights?count=1").status_code == 200


def test_only_so_many_clients_are_connected(address: tuple[str, int], http: str) -> None:
    line = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with contextlib.ExitStack() as stack:
        for _ in range(20):
            connection = stack.enter_context(socket.create_connection(address, timeout=10))
            connection.sendall(line)
            assert connection.recv(2**16).startswith(b"HTTP/1.1 200")
        assert read_error(exchange(address, line)) == (503, "too_many_connections")
    time.sleep(0.1)
    assert httpx.get(f"{http}/healthz").status_code == 200


def test_a_faulty_device_fails_liveness_and_ends_the_server(checkpoints: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app = create_app(Settings(checkpoints=checkpoints))
    engine: Engine = app.state.engine
    with serve(app) as address, httpx.Client(base_url=address) as client:
        assert client.get("/healthz").status_code == client.get("/readyz").status_code == 200
        with monkeypatch.context() as broken:
            broken.setattr(Server, "on_tick", lambda *_: asyncio.sleep(0, False))
            broken.setattr(service.engine.engine, "works", lambda _: False)
            with pytest.raises(CancelledError):
                engine.sample(app.state.catalog.resolve("digits"), 0, [-1], {"linear1.bias"}).result(60)
            begin = time.monotonic()
            while client.get("/healthz").status_code == 200:
                assert time.monotonic() < begin + 10
            assert client.get("/healthz").json()["error"]["code"] == "device_fault"
            assert client.get("/readyz").status_code == 503
            assert client.post("/v1/models/digits/predict", **PICTURE).status_code == 503
        with contextlib.suppress(httpx.TransportError):
            while client.get("/healthz"):
                assert time.monotonic() < begin + 10


def test_drains_under_load_without_a_failed_request(checkpoints: Path) -> None:
    """Clients that go by readiness, as load balancers do, have every request answered, and downloads are whole."""
    with start_process(checkpoints, "--drain-delay", "1.5") as (process, address):
        failures: list[str] = []
        answered = 0

        def ready(client: httpx.Client) -> bool:
            try:
                return client.get("/readyz").status_code == 200
            except httpx.ConnectError:  # to a service that has ended, as an answer had taken long
                return False

        def ask() -> None:
            nonlocal answered
            with httpx.Client(base_url=address, timeout=60) as client:
                try:
                    while ready(client):
                        response = client.post("/v1/models/digits/predict", **PICTURE)
                        if response.status_code != 200:
                            failures.append(response.text)
                        answered += 1
                except httpx.TransportError as error:
                    failures.append(repr(error))

        def download() -> None:
            try:
                response = httpx.get(f"{address}/v1/models/digits/weights?count=1000&seed=1", timeout=60)
                if len(response.content) != int(response.headers["content-length"]):
                    failures.append("short")
            except httpx.TransportError as error:
                failures.append(repr(error))

        threads = [threading.Thread(target=target) for target in (*[ask] * 8, *[download] * 2)]
        for thread in threads:
            thread.start()
        time.sleep(0.7)
        before = answered
        process.send_signal(signal.SIGTERM)
        for thread in threads:
            thread.join()
        assert process.wait(30) in (0, -signal.SIGTERM)
        assert failures == []
        assert before > 0
        with pytest.raises(httpx.ConnectError):
            httpx.get(address)


def test_what_is_cancelled_at_the_end_is_told_so(checkpoints: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What the time to drain does not suffice for is answered in the one shape, and logs no traceback."""
    app = create_app(Settings(checkpoints=checkpoints, drain_timeout=1))
    head = b"POST /v1/models/digits/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nhalf"
    with contextlib.ExitStack() as stack:
        with serve(app) as url:
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), 30))
            connection.sendall(head)
            time.sleep(0.2)
        answer = b""
        while part := connection.recv(2**16):
            answer += part
    assert read_error(answer) == (503, "closing")
    assert not [record for record in caplog.records if record.exc_info]


def test_drains_within_its_time(checkpoints: Path) -> None:
    """However slow a client reads."""
    download = "/v1/models/digits/weights?count=1000"
    with (
        start_process(checkpoints, "--drain-timeout", "1") as (process, address),
        httpx.stream("GET", address + download) as response,
    ):
        next(response.iter_bytes(1000))
        begin = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) in (0, -signal.SIGTERM)
        assert time.monotonic() < begin + 10
