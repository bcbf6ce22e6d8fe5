"""What of a stream is shown to a client, in whichever order the engine's thread and the client's get their turns."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path

import pytest

from models.sequences.live import Element
from models.sequences.model import SequenceModel
from models.sequences.writing import Sampling
from service.api import streams
from service.api.streams import follow, follow_all
from service.engine.engine import Engine
from service.engine.streams import Stream
from tests.sequences import SPEC, save_writer


@pytest.fixture
def model(engine: Engine, tmp_path: Path) -> SequenceModel:
    save_writer(tmp_path / "writer")
    return engine.load_sequences(tmp_path / "writer")


@pytest.mark.parametrize("handed", [(2, 5), (2, 3, 4, 5), (5,), (1, 5)])
def test_no_part_of_a_stop_string_is_shown(model: SequenceModel, handed: tuple[int, ...]) -> None:
    """The client looks after each time that something was handed over, and the future is done later still."""
    sequence = model.open(0, [0], [], more=30, sampling=Sampling(0), stops=["cab"])
    stream = Stream(model, sequence, patient=True, resume=lambda: None)
    written = [Element(number, [0.5, 1.0, 1.0, 0.0], None) for number in SPEC.encode("abcab")]

    async def read() -> str:
        shown = ""
        async for elements in follow(stream):
            shown += "".join(SPEC.symbols[element.value] for element in elements)
        return shown

    async def write() -> str:
        reading, position = asyncio.create_task(read()), 0
        for count in handed:
            for element in written[position:count]:
                sequence.take(element)
            position = count
            stream.hand_over()
            await asyncio.sleep(0.01)
        assert (sequence.ended, sequence.cut) == ("stop", 3)
        stream.future.set_result("stop")
        return await reading

    assert asyncio.run(write()) == "ab"


def test_whoever_leaves_closes_all_streams(model: SequenceModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also those that have brought something that was not looked at."""
    closed = []

    async def bring(stream: Stream, _: object) -> AsyncGenerator[list[Element]]:
        try:
            yield []
        finally:
            closed.append(stream)

    monkeypatch.setattr(streams, "follow", bring)
    several = [Stream(model, model.open(0, [0], [], more=3), True, resume=lambda: None) for _ in range(3)]

    async def leave() -> None:
        async with aclosing(follow_all(several)) as news:
            assert await anext(news) == (0, [])
        assert closed == several

    asyncio.run(leave())
    assert all(stream.future.cancelled() for stream in several)
