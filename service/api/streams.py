"""From a stream of the engine to a client: what may be shown, and how it is written."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from fastapi.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from models.sequences.live import Element
from models.sequences.text import TextSpec
from models.tasks.probabilities import NotFiniteError
from service.api.asking import Deadline
from service.engine.streams import Stream
from service.errors import CLOSING, ErrorDetail, ErrorResponse, ServiceError

QUIET_SECONDS = 15.0
"""Seconds without anything new, after which a stream gets a comment, so that proxies keep the connection."""


async def follow(stream: Stream, deadline: Deadline | None = None) -> AsyncIterator[list[Element]]:
    """Yields what a stream brings, without the end that may belong to a stop string, until its sequence has ended.

    After `QUIET_SECONDS` without anything new it yields nothing. When it ends, so does the stream's work.

    Raises:
        ServiceError: 500 for outputs that are not finite, 503 if the service is shutting down, 504 after the deadline.
    """
    loop, news = asyncio.get_running_loop(), asyncio.Event()

    def announce() -> None:
        with suppress(RuntimeError):  # the loop is closed, so nobody waits
            loop.call_soon_threadsafe(news.set)

    stream.listen(announce)
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
            if len(held) > keep:
                count = len(held) - keep
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


def _check(stream: Stream) -> None:
    if stream.future.cancelled():
        raise ServiceError(503, **CLOSING.model_dump())
    if (error := stream.future.exception()) is None:
        return
    if isinstance(error, NotFiniteError):
        hint = "The model cannot handle this text. Try another seed."
        raise ServiceError(500, "not_finite", f"{stream.model.name}: {error}.", hint) from error
    raise error


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
            fields += f',"changes":[{",".join([f"{change:.6g}" for change in element.changes])}]'
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
        return Response(
            f'{json.dumps(head)[:-1]}, "tokens": [{",".join(self.tokens)}]}}', media_type="application/json"
        )


class EventStream(StreamingResponse):
    """Server-sent events from a stream, whose work ends with the response."""

    def __init__(self, stream: Stream, events: AsyncIterator[str]) -> None:
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        super().__init__(events, media_type="text/event-stream", headers=headers)
        self._stream = stream

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._stream.future.cancel()


def write_event(content: str) -> str:
    """A server-sent event."""
    return f"data: {content}\n\n"


def write_error(error: Exception) -> str:
    """The event of an error, which ends a stream."""
    detail = ErrorDetail(code="internal_error", message="The service failed.", hint="See the server's log for details.")
    if isinstance(error, ServiceError):
        detail = error.detail
    return write_event(ErrorResponse(error=detail).model_dump_json())
