import asyncio
import contextlib
import re
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
from tests.connections import Address, exchange, find_address, read_error, receive_all
from tests.engine import await_idle
from tests.pictures import draw_image, encode
from tests.processes import start_process
from tests.waiting import PATIENCE, wait_until

PICTURE: dict[str, Any] = {"content": encode(draw_image(size=(8, 8))), "headers": {"Content-Type": "image/png"}}


@pytest.fixture(scope="module")
def strict(checkpoints: Path) -> FastAPI:
    """An app that takes little at a time."""
    return create_app(Settings(checkpoints=checkpoints, max_connections=20, max_streams=2, max_weights_bytes=2**28))


@pytest.fixture(scope="module")
def http(strict: FastAPI) -> Iterator[str]:
    with serve(strict) as url:
        yield url


@pytest.fixture(scope="module")
def address(http: str) -> Address:
    return find_address(http)


@pytest.fixture(scope="module")
def impatient(checkpoints: Path) -> FastAPI:
    """An app without patience, for what is to exceed it: whatever else it is asked, it may answer that it took long."""
    return create_app(Settings(checkpoints=checkpoints, header_timeout=1, stall_timeout=0.5, body_timeout=0.5))


@pytest.fixture(scope="module")
def impatient_address(impatient: FastAPI) -> Iterator[Address]:
    with serve(impatient) as url:
        yield find_address(url)


HEALTH = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"


def test_headers_must_arrive_in_time(impatient_address: Address) -> None:
    """However they trickle in; the first of them are there long before the second is over."""
    trickle = iter([b"X-A: b\r\n"] * 3000)
    assert read_error(exchange(impatient_address, HEALTH, trickle=trickle)) == (408, "headers_too_slow")
    assert next(trickle, None)  # of half a minute
    assert exchange(impatient_address) == b""  # says nothing, and is sent away


def test_headers_of_a_second_request_must_arrive_in_time(impatient_address: Address) -> None:
    with socket.create_connection(impatient_address, PATIENCE) as connection:
        connection.sendall(HEALTH + b"\r\n")
        assert connection.recv(2**16).startswith(b"HTTP/1.1 200")
        connection.sendall(HEALTH)
        assert b"headers_too_slow" in receive_all(connection)


def test_headers_must_not_be_large(address: Address) -> None:
    for endless in (b"X-A: " + b"a" * 2**20, b"X: a\r\n" * 2**16, b"a" * 2**20):
        assert read_error(exchange(address, HEALTH, endless)) == (431, "headers_too_large")
    at_once = b"X-A: " + b"a" * (MAX_HEADER_BYTES + 100) + b"\r\n\r\n"
    assert read_error(exchange(address, HEALTH + at_once)) == (431, "headers_too_large")
    fitting = b"X-A: " + b"a" * (MAX_HEADER_BYTES - 100) + b"\r\nConnection: close\r\n\r\n"
    assert exchange(address, HEALTH, fitting).startswith(b"HTTP/1.1 200")


CHUNKED = b"POST /v1/models/digits/predict HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n"


@pytest.mark.parametrize(
    "endless",
    [b"0\r\n" + b"a: b\r\n" * 2**18, b"0\r\na: " + b"b" * 2**20, b"1;" + b"x" * 2**20],
    ids=["trailers", "a trailer", "an extension of a chunk"],
)
def test_what_surrounds_chunks_must_not_be_large(address: Address, endless: bytes) -> None:
    """It counts as headers do, and is not kept."""
    assert read_error(exchange(address, CHUNKED, b"\r\n", endless)) == (431, "headers_too_large")


def test_trailers_are_dropped(address: Address) -> None:
    picture = PICTURE["content"]
    body = b"%x\r\n%b\r\n0\r\nX-Request-ID: trailer\r\nExpect: 100-continue\r\n\r\n" % (len(picture), picture)
    second = b"GET /healthz HTTP/1.1\r\nHost: a.localhost\r\nConnection: close\r\n\r\n"
    answer = exchange(address, CHUNKED, b"\r\n", body, second)
    assert answer.count(b"HTTP/1.1 200") == 2
    assert b"trailer" not in answer


def test_many_small_chunks_are_no_headers(address: Address) -> None:
    chunks = b"1\r\na\r\n" * 2**15  # more framing than headers may have
    answer = exchange(address, CHUNKED, b"Connection: close\r\n\r\n", chunks, b"0\r\n\r\n")
    assert read_error(answer) == (422, "invalid_image")


