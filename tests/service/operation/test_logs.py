"""What is logged for a request, and under which name."""

import asyncio
import io
import json
import logging
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from service.admission import Admission
from service.app import create_app
from service.operation.logs import make_formatter
from service.operation.middleware import Accounting
from service.settings import Settings
from tests.conftest import serve
from tests.pictures import draw_image, encode
from tests.waiting import wait_until

PREDICT = "/v1/models/digits/predict"
PICTURE = encode(draw_image(size=(8, 8)))
KEYS = {"event", "level", "logger", "timestamp", "request_id", "method", "route", "path", "status", "seconds"} | {
    "bytes_in",
    "bytes_out",
    "client_left",
    "model",
    "client",
    "key",
}


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """What the service logs, as JSON."""
    stream, root = io.StringIO(), logging.getLogger()
    handler, level = logging.StreamHandler(stream), root.level
    handler.setFormatter(make_formatter("json"))
    handler.addFilter(lambda record: record.name != "httpx")
    root.addHandler(handler)
    root.setLevel("INFO")
    yield stream
    root.removeHandler(handler)
    root.setLevel(level)


def read_entries(log: io.StringIO, count: int = 1) -> list[dict[str, Any]]:
    """What was logged, once there are so many lines: a request's comes a moment after its answer."""
    wait_until(lambda: log.getvalue().count("\n") >= count)
    return [json.loads(line) for line in log.getvalue().splitlines()]


def test_a_line_for_each_request(client: httpx.Client, log: io.StringIO) -> None:
    sent = client.build_request("POST", PREDICT, files={"images": PICTURE}, params={"seed": 7, "members": True})
    sent.headers["Authorization"] = "Bearer confidential"
    start = time.perf_counter()
    response = client.send(sent)
    (entry,) = read_entries(log)
    assert set(entry) == KEYS
    assert entry["request_id"] == response.headers["x-request-id"]
    assert (entry["event"], entry["level"], entry["logger"]) == ("request", "info", "service.operation.middleware")
    assert (entry["method"], entry["route"], entry["path"]) == ("POST", "/v1/models/{model}/predict", PREDICT)
    assert (entry["status"], entry["model"], entry["client"]) == (200, "digits", "127.0.0.1")
    assert (entry["bytes_in"], entry["bytes_out"]) == (len(sent.read()), len(response.content))
    assert 0 < entry["seconds"] < time.perf_counter() - start
    assert entry["key"] is None
    assert "confidential" not in log.getvalue()
    assert "seed" not in log.getvalue()


@pytest.mark.parametrize("sane", ["7", "a" * 128, "3f2b.x_Y:z-1"])
def test_a_sane_request_id_is_kept(client: httpx.Client, log: io.StringIO, sane: str) -> None:
    response = client.get("/healthz", headers={"X-Request-ID": sane})
    assert response.headers["x-request-id"] == sane
    assert [entry["request_id"] for entry in read_entries(log)] == [sane]


@pytest.mark.parametrize("odd", ["", "a" * 129, "a b", "a\tb", 'a"}', "a=b"])
def test_another_one_is_replaced(client: httpx.Client, odd: str) -> None:
    made = [client.get("/healthz", headers={"X-Request-ID": odd}).headers["x-request-id"] for _ in range(2)]
    assert [len(request_id) for request_id in made] == [32, 32]
    assert made[0] != made[1]


def test_every_answer_has_an_id(client: httpx.Client) -> None:
    answers = [
        client.get("/nowhere"),
        client.get(PREDICT),
        client.post(PREDICT),
        client.head("/v1/models/digits/weights"),
        client.get("/v1/models/digits/weights?count=3"),
        client.get("/static/app.js"),
        client.get("/docs"),
        client.get("/metrics"),
    ]
    assert [answer.status_code for answer in answers] == [404, 405, 422, 200, 200, 200, 200, 200]
    assert len({answer.headers["x-request-id"] for answer in answers}) == len(answers)


def test_all_lines_of_a_request_have_its_id(
    app: FastAPI, client: httpx.Client, log: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("secret detail")

    monkeypatch.setattr(app.state.engine, "predict", fail)
    response = client.post(PREDICT, files={"images": PICTURE}, headers={"X-Request-ID": "broken"})
    assert (response.status_code, response.headers["x-request-id"]) == (500, "broken")
    failure, request = read_entries(log, 2)
    assert failure["level"] == "error"
    assert "RuntimeError: secret detail" in failure["exception"]
    assert (failure["request_id"], request["request_id"], request["status"]) == ("broken", "broken", 500)


@pytest.mark.parametrize(("trusted", "client"), [([], "127.0.0.1"), (["127.0.0.0/8"], "192.0.2.7")])
def test_proxies_that_are_trusted_say_who_the_client_is(
    checkpoints: Path, log: io.StringIO, trusted: list[str], client: str
) -> None:
    with serve(create_app(Settings(checkpoints=checkpoints, trusted_proxies=trusted))) as address:
        httpx.get(f"{address}/healthz", headers={"X-Forwarded-For": "198.51.100.1, 192.0.2.7"})
    assert [entry["client"] for entry in read_entries(log) if entry["event"] == "request"] == [client]


def test_who_checks_keys_may_name_one(app: FastAPI, log: io.StringIO) -> None:
    async def check(scope: Scope, receive: Receive, send: Send) -> None:
        scope["hyperdraw.key"] = "laboratory"
        await Response()(scope, receive, send)

    bodies = Admission(2**20)
    accounting = Accounting(check, app.state.metrics, app.state.catalog, lambda _: nullcontext(), bodies)
    transport = httpx.ASGITransport(accounting)

    async def ask() -> None:
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            await client.get("/")

    asyncio.run(ask())
    assert [entry["key"] for entry in read_entries(log)] == ["laboratory"]


def test_people_read_one_line_an_event_too() -> None:
    formatter = make_formatter("console")
    record = logging.makeLogRecord({"name": "x", "levelname": "INFO", "levelno": 20, "msg": "request", "path": "a\nb"})
    assert r"path='a\nb'" in formatter.format(record)
    assert "\n" not in formatter.format(record)


@pytest.fixture(scope="module")
def lines(checkpoints: Path) -> list[str]:
    """What the command logs, from its start to its end."""
    command = [sys.executable, "-m", "service", "--port", "0", "--checkpoints", str(checkpoints)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        lines: list[str] = []
        try:
            for line in process.stderr:
                lines.append(line)
                if "running on " in line:
                    address = json.loads(line)["event"].split()[3]
                    assert httpx.post(f"{address}{PREDICT}", files={"images": PICTURE}).status_code == 200
                    process.send_signal(signal.SIGTERM)
        finally:
            process.kill()
    return lines


def test_all_loggers_write_one_format(lines: list[str]) -> None:
    entries = [json.loads(line) for line in lines]
    assert all(set(entry) >= {"event", "level", "logger", "timestamp"} for entry in entries)
    assert not any("color_message" in entry for entry in entries)
    assert {entry["logger"] for entry in entries} == {
        "uvicorn.error",
        "service.catalog",
        "service.operation.middleware",
    }
    (request,) = [entry for entry in entries if entry["logger"] == "service.operation.middleware"]
    assert set(request) == KEYS
    assert request["path"] == PREDICT
