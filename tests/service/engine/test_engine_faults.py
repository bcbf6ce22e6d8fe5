"""What ends the engine, and what must not."""

import ctypes
import logging
import threading
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

import service.engine.batches
import service.engine.engine
from models.model import Model
from service.admission import OverloadedError
from service.app import create_app
from service.engine.batches import Answer
from service.engine.engine import Engine
from service.engine.ensembles import Ensembles
from service.engine.observer import GuardedObserver, Observer
from service.settings import Settings
from tests.conftest import serve
from tests.engine import await_idle, draw_images, hold
from tests.pictures import draw_image, encode
from tests.waiting import PATIENCE, wait_until

PICTURE: dict[str, Any] = {"content": encode(draw_image(size=(8, 8))), "headers": {"Content-Type": "image/png"}}


def raise_in(engine: Engine, error: type[BaseException]) -> None:
    """Raises an exception in the engine's thread, wherever that is."""
    assert engine._thread.ident is not None
    assert (
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(engine._thread.ident), ctypes.py_object(error)) == 1
    )
    engine._call(lambda: None)  # which wakes it


def ask(engine: Engine, model: Model, seed: int | None = None) -> Future[Answer]:
    return engine.predict(model, draw_images(model, 1), seed, 5)


def test_an_observer_that_raises_costs_no_answer_and_is_logged_once(
    model: Model, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any) -> None:
        raise RuntimeError("broken")

    heard = ["begin", "draw", "evaluate", "refuse"]
    for name in heard:
        monkeypatch.setattr(Observer, name, fail)
    engine = Engine(torch.device("cpu"), queue_cost=20, observers=[Observer()])
    with caplog.at_level(logging.ERROR, "service.engine.observer"):
        for seed in range(5):
            assert ask(engine, model, seed).result(PATIENCE).seed == seed
            with hold(engine):
                ask(engine, model)
                with pytest.raises(OverloadedError):
                    engine.predict(model, draw_images(model, 1), None, 100)
    assert sorted(record.getMessage().split()[2] for record in caplog.records) == heard
    assert engine.fault is None
    engine.close()


def test_an_observer_that_raises_keeps_no_other_from_hearing() -> None:
    class Broken(Observer):
        def refuse(self, model: str) -> None:
            raise RuntimeError(model)

    class Listener(Observer):
        def refuse(self, model: str) -> None:
            heard.append(model)

    heard: list[str] = []
    observer = GuardedObserver(Broken(), Listener())
    observer.refuse("some")
    observer.refuse("other")
    assert heard == ["some", "other"]


def test_what_cannot_begin_fails_alone(engine: Engine, model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    take = Ensembles.take
    for error in (ValueError("odd"), MemoryError()):

        def fail(*args: Any, error: Exception = error) -> None:
            raise error

        monkeypatch.setattr(Ensembles, "take", fail)
        with hold(engine):
            futures = [ask(engine, model, seed) for seed in (None, None, 7)]
        for future in futures[:2]:
            with pytest.raises(type(error)):
                future.result(PATIENCE)
        assert futures[2].result(PATIENCE).seed == 7
        await_idle(engine)
    monkeypatch.setattr(Ensembles, "take", take)
    ask(engine, model).result(PATIENCE)
    assert engine.fault is None


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, GeneratorExit])
def test_whatever_ends_the_thread_is_a_fault_and_cancels_what_waits(model: Model, error: type[BaseException]) -> None:
    engine = Engine(torch.device("cpu"))
    done: list[str] = []
    with hold(engine):
        futures: dict[str, Future[Any]] = {
            "short": ask(engine, model, 7),
            "large": engine.predict(model, draw_images(model, 256), 1, 1_000),
            "call": engine.sample(model, 1, [0], {"linear1.bias"}),
        }
        for name, future in futures.items():
            future.add_done_callback(lambda _, name=name: done.append(name))  # type: ignore[misc]
        cancelled = ask(engine, model, 8)
        cancelled.cancel()
        raise_in(engine, error)
    for future in futures.values():
        with pytest.raises(CancelledError):
            future.result(PATIENCE)
    engine._thread.join(PATIENCE)
    assert engine.fault == f"the engine's thread was ended by {error.__name__}"
    assert sorted(done) == sorted(futures)
    assert engine.admission.amount == 0
    assert ask(engine, model).cancelled()
    engine.close()


