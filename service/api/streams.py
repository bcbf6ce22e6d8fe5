"""From a stream of the engine to a client: what may be shown, and how it is written."""

import asyncio
import json
import logging
import threading
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary, ref

from fastapi.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from models.sequences.live import Element
from models.sequences.model import SequenceModel
from models.sequences.text import TextSpec
from models.tasks.probabilities import NotFiniteError
from service.api.asking import Deadline
from service.engine.streams import Stream
from service.errors import CLOSING, ErrorDetail, ServiceError, shape_error

logger = logging.getLogger(__name__)

QUIET_SECONDS = 15.0
"""Seconds without anything new, after which a stream gets a comment, so that proxies keep the connection."""


class Bell:
    """Wakes tasks of an event loop from other threads. Waking many at a time costs them one message to the loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = ref(loop)
        self._lock = threading.Lock()
        self._waking: list[asyncio.Event] = []

    def ring(self, event: asyncio.Event) -> None:
        """Sets an event soon."""
        with self._lock:
            self._waking.append(event)
            if len(self._waking) > 1:
                return
        if (loop := self._loop()) is not None:
            with suppress(RuntimeError):  # it is closed, so nobody waits
                loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        with self._lock:
            waking, self._waking = self._waking, []
        for event in waking:
            event.set()


_bells: WeakKeyDictionary[asyncio.AbstractEventLoop, Bell] = WeakKeyDictionary()


async def follow(stream: Stream, deadline: Deadline | None = None) -> AsyncGenerator[list[Element]]:
    """Yields what a stream brings, without the end that may belong to a stop string, until its sequence has ended.

    After `QUIET_SECONDS` without anything new it yields nothing. When it ends, so does the stream's work.

    Raises:
        ServiceError: 500 for outputs that are not finite, 503 if the service is shutting down, 504 after the deadline.
    """
    loop, news = asyncio.get_running_loop(), asyncio.Event()
    if (bell := _bells.get(loop)) is None:
        bell = _bells[loop] = Bell(loop)
    stream.listen(partial(bell.ring, news))
    sequence = stream.sequence
    keep = sequence.stops.longest - 1 if sequence.stops else 0
    held: list[Element] = []
    try:
        while True:
            if deadline is not None and not deadline.remaining:
                raise deadline.exceeded
            ended = stream.future.done()
            held += stream.take()
            if ended:
                _check(stream)
                if shown := held[: len(held) - sequence.cut]:
                    yield shown
                return
            count = len(held) - max(keep, sequence.cut)  # a whole stop string may come before the end is known
            if count > 0:
                shown, held = held[:count], held[count:]
                yield shown
            left = QUIET_SECONDS if deadline is None else min(QUIET_SECONDS, deadline.remaining)
            try:
                async with asyncio.timeout(left):
                    await news.wait()
            except TimeoutError:
                yield []
            news.clear()
    finally:
        stream.future.cancel()


async def follow_all(
    streams: Sequence[Stream], deadline: Deadline | None = None
) -> AsyncGenerator[tuple[int, list[Element] | None]]:
    """Follows several streams at once.

    Yields the number of a stream with what `follow` yields for it, or with None when its sequence has ended.

    Raises:
        ServiceError: as `follow`, as soon as one fails. The work of all then ends.
    """
    sources = [follow(stream, deadline) for stream in streams]
    coming = {asyncio.ensure_future(anext(source, None)): number for number, source in enumerate(sources)}
    try:
        while coming:
            done, _ = await asyncio.wait(coming, return_when=asyncio.FIRST_COMPLETED)
            for task in sorted(done, key=coming.__getitem__):
                elements, number = task.result(), coming.pop(task)
                if elements is not None:
                    coming[asyncio.ensure_future(anext(sources[number], None))] = number
                yield number, elements
    finally:
        for stream in streams:
            stream.future.cancel()
        for task in coming:
            task.cancel()
        await asyncio.gather(*coming, return_exceptions=True)
        for source in sources:
            await source.aclose()  # those that have brought something since the last look


def _check(stream: Stream) -> None:
    if stream.future.cancelled():
        raise ServiceError(503, **CLOSING.model_dump())
    with explaining_nonsense(stream.model):
        stream.future.result()


@contextmanager
def explaining_nonsense(model: SequenceModel) -> Iterator[None]:
    """Turns outputs that are not finite into an answer.

    Raises:
        ServiceError: 500.
    """
    try:
        yield
    except NotFiniteError as error:
        hint = "The model cannot handle this sequence. Try another seed."
        raise ServiceError(500, "not_finite", f"{model.name}: {error}.", hint) from error


class SymbolWriter:
    """Writes elements of texts as JSON."""

    def __init__(self, spec: TextSpec) -> None:
        self._texts = {symbol: json.dumps(symbol) for symbol in spec.symbols}
        self._symbols = spec.symbols

    def write(self, element: Element, text: str | None = None) -> str:
        """The fields of an element, without braces.

        Args:
            element: the element.
            text: the character that was read, if it is given; it may be one that the model does not know.
        """
        probability, bits, entropy, disagreement = element.measures
        shown = self._texts.get(text or self._symbols[element.value])
        fields = (
            f'"text":{shown or json.dumps(text)},"probability":{probability:.6g},"bits":{bits:.6g},'
            f'"entropy":{entropy:.6g},"disagreement":{disagreement:.6g}'
        )
        if element.changes is not None:
            fields += f",{write_changes(element.changes)}"
        return fields if shown else f'{fields},"unknown":true'


@dataclass
class Record:
    """All elements of a text, as an answer has them."""

    values: list[int] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)
    """The JSON of each element. It takes less memory than the element."""
    measures: tuple[list[float], ...] = field(default_factory=lambda: ([], [], [], []))
    """Probability, bits, entropy and disagreement of each element."""

    async def fill(self, stream: Stream, writer: SymbolWriter, text: str | None = None) -> None:
        """Takes all that a stream brings. With a text, it is shown instead of the symbols. Raises as `follow`."""
        async for elements in follow(stream):
            for element in elements:
                shown = None if text is None else text[len(self.values)]
                self.values.append(element.value)
                self.tokens.append(f"{{{writer.write(element, shown)}}}")
                for all_of_one, measure in zip(self.measures, element.measures, strict=True):
                    all_of_one.append(measure)

    def answer(self, head: dict[str, Any]) -> Response:
        """The answer, of other fields and the elements."""
        return write_answer(head, "tokens", f"[{','.join(self.tokens)}]")


class EventStream(StreamingResponse):
    """Server-sent events from streams, whose work ends with the response. An error ends it with an event."""

    def __init__(self, path: str, streams: Sequence[Stream], events: AsyncGenerator[str]) -> None:
        """Prepares the response.

        Args:
            path: the request's path, which decides the shape of an error.
            streams: the streams.
            events: the events.
        """
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        self._events = _explain_errors(path, streams, events)
        super().__init__(self._events, media_type="text/event-stream", headers=headers)
        self._streams = streams

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            for stream in self._streams:
                stream.future.cancel()
            await self._events.aclose()


STILL_HERE = ": still here\n\n"
"""A comment among server-sent events."""


def write_answer(head: dict[str, Any], name: str, content: str) -> Response:
    """An answer as JSON, of some fields and a last one, whose content is JSON already."""
    return Response(f'{json.dumps(head)[:-1]}, "{name}": {content}}}', media_type="application/json")


def write_changes(changes: Sequence[float]) -> str:
    """The field of an element that says how much weights changed, as JSON."""
    return f'"changes":[{",".join([f"{change:.6g}" for change in changes])}]'


def write_event(content: str) -> str:
    """A server-sent event."""
    return f"data: {content}\n\n"


async def _explain_errors(path: str, streams: Sequence[Stream], events: AsyncGenerator[str]) -> AsyncGenerator[str]:
    """Events, and if something fails, one that says so."""
    try:
        async with aclosing(events):
            async for event in events:
                yield event
    except Exception as error:
        status, param = 500, None
        detail = ErrorDetail(
            code="internal_error", message="The service failed.", hint="See the server's log for details."
        )
        if isinstance(error, ServiceError):
            status, param, detail = error.status, error.param, error.detail
        else:
            logger.exception("a stream of %s failed", streams[0].model.name)
        yield write_event(shape_error(path, status, detail, param)[1].model_dump_json())
