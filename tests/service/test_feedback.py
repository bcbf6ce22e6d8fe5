"""Keeping answers: no request waits for the store, and what is lost is counted."""

import logging
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch

import service.feedback
from models.feedback.labels import FeedbackError, GivenLabel
from models.feedback.store import Store
from models.model import Model
from models.predictions.prediction import Part
from service.engine.batches import Answer
from service.feedback import MOST_CALLS, Feedback
from tests.engine import draw_images
from tests.waiting import wait_until


@pytest.fixture(scope="module")
def answer(model: Model) -> Answer:
    """Of 20 networks for three inputs."""
    prediction = model.interpret(model.evaluate(model.draw(7, range(20)), model.prepare(draw_images(model, 3))))
    assert model.calibration
    return Answer(7, [Part(torch.arange(3), prediction, model.calibration.measure(prediction))])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "answers.sqlite"


@pytest.fixture
def feedback(path: Path) -> Iterator[Feedback]:
    feedback = Feedback(Store(str(path)), most_answers=100, days=1)
    yield feedback
    feedback.close()


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    vars_of: Any = vars(service.feedback)
    monkeypatch.setitem(vars_of, "MEASURE_SECONDS", 0.02)
    monkeypatch.setitem(vars_of, "TRIM_SECONDS", 0.02)


def label_all(feedback: Feedback, request_id: str, label: object = 0) -> list[str]:
    return [outcome for outcome, _ in feedback.label("", [GivenLabel(request_id, i, label) for i in range(3)]).result()]


def test_a_label_may_follow_at_once(feedback: Feedback, model: Model, answer: Answer) -> None:
    for i in range(20):
        feedback.keep("", f"{i}", model, answer)
        assert label_all(feedback, f"{i}") == ["recorded"] * 3
    measures = feedback.measure(model.name, model.version).result()
    assert (measures.answers, measures.labels) == (60, 60)
    assert feedback.kept == {model.name: 60}
    wait_until(lambda: feedback.measures.get((model.name, model.version)) == measures)


def test_an_unknown_version_has_no_measures(feedback: Feedback) -> None:
    with pytest.raises(LookupError):
        feedback.measure("nothing", "0" * 64).result()


def test_what_waits_is_written_before_the_end(path: Path, model: Model, answer: Answer) -> None:
    feedback = Feedback(Store(str(path)), 100, 1)
    for i in range(30):
        feedback.keep("", f"{i}", model, answer)
    feedback.close()
    with closing(sqlite3.connect(path)) as reader:
        assert reader.execute("SELECT count(*) FROM hyperdraw_answers").fetchone() == (90,)


def test_nothing_waits_for_a_store_that_hangs(
    feedback: Feedback, path: Path, model: Model, answer: Answer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process locks the file. Answers beyond what may wait are dropped, and counted."""
    feedback.keep("", "first", model, answer)
    wait_until(lambda: feedback.kept[model.name] == 3)
    monkeypatch.setitem(vars(service.feedback), "MOST_WAITING", 9)
    with closing(sqlite3.connect(path)) as other:
        other.execute("BEGIN IMMEDIATE")
        for i in range(50):
            feedback.keep("", f"{i}", model, answer)
        assert feedback.dropped["queue"] >= 120
        calls = [feedback.label("", [GivenLabel("first", 0, 1)]) for _ in range(MOST_CALLS)]
        with pytest.raises(FeedbackError, match="too many clients wait"):
            feedback.measure(model.name, model.version)
        other.rollback()
    outcomes = [outcome for call in calls for outcome, _ in call.result()]
    assert sorted(outcomes) == ["recorded", *["repeated"] * (MOST_CALLS - 1)]
    wait_until(lambda: feedback.kept[model.name] + feedback.dropped["queue"] == 153)


def test_the_oldest_answers_make_room(feedback: Feedback, model: Model, answer: Answer) -> None:
    for i in range(40):
        feedback.keep("", f"{i}", model, answer)
    wait_until(lambda: feedback.dropped["space"] == 20)
    assert label_all(feedback, "0") == ["unknown_answer"] * 3
    assert label_all(feedback, "39") == ["recorded"] * 3


def test_a_store_that_fails_is_told_once_and_is_used_again(
    path: Path, model: Model, answer: Answer, caplog: pytest.LogCaptureFixture
) -> None:
    store = Store(str(path))
    path.write_bytes(b"no database" * 1000)
    feedback = Feedback(store, 100, 1)
    with caplog.at_level(logging.INFO, "service.feedback"):
        for i in range(5):
            feedback.keep("", f"{i}", model, answer)
        wait_until(lambda: feedback.dropped["store"] == 15)
        assert feedback.fault
        with pytest.raises(FeedbackError, match="not a database"):
            label_all(feedback, "0")
        path.unlink()
        feedback.keep("", "6", model, answer)
        wait_until(lambda: feedback.fault is None)
    feedback.close()
    first, last = caplog.messages
    assert first == "the feedback store cannot be used: file is not a database; answers are not kept"
    assert last == "the feedback store can be used again"


def test_a_store_that_a_label_finds_removed_is_told(
    path: Path, model: Model, answer: Answer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(vars(service.feedback), "MEASURE_SECONDS", 60)  # so that nothing else looks
    feedback = Feedback(Store(str(path)), 100, 1)
    with caplog.at_level(logging.INFO, "service.feedback"):
        feedback.keep("", "one", model, answer)
        assert label_all(feedback, "one") == ["recorded"] * 3
        wait_until(lambda: feedback._next_measure > 0)  # the writer has looked, and waits
        path.unlink()
        with pytest.raises(FeedbackError, match="was removed or replaced"):
            label_all(feedback, "one")
        assert feedback.fault
        feedback.keep("", "two", model, answer)
        assert label_all(feedback, "two") == ["recorded"] * 3
        assert feedback.fault is None
    feedback.close()
    assert caplog.messages == [
        f"the feedback store {path} was removed or replaced; answers are not kept",
        "the feedback store can be used again",
    ]


def test_another_store_has_measures_of_its_own(feedback: Feedback, path: Path, model: Model, answer: Answer) -> None:
    key = model.name, model.version
    feedback.keep("", "one", model, answer)
    label_all(feedback, "one")
    wait_until(lambda: key in feedback.measures)
    path.unlink()
    wait_until(lambda: key not in feedback.measures)
    feedback.keep("", "one", model, answer)
    assert label_all(feedback, "one", label=1) == ["recorded"] * 3
    wait_until(lambda: key in feedback.measures)
    assert feedback.measures[key] == feedback.measure(*key).result()


def test_a_broken_promise_is_logged_once(
    feedback: Feedback, model: Model, answer: Answer, caplog: pytest.LogCaptureFixture
) -> None:
    part = answer.parts[0]
    least = part.prediction.probabilities.argmin(-1).tolist()
    with caplog.at_level(logging.WARNING, "service.feedback"):
        for i in range(10):
            feedback.keep("", f"{i}", model, answer)
            feedback.label("", [GivenLabel(f"{i}", k, label) for k, label in enumerate(least)]).result()
        wait_until(lambda: caplog.messages)
        wait_until(lambda: feedback.measures[model.name, model.version].labels == 30)
    assert feedback.measures[model.name, model.version].alarm
    (message,) = caplog.messages
    assert message.startswith(f"{model.name}, version {model.version}, covers fewer labels")
