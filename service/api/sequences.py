"""Routes of models of sequences: writing on, and scoring."""

import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from functools import lru_cache
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response

from models.sequences.writing import Sampling
from service.api.asking import Deadline
from service.api.dependencies import (
    PartsDependency,
    SequenceModelDependency,
    TimeoutHeader,
    describe_body,
    describe_errors,
)
from service.api.drawing_schemas import DrawAnswer, DrawBody, ScoreDrawingAnswer, ScoreDrawingBody
from service.api.drawings import SVG, Drawing
from service.api.passages import check_rate, judge_passages
from service.api.sequence_kinds import open_sequences
from service.api.sequence_schemas import GenerateAnswer, GenerateBody, ScoreAnswer, ScoreBody
from service.api.streams import STILL_HERE, EventStream, Record, SymbolWriter, follow, write_event
from service.api.uploads import read_json
from service.api.writing import Writing
from service.engine.streams import Stream
from service.names import find_path
from service.operation.access import require

router = APIRouter(
    prefix="/v1/models/{model}",
    tags=["sequences"],
    dependencies=[Depends(require("predict"))],
    responses=describe_errors(401, 403, 404, 408, 413, 415, 422, 429, 500, 503, 504),
)

find_writer = lru_cache(maxsize=16)(SymbolWriter)


async def _prepare(
    request: Request, parts: PartsDependency, model: SequenceModelDependency, timeout: TimeoutHeader = None
) -> Writing | Drawing:
    return open_sequences(request, parts, model, timeout)


SequenceDependency = Annotated[Writing | Drawing, Depends(_prepare)]


async def _record(writing: Writing, stream: Stream, text: str | None = None) -> Record:
    """All that a stream brings. With a text, it is shown instead of the symbols. Raises as `Writing.wait_for`."""
    record = Record()
    await writing.wait_for(record.fill(stream, find_writer(writing.spec), text))
    return record


@router.post(
    "/generate",
    response_model=GenerateAnswer | DrawAnswer | list[str],
    response_model_exclude_none=True,
    responses={200: {"content": {kind: {"schema": {"type": "string"}} for kind in ("text/event-stream", SVG)}}},
    openapi_extra={
        "requestBody": describe_body(
            GenerateBody,
            DrawBody,
            examples={
                "text": {"value": {"prompt": "To be, or", "max_tokens": 100, "seed": 7}},
                "drawing": {"value": {"prompt": [[10, 0, 0], [0, 10, 1]], "temperature": 0.5, "seed": 7}},
            },
        )
    },
)
async def generate(writing: SequenceDependency) -> Response:
    """Write on from a prompt, or begin a new text. A model that draws goes on with a drawing, or begins one.

    With `stream`, each character is a server-sent event. The first event names the seed and the networks; then come
    the characters; the last but one says why the text has ended, and the last is `[DONE]`. A stop string and what
    follows it are never sent. If something fails after the first event, an event with an `error` ends the stream.

    Points of drawings are events, too. Each names its drawing. An event for each drawing says why it has ended.
    """
    if isinstance(writing, Drawing):
        return await writing.draw()
    model, settings = writing.model, writing.parts.settings
    hint = f'{model.name} writes text. Send application/json {{"prompt": "…", "max_tokens": 100}}; see /docs for more.'
    asked = await read_json(
        writing.request, settings, writing.deadline, GenerateBody, "this route takes a prompt and parameters", hint
    )
    seed, members = writing.choose_networks(asked)
    given = writing.encode(asked.prompt)
    sequence = model.open(
        seed,
        members,
        given,
        more=asked.max_tokens,
        sampling=Sampling(seed, asked.temperature, asked.top_k, asked.top_p),
        stops=asked.stop,
        first=len(given),
        changes=asked.changes,
    )
    (stream,) = await writing.open_streams([sequence], asked.stream)
    head = {
        "model": model.name,
        "version": model.version,
        "seed": seed,
        "members": members,
        "prompt_tokens": len(given),
        "unknown": writing.spec.find_unknown(asked.prompt),
    }
    if asked.stream:
        events = _write_events(stream, head, find_writer(writing.spec), writing.stream_deadline)
        return EventStream(find_path(writing.request.scope), [stream], events)
    record = await _record(writing, stream)
    text = writing.spec.decode(record.values)
    return record.answer(head | {"text": text, "finish_reason": stream.future.result()})


async def _write_events(
    stream: Stream, head: dict[str, Any], writer: SymbolWriter, limit: Deadline | None
) -> AsyncGenerator[str]:
    yield write_event(json.dumps(head))
    number = 0
    async with aclosing(follow(stream, limit)) as pieces:
        async for elements in pieces:
            events = [
                write_event(f'{{"index":{index},{writer.write(element)}}}')
                for index, element in enumerate(elements, number)
            ]
            number += len(elements)
            yield "".join(events) or STILL_HERE
    yield write_event(json.dumps({"finish_reason": stream.future.result(), "completion_tokens": number}))
    yield write_event("[DONE]")


@router.post(
    "/score",
    response_model=ScoreAnswer | ScoreDrawingAnswer,
    response_model_exclude_none=True,
    openapi_extra={
        "requestBody": describe_body(
            ScoreBody,
            ScoreDrawingBody,
            examples={
                "text": {"value": {"text": "To be, or not to be", "seed": 7}},
                "drawing": {"value": {"drawing": [[10, 0, 0], [0, 10, 1]], "seed": 7}},
            },
        )
    },
)
async def score(writing: SequenceDependency) -> Response:
    """Say how surprising each character of a text, or each point of a drawing, is, and how uncertain the networks were.

    Each is scored given all before it. The first one is scored as that of a new text or drawing.
    """
    if isinstance(writing, Drawing):
        return await writing.score()
    model, settings = writing.model, writing.parts.settings
    hint = f'{model.name} scores text. Send application/json {{"text": "…"}}; see /docs for more.'
    asked = await read_json(writing.request, settings, writing.deadline, ScoreBody, "this route takes a text", hint)
    check_rate(model, asked.false_alarm_rate)
    seed, members = writing.choose_networks(asked)
    sequence = model.open(seed, members, writing.encode(asked.text), changes=asked.changes)
    (stream,) = await writing.open_streams([sequence])
    record = await _record(writing, stream, asked.text)
    _, bits, entropy, disagreement = map(sum, record.measures)
    count = len(record.values)
    head = {
        "model": model.name,
        "version": model.version,
        "seed": seed,
        "members": members,
        "symbols": count,
        "bits": bits,
        "bits_per_character": bits / count,
        "entropy": entropy / count,
        "disagreement": disagreement / count,
        "unknown": writing.spec.find_unknown(asked.text),
    }
    if foreign := judge_passages(model, record, len(members), asked.false_alarm_rate):
        head["foreign"] = foreign.model_dump()
    return record.answer(head)
