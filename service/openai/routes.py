"""OpenAI's completions."""

import json
import secrets
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Depends, Request, Response

from models.sequences.live import LiveSequence
from models.sequences.writing import Sampling
from service.api.asking import set_deadline
from service.api.dependencies import PartsDependency, TimeoutHeader, describe_body, describe_foreign_errors
from service.api.streams import STILL_HERE, EventStream, follow_all, write_event
from service.api.uploads import read_json
from service.api.writing import Writing, open_writing
from service.engine.streams import Stream
from service.errors import CompletionErrorResponse, ServiceError
from service.names import find_path
from service.openai.messages import ChoiceWriter, Completion, CompletionBody, join_pieces
from service.operation.access import require

LARGEST_SHARE = 0.5
"""Largest share of what may be live that the choices of a request may take together, if it has several."""

EXAMPLE = {"model": "writer", "prompt": "To be, or", "max_tokens": 100, "seed": 7}

router = APIRouter(prefix="/v1/completions", tags=["OpenAI's completions"])


@router.post(
    "",
    response_model=Completion,
    responses={
        200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}},
        **describe_foreign_errors(CompletionErrorResponse, 400, 401, 403, 404, 408, 413, 415, 429, 500, 503, 504),
    },
    openapi_extra={"requestBody": describe_body(CompletionBody, example=EXAMPLE)},
    dependencies=[Depends(require("predict"))],
)
async def complete(request: Request, parts: PartsDependency, timeout: TimeoutHeader = None) -> Response:
    """Write on from prompts, as OpenAI's API does.

    `ensemble_size`, `member` and `top_k` are not among OpenAI's parameters. With `stream`, pieces of the choices are
    server-sent events, and the last event is `[DONE]`. If something fails after the first event, an event with an
    `error` ends the stream.
    """
    deadline = set_deadline(request, timeout, parts)
    hint = 'Send application/json {"model": "…", "prompt": "…"}; see /docs for more.'
    asked = await read_json(request, parts.settings, deadline, CompletionBody, "this route takes a prompt", hint)
    with _blaming("model"):
        model = parts.catalog.resolve_sequences(asked.model)
        writing = open_writing(request, parts, model, timeout, deadline)
    answer = await _open(writing, asked)
    if asked.stream:
        return EventStream(find_path(request.scope), answer.streams, answer.write_events(writing))
    await writing.wait_for(answer.collect())
    return Response(json.dumps(answer.write_whole()), media_type="application/json")


@contextmanager
def _blaming(parameter: str) -> Iterator[None]:
    """Names the parameter that an error is about."""
    try:
        yield
    except ServiceError as error:
        error.param = parameter
        raise


@dataclass
class _Answer:
    """The choices of a request, and what the engine writes for them."""

    asked: CompletionBody
    head: dict[str, Any]
    writers: list[ChoiceWriter]
    streams: list[Stream]
    pieces: list[list[dict[str, Any]]]
    """What has been written of each choice, if it is kept."""

    @property
    def usage(self) -> dict[str, int]:
        """Numbers of characters so far."""
        prompts, written = sum(map(len, self.asked.prompt)), sum(writer.count for writer in self.writers)
        return {"prompt_tokens": prompts, "completion_tokens": written, "total_tokens": prompts + written}

    async def collect(self) -> None:
        """Keeps all that the engine writes. Raises as `follow_all`."""
        async with aclosing(follow_all(self.streams)) as news:
            async for number, elements in news:
                reason = self.streams[number].future.result() if elements is None else None
                self.pieces[number].append(self.writers[number].write(elements or [], reason))

    def write_whole(self) -> dict[str, Any]:
        """What was kept, as a `Completion`."""
        return {**self.head, "choices": [join_pieces(pieces) for pieces in self.pieces], "usage": self.usage}

    async def write_events(self, writing: Writing) -> AsyncGenerator[str]:
        """Server-sent events, as the engine writes. Raises as `follow_all`."""
        counts = self.asked.stream_options is not None and self.asked.stream_options.include_usage
        head = {**self.head, "usage": None} if counts else self.head
        async with aclosing(follow_all(self.streams, writing.stream_deadline)) as news:
            async for number, elements in news:
                if elements == []:
                    yield STILL_HERE
                    continue
                reason = self.streams[number].future.result() if elements is None else None
                piece = self.writers[number].write(elements or [], reason)
                yield write_event(json.dumps({**head, "choices": [piece]}))
        if counts:
            yield write_event(json.dumps({**head, "choices": [], "usage": self.usage}))
        yield write_event("[DONE]")


async def _open(writing: Writing, asked: CompletionBody) -> _Answer:
    """Lets the engine begin with all choices, those of the first prompt first.

    A choice depends on the prompt, the seed and its number among those of the prompt, not on the other prompts.

    Raises:
        ServiceError: 422 if the model cannot answer, or the choices together are too much; 429 if they are for the key.
        OverloadedError: if too many sequences are live.
    """
    model = writing.model
    writers: list[ChoiceWriter] = []
    sequences: list[LiveSequence] = []
    for prompt in asked.prompt:
        with _blaming("prompt"):
            given = writing.encode(prompt)
        with _blaming("ensemble_size" if asked.member is None else "member"):
            seed, members = writing.choose_networks(asked)
        for own in range(seed, seed + asked.n):
            scores = asked.logprobs is not None
            writer = ChoiceWriter(len(writers), own, writing.spec.symbols, prompt, asked.echo, scores)
            sampling = Sampling(own, asked.temperature, asked.top_k, asked.top_p)
            sequence = model.open(
                own,
                members,
                given,
                more=asked.max_tokens,
                sampling=sampling,
                stops=asked.stop,
                first=writer.first,
                likely=asked.logprobs or 0,
            )
            writers.append(writer)
            sequences.append(sequence)
    _check_share(writing, sequences)
    streams = await writing.open_streams(sequences, asked.stream)
    head = {
        "id": f"cmpl-{secrets.token_hex(12)}",
        "object": "text_completion",
        "created": int(time.time()),
        "model": model.name,
        "system_fingerprint": model.version[:12],
    }
    return _Answer(asked, head, writers, streams, [[] for _ in writers])


def _check_share(writing: Writing, sequences: list[LiveSequence]) -> None:
    """Checks that several choices can be live together.

    Raises:
        ServiceError: 422 if not.
    """
    settings = writing.parts.settings
    networks = sum(len(sequence.networks) for sequence in sequences)
    symbols = sum(len(sequence.networks) * sequence.length for sequence in sequences)
    for what, total, limit in (
        ("choices × networks", networks, settings.max_live_networks),
        ("choices × networks × characters", symbols, settings.max_live_symbols),
    ):
        if len(sequences) > 1 and total > (most := int(LARGEST_SHARE * limit)):
            message = f"The request asks for {total:,} {what}."
            hint = f"It may ask for {most:,}. Send fewer prompts, or a smaller n, max_tokens or ensemble_size."
            raise ServiceError(422, "too_many_choices", message, hint)