@pytest.mark.parametrize("part", ["step", "finished", "relieve"])
def test_an_exception_anywhere_leaves_nobody_waiting(model: Model, monkeypatch: pytest.MonkeyPatch, part: str) -> None:
    engine = Engine(torch.device("cpu"))

    def fail(*args: Any) -> None:
        raise SystemExit

    if part == "relieve":
        monkeypatch.setattr(Model, "evaluate", lambda *_: torch.empty(2**60))
    monkeypatch.setattr(service.engine.batches.Batch, part, property(fail) if part == "finished" else fail)
    with hold(engine):
        futures = [ask(engine, model, seed) for seed in (1, 1, 2, None)]
    for future in futures:
        with pytest.raises(CancelledError):
            future.result(PATIENCE)
    engine._thread.join(PATIENCE)
    assert engine.fault
    engine.close()


def test_a_thread_that_is_gone_is_a_fault_whoever_says_so(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "_break", lambda *_: None)
    monkeypatch.setattr(engine, "_cancel_open", lambda: None)
    raise_in(engine, SystemExit)
    engine._thread.join(PATIENCE)
    engine._closing = False  # as if not even that had been reached
    assert engine.fault == "the engine's thread has ended"


def test_many_may_close_it_at_once_and_the_engine_itself(model: Model) -> None:
    engine = Engine(torch.device("cpu"))
    engine._call(engine.close).result(PATIENCE)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: engine.close(), range(8)))
    assert not engine._thread.is_alive()
    assert engine.fault is None
    assert ask(engine, model).cancelled()


def test_a_step_that_does_not_end_is_told_and_does_not_keep_the_engine_from_closing(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine(torch.device("cpu"))
    assert engine.step_seconds == 0
    with hold(engine):
        waiting = ask(engine, model)
        monkeypatch.setattr(service.engine.engine, "STALL_SECONDS", 3600)
        assert engine.stall is None
        monkeypatch.setattr(service.engine.engine, "STALL_SECONDS", 0.1)
        wait_until(lambda: engine.stall is not None)
        assert engine.fault is None
        engine.close(seconds=0.2)  # which would wait for ever otherwise
        assert waiting.cancelled()
    engine._thread.join(PATIENCE)
    assert engine.step_seconds == 0


def test_health_tells_a_thread_that_ended_and_requests_get_503(
    checkpoints: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = create_app(Settings(checkpoints=checkpoints))
    monkeypatch.setattr("service.operation.server.Server.on_tick", _go_on)
    with serve(app) as address, httpx.Client(base_url=address) as client, ThreadPoolExecutor() as pool:
        engine: Engine = app.state.engine
        assert client.get("/healthz").status_code == 200
        with hold(engine):
            waiting = [pool.submit(httpx.post, f"{address}/v1/models/digits/predict", **PICTURE) for _ in range(3)]
            wait_until(lambda: engine.admission.amount == 300)
            raise_in(engine, SystemExit)
        assert [answer.result().status_code for answer in waiting] == [503] * 3
        for path in ("/healthz", "/readyz", "/v2/health/live", "/v2/health/ready"):
            assert client.get(path).status_code == 503
        assert "SystemExit" in client.get("/healthz").json()["error"]["message"]
        assert "hyperdraw_ready 0.0" in client.get("/metrics").text
        for method, path in (("POST", "predict"), ("GET", "weights")):
            content = PICTURE if method == "POST" else {}
            assert client.request(method, f"/v1/models/digits/{path}", **content).status_code == 503


async def _go_on(server: Any, counter: int) -> bool:
    return bool(server.should_exit)


def test_readiness_tells_a_step_that_does_not_end(checkpoints: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app = create_app(Settings(checkpoints=checkpoints))
    with serve(app) as address, httpx.Client(base_url=address) as client:
        assert client.get("/readyz").status_code == 200
        with hold(app.state.engine):
            with monkeypatch.context() as patch:
                patch.setattr(service.engine.engine, "STALL_SECONDS", 0.1)
                wait_until(lambda: client.get("/readyz").status_code == 503)
                assert client.get("/readyz").json()["error"]["code"] == "stalled"
                assert "hyperdraw_ready 0.0" in client.get("/metrics").text
                assert client.get("/healthz").status_code == 200
            assert client.get("/readyz").status_code == 200


def test_a_service_whose_step_does_not_end_can_be_stopped(checkpoints: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app = create_app(Settings(checkpoints=checkpoints))
    monkeypatch.setattr(Engine.close, "__defaults__", (0.2,))
    release = threading.Event()
    with serve(app) as address:
        app.state.engine._call(release.wait)
        httpx.get(f"{address}/healthz").raise_for_status()
    release.set()  # which is not waited for
