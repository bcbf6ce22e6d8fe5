"""Streams of a real engine: consumers that wait, are slow, or leave; limits, faults, and other work beside."""

import threading
from concurrent.futures import CancelledError
from pathlib import Path

import pytest
import torch

import service.engine.streams
from models.sequences.live import Element, LiveSequence, LiveSequences
from models.sequences.model import SequenceModel
from models.sequences.writing import Sampling
from service.admission import OverloadedError
from service.engine.engine import Engine
from service.engine.streams import MOST_HELD, Stream, StreamLimits
from tests.checkpoints import save_curve
from tests.sequences import SPEC, save_writer
from tests.waiting import PATIENCE, wait_until


@pytest.fixture(scope="module")
def writers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("writers")
    save_writer(directory / "writer")
    save_curve(directory / "curve")
    return directory


@pytest.fixture
def model(engine: Engine, writers: Path) -> SequenceModel:
    return engine.load_sequences(writers / "writer")


def begin(model: SequenceModel, length: int, seed: int = 0, members: int = 3) -> LiveSequence:
    return model.open(seed, range(members), SPEC.encode("ab"), more=length, sampling=Sampling(seed), first=2)


def read(stream: Stream) -> list[int]:
    """All that a stream brings to a consumer that takes it at once."""
    taken: list[Element] = []
    news = threading.Event()
    stream.listen(news.set)
    while not stream.future.done():
        taken += stream.take()
        news.wait(PATIENCE)
        news.clear()
    stream.future.result()
    return [element.value for element in [*taken, *stream.take()]]


def test_a_slow_consumer_pauses_its_own_sequence_alone(
    engine: Engine, model: SequenceModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service.engine.streams, "MOST_HELD", 50)
    length = 300
    expected = read(engine.write(model, begin(model, length)))
    slow = engine.write(model, begin(model, length), patient=True)
    assert len(read(engine.write(model, begin(model, length, seed=1)))) == length
    wait_until(lambda: not engine._scheduler.live)  # nothing goes on
    assert 50 <= slow.sequence.position < length
    assert not slow.future.done()
    assert read(slow) == expected
    assert len(expected) == length


def test_a_consumer_that_does_not_need_to_be_fast(engine: Engine, model: SequenceModel) -> None:
    stream = engine.write(model, begin(model, MOST_HELD + 100))
    assert stream.future.result(PATIENCE) == "length"
    assert len(stream.take()) == MOST_HELD + 100


def test_work_ends_when_its_consumer_leaves(engine: Engine, model: SequenceModel) -> None:
    leaving, staying = (engine.write(model, begin(model, 5_000, seed)) for seed in (0, 1))
    wait_until(lambda: leaving.sequence.position > 2)
    leaving.future.cancel()
    wait_until(lambda: leaving.sequence not in model.live._sequences)
    assert leaving.sequence.position < 5_000
    staying.future.cancel()
    wait_until(lambda: not engine._scheduler.live)
    assert engine.streams.count() == {"writer": 0}
    assert engine.streams.admission.amount == 0
    assert len(read(engine.write(model, begin(model, 3)))) == 3


def test_limits(writers: Path) -> None:
    engine = Engine(torch.device("cpu"), stream_limits=StreamLimits(networks=200, elements=100_000))
    try:
        model = engine.load_sequences(writers / "writer")
        streams: list[Stream] = []

        def fill(length: int) -> None:
            streams.extend(engine.write(model, begin(model, length, seed), "someone") for seed in range(100))

        with pytest.raises(OverloadedError):
            fill(9_000)
        assert len(streams) == 3  # of 27,006 characters × networks each
        assert engine.streams.count() == {"writer": 9}
        with pytest.raises(OverloadedError) as refused:
            fill(10)
        assert len(streams) < 66  # of 3 networks each
        assert refused.value.seconds > 0
        assert len(read(engine.write(model, begin(model, 10, members=1), "someone else"))) == 10
        for stream in streams:
            stream.future.cancel()
        assert engine.streams.count() == {"writer": 0}
        assert engine.streams.admission.amount == 0
    finally:
        engine.close()


def test_other_work_has_its_turns(engine: Engine, model: SequenceModel, writers: Path) -> None:
    curve, other = engine.load(writers / "curve"), engine.load_sequences(writers / "writer")
    streams = [engine.write(each, begin(each, 4_000, seed)) for seed in (0, 1) for each in (model, other)]
    wait_until(lambda: all(stream.sequence.position > 2 for stream in streams))
    for _ in range(3):
        answer = engine.predict(curve, torch.zeros(1, 1), seed=0, ensemble_size=8).result(PATIENCE)
        assert answer.prediction.members.shape == (8, 1, 1)
    before = [stream.sequence.position for stream in streams]
    assert max(before) < 4_000
    wait_until(lambda: all(stream.sequence.position > at for stream, at in zip(streams, before, strict=True)))


def test_a_fault_ends_the_live_sequences_and_nothing_else(
    engine: Engine, model: SequenceModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(LiveSequences, "advance", lambda _: 1 / 0)
        failed = [engine.write(model, begin(model, 10, seed)) for seed in (0, 1)]
        for stream in failed:
            assert isinstance(stream.future.exception(PATIENCE), ZeroDivisionError)
    assert len(read(engine.write(model, begin(model, 10)))) == 10
    assert engine.fault is None


def test_a_step_that_runs_out_of_memory_is_retried_with_fewer(
    engine: Engine, model: SequenceModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = [read(engine.write(model, begin(model, 100, seed))) for seed in range(5)]
    advance, failed, made = LiveSequences.advance, list[int](), list[int]()

    def fail(live: LiveSequences) -> bool:
        count = len(live._sequences)
        (failed if count > 2 else made).append(count)
        if count > 2:
            raise torch.OutOfMemoryError
        return advance(live)

    monkeypatch.setattr(LiveSequences, "advance", fail)
    streams = [engine.write(model, begin(model, 100, seed)) for seed in range(5)]
    assert [read(stream) for stream in streams] == expected
    assert failed
    assert max(made) <= 2


def test_the_end_of_the_engine_is_that_of_its_streams(writers: Path) -> None:
    engine = Engine(torch.device("cpu"))
    model = engine.load_sequences(writers / "writer")
    stream = engine.write(model, begin(model, 10_000))
    wait_until(lambda: stream.sequence.position > 2)
    engine.close()
    with pytest.raises(CancelledError):
        stream.future.result(PATIENCE)
    with pytest.raises(CancelledError):
        engine.write(model, begin(model, 10)).future.result(PATIENCE)
