"""What of a stream is shown to a client, in whichever order the engine's thread and the client's get their turns."""

import asyncio
from pathlib import Path

import pytest

from models.sequences.live import Element
from models.sequences.model import SequenceModel
from models.sequences.writing import Sampling
from service.api.streams import follow
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