def test_what_nobody_reads_must_end(impatient_address: Address) -> None:
    """An upload that was answered before its end; its client has the time to see why."""
    head = b"POST /nowhere HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000000\r\n\r\n"
    begin = time.monotonic()
    assert read_error(exchange(impatient_address, head))[0] == 404
    assert time.monotonic() - begin > 0.49


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
def test_what_is_not_http_is_answered_in_the_one_shape(address: Address, request_bytes: bytes) -> None:
    answer = exchange(address, request_bytes)
    assert answer.count(b"HTTP/1.1 ") == 1
    assert read_error(answer)[0] in (400, 405)


OFFER = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAA\r\n"


def ask_for_labels(address: Address, *parts: bytes) -> list[str]:
    """Sends parts of requests one after another on a connection, which the last of them closes."""
    with socket.create_connection(address, PATIENCE) as connection:
        for part in parts:
            connection.sendall(part)
            time.sleep(0.01)  # so that they arrive apart
        return re.findall(r'"label":"(\w+)"', receive_all(connection).decode())


def test_offers_of_http_2_are_ignored(address: Address) -> None:
    """Java's client makes them with every request, as does curl --http2."""
    body = PICTURE["content"]
    head = b"POST /v1/models/digits/predict?seed=1 HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\n"
    whole = b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
    chunked = b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    last = head + b"Connection: close\r\n" + whole
    (label,) = ask_for_labels(address, last)
    assert ask_for_labels(address, head + OFFER + whole, last) == [label] * 2
    assert ask_for_labels(address, head + OFFER + chunked, last) == [label] * 2
    assert ask_for_labels(address, (head + OFFER + whole) * 3 + last) == [label] * 4  # without waiting
    message = head + OFFER + whole
    halves = [message[: len(head) + 50], message[len(head) + 50 : -20], message[-20:]]
    assert ask_for_labels(address, *halves, last) == [label] * 2
    assert ask_for_labels(address, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n" + OFFER + b"\r\n" + last) == [label]


def test_offers_are_as_limited_as_other_requests(address: Address) -> None:
    """However many are sent at once, and whatever they are."""
    health = HEALTH + OFFER + b"\r\n"
    answer = exchange(address, health * 500, HEALTH + b"Connection: close\r\n\r\n")
    assert answer.count(b"HTTP/1.1 200 OK") == 501
    tunnel = b"CONNECT localhost:80 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    assert 400 <= read_error(exchange(address, tunnel + b"\r\n"))[0] < 500
    assert read_error(exchange(address, HEALTH + OFFER + b"X-A: b" * MAX_HEADER_BYTES)) == (431, "headers_too_large")


def test_clients_that_do_not_read_are_sent_away(impatient: FastAPI, impatient_address: Address) -> None:
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**16)  # which does not hold the answer
        connection.settimeout(PATIENCE)
        connection.connect(impatient_address)
        connection.sendall(b"GET /v1/models/digits/weights?count=1000 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        head = connection.recv(1000)
        wait_until(lambda: impatient.state.streams == 0)
        length = re.search(rb"content-length: (\d+)", head)
        assert length
        assert len(head) + len(receive_all(connection)) < int(length[1])
    await_idle(impatient.state.engine)


def test_only_so_many_downloads_run_at_a_time(strict: FastAPI, http: str) -> None:
    url = f"{http}/v1/models/digits/weights"
    with httpx.stream("GET", f"{url}?count=1000"), httpx.stream("GET", f"{url}?count=1000"):
        refused = httpx.get(url)
        assert refused.status_code == 429
        assert refused.headers["retry-after"] == "1"
        assert refused.json()["error"]["code"] == "too_many_downloads"
        assert httpx.head(url).status_code == 200
    wait_until(lambda: strict.state.streams == 0)
    assert httpx.get(url).status_code == 200


def test_downloads_may_only_be_so_large(checkpoints: Path) -> None:
    app = create_app(Settings(checkpoints=checkpoints, max_weights_bytes=2**20))
    with serve(app) as address:
        refused = httpx.get(f"{address}/v1/models/digits/weights?count=1000")
        assert refused.status_code == 422
        assert refused.json()["error"]["code"] == "weights_too_large"
        assert httpx.get(f"{address}/v1/models/digits/weights?count=1").status_code == 200


def test_only_so_many_clients_are_connected(address: Address) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(20):
            connection = stack.enter_context(socket.create_connection(address, PATIENCE))
            connection.sendall(HEALTH + b"\r\n")
            assert connection.recv(2**16).startswith(b"HTTP/1.1 200")
        assert read_error(exchange(address, HEALTH + b"\r\n")) == (503, "too_many_connections")
    last = HEALTH + b"Connection: close\r\n\r\n"
    wait_until(lambda: exchange(address, last).startswith(b"HTTP/1.1 200"))


def test_a_faulty_device_fails_liveness_and_ends_the_server(checkpoints: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app = create_app(Settings(checkpoints=checkpoints))
    engine: Engine = app.state.engine
    with serve(app) as address, httpx.Client(base_url=address) as client:
        assert client.get("/healthz").status_code == client.get("/readyz").status_code == 200
        with monkeypatch.context() as broken:
            broken.setattr(Server, "on_tick", lambda *_: asyncio.sleep(0, False))
            broken.setattr(service.engine.engine, "works", lambda _: False)
            with pytest.raises(CancelledError):
                engine.sample(app.state.catalog.resolve("digits"), 0, [-1], {"linear1.bias"}).result(PATIENCE)
            wait_until(lambda: client.get("/healthz").status_code != 200)
            assert client.get("/healthz").json()["error"]["code"] == "device_fault"
            assert client.get("/readyz").status_code == 503
            assert client.post("/v1/models/digits/predict", **PICTURE).status_code == 503
        with pytest.raises(httpx.TransportError):
            wait_until(lambda: client.get("/healthz").status_code == 200)


def test_drains_under_load_without_a_failed_request(checkpoints: Path) -> None:
    """Clients that go by readiness, as load balancers do, have every request answered, and downloads are whole."""
    with start_process(checkpoints, "--drain-delay", "600") as (process, address):
        answers: list[list[httpx.Response]] = [[] for _ in range(8)]
        downloads: list[httpx.Response] = []
        failures: list[httpx.TransportError] = []

        def ask(answers: list[httpx.Response]) -> None:
            try:
                with httpx.Client(base_url=address) as client:
                    while client.get("/readyz").status_code == 200:
                        answers.append(client.post("/v1/models/digits/predict", **PICTURE))
            except httpx.TransportError as error:
                failures.append(error)

        def download() -> None:
            try:
                downloads.append(httpx.get(f"{address}/v1/models/digits/weights?count=1000&seed=1"))
            except httpx.TransportError as error:
                failures.append(error)

        threads = [threading.Thread(target=ask, args=[answers]) for answers in answers]
        threads += [threading.Thread(target=download) for _ in range(2)]
        for thread in threads:
            thread.start()
        wait_until(lambda: failures or all(answers))
        process.send_signal(signal.SIGTERM)
        for thread in threads:
            thread.join()
        assert failures == []
        assert {answer.status_code for each in answers for answer in each} == {200}
        assert [len(response.content) for response in downloads] == [
            int(response.headers["content-length"]) for response in downloads
        ]
        assert httpx.get(f"{address}/healthz").headers["connection"] == "close"  # as it is to be left
        process.send_signal(signal.SIGINT)  # which is not delayed
        assert process.wait(PATIENCE) in (0, -signal.SIGTERM, -signal.SIGINT)


def test_a_delayed_end_comes_by_itself(checkpoints: Path) -> None:
    with start_process(checkpoints, "--drain-delay", "0.5") as (process, address):
        begin = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) in (0, -signal.SIGTERM)
        assert time.monotonic() - begin > 0.49
        with pytest.raises(httpx.ConnectError):
            httpx.get(address)


def test_what_is_cancelled_at_the_end_is_told_so(checkpoints: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What the time to drain does not suffice for is answered in the one shape, and logs no traceback."""
    app = create_app(Settings(checkpoints=checkpoints, drain_timeout=1))
    head = b"POST /v1/models/digits/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nhalf"
    with contextlib.ExitStack() as stack:
        with serve(app) as url:
            connection = stack.enter_context(socket.create_connection(find_address(url), PATIENCE))
            connection.sendall(head)
            wait_until(lambda: "\nhyperdraw_held_bytes 4.0\n" in httpx.get(f"{url}/metrics").text)
        answer = receive_all(connection)
    assert read_error(answer) == (503, "closing")
    assert not [record for record in caplog.records if record.exc_info]


def test_drains_within_its_time(checkpoints: Path) -> None:
    """However slowly a client reads: it would be waited for for long, but for the time to drain."""
    download = "/v1/models/digits/weights?count=1000"
    with (
        start_process(checkpoints, "--drain-timeout", "1", "--stall-timeout", "600") as (process, address),
        httpx.stream("GET", address + download) as response,
    ):
        parts = response.iter_bytes(1000)
        next(parts)
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) in (0, -signal.SIGTERM)
        with pytest.raises(httpx.TransportError):  # as it was broken off
            list(parts)
