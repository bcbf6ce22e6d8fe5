"""The queue of the log, with a writer that is held."""

import logging
import threading
from collections import Counter
from collections.abc import Iterator

import pytest

from service.recording.log import Outcome, PredictionLog
from tests.service.recording.records import HeldSink, make_record
from tests.waiting import wait_until


class Counts(Counter[Outcome]):
    def add(self, outcome: Outcome, number: int) -> None:
        self[outcome] += number


@pytest.fixture
def sink() -> HeldSink:
    return HeldSink()


@pytest.fixture
def counts() -> Counts:
    return Counts()


@pytest.fixture
def log(sink: HeldSink, counts: Counts) -> Iterator[PredictionLog]:
    log = PredictionLog(sink, counts.add, most_bytes=100)
    yield log
    sink.release.set()
    log.close()


def add(log: PredictionLog, index: int, nbytes: int = 40) -> None:
    log.add(lambda: [make_record(index)], 1, nbytes)


def test_what_does_not_fit_is_dropped_and_counted(log: PredictionLog, sink: HeldSink, counts: Counts) -> None:
    add(log, 0)
    sink.busy.wait()  # what is being written takes its room, too
    for index in (1, 2, 3):
        add(log, index)
    assert counts == {"dropped": 2}
    sink.release.set()
    wait_until(lambda: counts["written"] == 2)
    add(log, 4)
    wait_until(lambda: counts["written"] == 3)
    assert [record.index for record in sink.written] == [0, 1, 4]


def test_records_are_made_in_the_threads_of_the_log(log: PredictionLog, sink: HeldSink) -> None:
    sink.release.set()
    log.add(lambda: [make_record(request_id=threading.current_thread().name)], 1, 0)
    wait_until(lambda: sink.written)
    assert sink.written[0].request_id == "prediction log 0"


def test_failures_are_counted_and_logged_once_until_it_works_again(
    log: PredictionLog, sink: HeldSink, counts: Counts, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    sink.failure = OSError("the disk is full")
    sink.release.set()
    for index in range(5):
        add(log, index, nbytes=0)
    wait_until(lambda: counts["failed"] == 5)
    log.add(lambda: [make_record(1 // 0)], 3, 0)  # what cannot be made is no different
    wait_until(lambda: counts["failed"] == 8)
    sink.failure = None
    add(log, 5)
    wait_until(lambda: counts["written"] == 1)
    assert [record.message for record in caplog.records] == [
        "predictions cannot be logged: the disk is full; further failures are only counted",
        "predictions are logged again",
    ]


def test_the_end_writes_what_waits(sink: HeldSink, counts: Counts) -> None:
    log = PredictionLog(sink, counts.add)
    for index in range(50):
        add(log, index)
    sink.release.set()
    log.close()
    assert [record.index for record in sink.written] == list(range(50))
    assert sink.closed
    add(log, 50)
    assert counts == {"written": 50, "dropped": 1}


def test_the_end_does_not_wait_for_a_sink_that_hangs(
    sink: HeldSink, counts: Counts, caplog: pytest.LogCaptureFixture
) -> None:
    log = PredictionLog(sink, counts.add)
    for index in range(3):
        add(log, index)
    sink.busy.wait()
    log.close(seconds=0.05)
    assert counts == {"dropped": 2}
    assert "2 records of predictions could not be written in time" in caplog.text
    assert not sink.closed
    sink.release.set()
    wait_until(lambda: counts["written"] == 1)
