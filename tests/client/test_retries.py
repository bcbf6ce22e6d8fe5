"""Refusals, failures and timeouts: which the client retries, and which it raises."""

import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import httpx
import hyperdraw
import pytest
from fastapi import FastAPI

from service.app import create_app
from service.settings import Settings
from tests.client.gateway import MODELS, PICTURE, Ask, refuse, respond, stand_before
from tests.conftest import serve
from tests.engine import draw_images, hold


def test_the_service_is_asked_again_when_it_has_time(ask: Ask, client: httpx.Client) -> None:
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=1.5), usegmt=True)
    script = (
        refuse(503, "closing"),
        refuse(429, "overloaded", "Retry-After: 1"),
        refuse(503, "x", f"Retry-After: {soon}"),
    )
    with stand_before(client, *script, 10) as gateway:
        start = time.monotonic()
        answer = ask(gateway.address, "predict", PICTURE, model="digits", seed=7)
        assert time.monotonic() - start > 1
    assert len(answer) == 1
    left = [float(text or 0) for text in gateway.header("X-Request-Timeout")]
    assert len(left) == 5
    assert left == sorted(left, reverse=True)
    assert 59 < left[0] <= 60
    assert left[0] - left[-1] > 1


def test_what_cannot_wait_is_refused_and_then_answered(ask: Ask, checkpoints: Path) -> None:
    app = create_app(Settings(checkpoints=checkpoints, max_queue=100))
    (checkpoint,) = app.state.catalog
    with serve(app) as address:
        with hold(app.state.engine):
            waiting = app.state.engine.predict(checkpoint, draw_images(checkpoint, 3), None, 30)
            with pytest.raises(hyperdraw.Overloaded) as caught:
                ask(address, "predict", PICTURE, ensemble_size=20, options={"retries": 0})
        assert (caught.value.status, caught.value.code) == (429, "overloaded")
        assert caught.value.retry_after is not None
        assert caught.value.retry_after >= 1
        waiting.result(60)
        assert len(ask(address, "predict", PICTURE, ensemble_size=20)) == 1


def test_retries_are_bounded(ask: Ask, client: httpx.Client) -> None:
    with stand_before(client, *[refuse(503)] * 5) as gateway, pytest.raises(hyperdraw.Overloaded):
        ask(gateway.address, "models", options={"retries": 2})
    assert len(gateway.requests) == 3
    with (
        stand_before(client, refuse(429, "overloaded", "Retry-After: 30")) as gateway,
        pytest.raises(hyperdraw.Overloaded) as caught,
    ):
        ask(gateway.address, "models", timeout=5)
    assert caught.value.retry_after == 30
    assert len(gateway.requests) == 1


@pytest.mark.parametrize("code", ["model_refused", "device_fault"])
def test_what_only_people_can_mend_is_not_waited_for(ask: Ask, client: httpx.Client, code: str) -> None:
    with (
        stand_before(client, refuse(503, code, "Retry-After: 0")) as gateway,
        pytest.raises(hyperdraw.ServiceError) as caught,
    ):
        ask(gateway.address, "predict", PICTURE, model="digits")
    assert len(gateway.requests) == 1
    assert (type(caught.value), caught.value.status, caught.value.code) == (hyperdraw.ServiceError, 503, code)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, hyperdraw.InvalidRequest),
        (401, hyperdraw.Unauthorized),
        (403, hyperdraw.Unauthorized),
        (404, hyperdraw.NotFound),
        (409, hyperdraw.InvalidRequest),
        (500, hyperdraw.ServiceError),
        (502, hyperdraw.ServiceError),
        (504, hyperdraw.DeadlineExceeded),
    ],
)
def test_other_refusals_are_raised_at_once(
    ask: Ask, client: httpx.Client, status: int, kind: type[hyperdraw.HyperdrawError]
) -> None:
    with stand_before(client, refuse(status)) as gateway, pytest.raises(hyperdraw.HyperdrawError) as caught:
        ask(gateway.address, "models")
    assert len(gateway.requests) == 1
    assert type(caught.value) is kind
    assert (caught.value.message, caught.value.hint) == ("It was so.", "Do otherwise.")
    if isinstance(caught.value, hyperdraw.ServiceError):
        assert (caught.value.status, caught.value.code) == (status, "some_code")


def test_the_service_s_own_refusals(ask: Ask, address: str) -> None:
    with pytest.raises(hyperdraw.NotFound, match="no model 'ä b\\?'"):
        ask(address, "model", "ä b?")
    with pytest.raises(hyperdraw.InvalidRequest, match=r"ensemble_size is 5000\. It may be at most 1000\."):
        ask(address, "predict", PICTURE, ensemble_size=5000)
    with pytest.raises(hyperdraw.InvalidRequest, match="at most 1048576 bytes"):
        ask(address, "predict", bytes(2**21))
    with pytest.raises(hyperdraw.NotFound, match="not served"):
        ask(address, "sample", version="0" * 64)


@pytest.mark.parametrize(
    "answer",
    [
        respond(200, body=b"<html>"),
        respond(200, body=b"{}"),
        respond(200, body=b"[]"),
        respond(200, body=b'{"default": "digits", "models": [{}], "refused": []}'),
        respond(302, "Location: http://elsewhere"),
        respond(500, body=b"<html>Internal Server Error"),
        respond(206, "Content-Range: bytes 0-0/5", body=b"x"),
    ],
)
def test_what_no_such_service_says(ask: Ask, client: httpx.Client, answer: bytes) -> None:
    with stand_before(client, answer) as gateway, pytest.raises(hyperdraw.HyperdrawError):
        ask(gateway.address, "models")
    assert len(gateway.requests) == 1


def test_nobody_there(ask: Ask, client: httpx.Client) -> None:
    with stand_before(client) as gateway:
        address = gateway.address
    with pytest.raises(hyperdraw.ConnectionFailed, match=rf"{address} does not answer.*hyperdraw-serve"):
        ask(address, "models", options={"retries": 1})
    assert ask(address, "ready") is False
    with stand_before(client, refuse(503)) as gateway:
        assert ask(gateway.address, "ready") is False


def test_the_service_has_no_answer_in_time(ask: Ask, app: FastAPI, address: str) -> None:
    with hold(app.state.engine), pytest.raises(hyperdraw.DeadlineExceeded, match=r"within 0\.\d+ s"):
        ask(address, "predict", PICTURE, model="digits", timeout=0.2)
    assert len(ask(address, "predict", PICTURE)) == 1


def test_no_answer_in_time(ask: Ask, client: httpx.Client) -> None:
    for timeout in ({"timeout": 0.2}, {"options": {"timeout": 0.2}}):
        with stand_before(client, None) as gateway, pytest.raises(hyperdraw.DeadlineExceeded, match=r"within 0\.2 s"):
            ask(gateway.address, "models", **timeout)
    with stand_before(client, respond(200, body=MODELS)[:-1]) as gateway, pytest.raises(hyperdraw.DeadlineExceeded):
        ask(gateway.address, "download", "unused", timeout=0)
