"""Predictions that are computed while the device has nothing else to do."""

import gc
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from models.model import Model
from service.engine.engine import Engine
from service.engine.idle import IdlePredictions
from service.engine.observer import Observer
from tests.engine import draw_images, hold
from tests.waiting import PATIENCE, wait_until


class Ears(Observer):
    """Counts the reports that it gets, and the inputs among them."""

    def __init__(self) -> None:
        self.inputs = self.reports = 0

    def measure(self, *report: Any) -> None:
        self.inputs += len(report[1].positions)

    def draw(self, *report: Any) -> None:
        self.reports += len(report) > 0

    def evaluate(self, *report: Any) -> None:
        self.reports += len(report) > 0


@pytest.fixture
def heard() -> Iterator[tuple[Engine, Ears]]:
    ears = Ears()
    engine = Engine(torch.device("cpu"), observers=[ears])
    yield engine, ears
    engine.close()


def test_the_answer_is_the_usual_one_but_no_observer_hears_of_it(heard: tuple[Engine, Ears], model: Model) -> None:
    engine, ears = heard
    images = draw_images(model, 30)
    idle = engine.predict_when_idle(model, images, 7, 20).result(PATIENCE)
    assert (ears.inputs, ears.reports, idle.seed) == (0, 0, 7)
    usual = engine.predict(model, images, 7, 20).result(PATIENCE)
    assert ears.inputs == 30
    assert ears.reports > 1
    torch.testing.assert_close(idle.prediction.members, usual.prediction.members)


def test_all_other_work_comes_first(engine: Engine, model: Model) -> None:
    order: list[str] = []
    with hold(engine):
        idle = engine.predict_when_idle(model, draw_images(model, 2), 7, 5)
        idle.add_done_callback(lambda _: order.append("idle"))
        for seed in range(3):
            future = engine.predict(model, draw_images(model, 200), seed, 200)
            future.add_done_callback(lambda _: order.append("usual"))
    idle.result(PATIENCE)
    assert order == ["usual"] * 3 + ["idle"]


def test_what_waits_is_bounded(engine: Engine, model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    images = draw_images(model, 10)
    monkeypatch.setattr(engine._idle, "_most_bytes", 2 * images.nbytes + 1)
    with hold(engine):
        futures = [engine.predict_when_idle(model, images, seed, 5) for seed in range(4)]
        assert [future.cancelled() for future in futures] == [False, False, True, True]
    assert [future.result(PATIENCE).seed for future in futures[:2]] == [0, 1]
    assert engine.predict_when_idle(model, images, 2, 5).result(PATIENCE).seed == 2  # there is room again


def test_a_model_that_is_unloaded_is_held_by_nothing(engine: Engine, model: Model) -> None:
    dropped = model.rename("dropped")
    kept = [engine.predict_when_idle(model, draw_images(model, 2), seed, 5) for seed in range(2)]
    with hold(engine):
        futures = [engine.predict_when_idle(dropped, draw_images(model, 100), seed, 1000) for seed in range(3)]
    engine.unload(dropped)  # while the first may have begun
    assert all(future.done() for future in futures)
    assert futures[-1].cancelled()
    held, others = weakref.ref(dropped), [future.result(PATIENCE).seed for future in kept]
    del dropped, futures
    gc.collect()
    assert held() is None
    assert others == [0, 1]
    assert engine.fault is None


def test_a_failure_ends_only_its_request(
    engine: Engine, model: Model, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    images = draw_images(model, 2)
    with hold(engine):
        futures = [engine.predict_when_idle(model, images, seed, 5) for seed in range(2)]
        draw = Model.draw

        def fail_once(model: Model, seed: int, members: range) -> object:
            if seed == 0:
                raise RuntimeError("odd")
            return draw(model, seed, members)

        monkeypatch.setattr(Model, "draw", fail_once)
    with pytest.raises(RuntimeError, match="odd"):
        futures[0].result(PATIENCE)
    assert futures[1].result(PATIENCE).seed == 1
    wait_until(lambda: engine._idle.finished)


def test_nothing_is_left_when_the_engine_closes(model: Model) -> None:
    engine = Engine(torch.device("cpu"))
    with hold(engine):
        future = engine.predict_when_idle(model, draw_images(model, 2), 7, 5)
        engine.close(0)
    assert future.cancelled()
    assert engine.predict_when_idle(model, draw_images(model, 2), 7, 5).cancelled()


def test_a_request_that_nobody_wants_any_more_is_skipped(engine: Engine, model: Model) -> None:
    with hold(engine):
        futures = [engine.predict_when_idle(model, draw_images(model, 2), seed, 5) for seed in range(3)]
        futures[1].cancel()
    assert futures[2].result(PATIENCE).seed == 2
    assert isinstance(engine._idle, IdlePredictions)
    wait_until(lambda: engine._idle._bytes == 0)
