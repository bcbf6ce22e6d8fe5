"""Routes of models of sequences: writing on, and scoring."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response

from models.sequences.model import SequenceModel
from models.sequences.text import TextSpec
from models.sequences.writing import Sampling
from service.api.asking import (
    Deadline,
    check_members,
    choose_size,
    explain_inputs,
    find_exchange,
    set_deadline,
    wait_for,
)
from service.api.dependencies import PartsDependency, SequenceModelDependency, TimeoutHeader, describe_errors
from service.api.passages import check_rate, judge_passages
from service.api.sequence_schemas import GenerateAnswer, GenerateBody, ScoreAnswer, ScoreBody, SequenceParameters
from service.api.streams import (
    EventStream,
    Record,
    SymbolWriter,
    follow,
    write_error,
    write_event,
)
from service.api.uploads import read_json
from service.engine.ensembles import choose_seed
from service.engine.streams import Stream
from service.errors import ServiceError
from service.operation.access import require
from service.parts import Parts

logger = logging.getLogger(__name__)

router = APIRouter(
    prefix="/v1/models/{model}",
    tags=["sequences"],
    dependencies=[Depends(require("predict"))],
    responses=describe_errors(401, 403, 404, 408, 413, 415, 422, 429, 500, 503, 504),
)

find_writer = lru_cache(maxsize=16)(SymbolWriter)


@dataclass(frozen=True)
class Writing:
    """A request to a model for text."""

    request: Request
    parts: Parts
    model: SequenceModel
    spec: TextSpec
    timeout: float | None
    deadline: Deadline

    def choose_networks(self, asked: SequenceParameters) -> tuple[int, list[int]]:
        """The seed and the members that answer.

        Raises:
            ServiceError: 422 if they do not exist, or their weights cannot change as requested.
        """
        if asked.changes and not self.model.changes_weights:
            message = f"The weights of {self.model.name}, an LSTM, do not change."
            raise ServiceError(422, "invalid_parameter", message, "Leave out changes.")
        seed = choose_seed() if asked.seed is None else asked.seed
        if asked.member is not None:
            check_members(self.model, asked.member + 1)
            return seed, [asked.member]
        return seed, list(range(choose_size(self.model, asked.ensemble_size, self.parts.settings.max_ensemble_size)))

    def encode(self, text: str) -> list[int]:
        """Numbers of a text's characters.

        Raises:
            ServiceError: 422 if the model cannot read one.
        """
        with explain_inputs():
            return self.spec.encode(text)

    async def record(self, stream: Stream, text: str | None = None) -> Record:
        """All that a stream brings.

        Raises:
            ServiceError: 499 if the client leaves, 500 for outputs that are not finite, 503 if the service is shutting
                down, 504 after the deadline.
        """
        record = Record()
        filling = asyncio.ensure_future(record.fill(stream, find_writer(self.spec), text))
        await wait_for(filling, self.request, self.deadline)
        return record

    @property
    def client(self) -> str:
        """Name of the client, for its share of what may be live."""
        return find_exchange(self.request).client


async def _prepare(
    request: Request, parts: PartsDependency, model: SequenceModelDependency, timeout: TimeoutHeader = None
) -> Writing:
    if model.text is None:
        message = f"{model.name} is a model of {model.input.kind}, not of text."
        raise ServiceError(422, "wrong_kind", message, "Ask a model of text.")
    return Writing(request, parts, model, model.text, timeout, set_deadline(request, timeout, parts))


WritingDependency = Annotated[Writing, Depends(_prepare)]


def _describe_body(schema: Any, **example: Any) -> dict[str, Any]:
    content = {"application/json": {"schema": schema.model_json_schema(), "example": example}}
    return {"requestBody": {"required": True, "content": content}}


@router.post(
    "/generate",
    response_model=GenerateAnswer,
    response_model_exclude_none=True,
    responses={200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}},
    openapi_extra=_describe_body(GenerateBody, prompt="To be, or", max_tokens=100, seed=7),
)
async def generate(writing: WritingDependency) -> Response:
    """Write on from a prompt, or begin a new text.

    With `stream`, each character is a server-sent event. The first event names the seed and the networks; then come
    the characters; the last but one says why the text has ended, and the last is `[DONE]`. A stop string and what
    follows it are never sent. If something fails after the first event, an event with an `error` ends the stream.
    """
    model, settings = writing.model, writing.parts.settings
    hint = 'Send application/json {"prompt": "…", "max_tokens": 100}; see /docs for more.'
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
    stream = writing.parts.engine.write(model, sequence, writing.client, patient=asked.stream)
    head = {
        "model": model.name,
        "version": model.version,
        "seed": seed,
        "members": members,
        "prompt_tokens": len(given),
        "unknown": writing.spec.find_unknown(asked.prompt),
    }
    if asked.stream:
        limit = None if writing.timeout is None else Deadline(writing.timeout, writing.deadline.start)
        return EventStream(stream, _write_events(stream, head, find_writer(writing.spec), limit))
    record = await writing.record(stream)
    text = writing.spec.decode(record.values)
    return record.answer(head | {"text": text, "finish_reason": stream.future.result()})


async def _write_events(
    stream: Stream, head: dict[str, Any], writer: SymbolWriter, limit: Deadline | None
) -> AsyncIterator[str]:
    yield write_event(json.dumps(head))
    number = 0
    try:
        async for elements in follow(stream, limit):
            if not elements:
                yield ": still here\n\n"
                continue
            events = [
                write_event(f'{{"index":{index},{writer.write(element)}}}')
                for index, element in enumerate(elements, number)
            ]
            number += len(elements)
            yield "".join(events)
        yield write_event(json.dumps({"finish_reason": stream.future.result(), "completion_tokens": number}))
        yield write_event("[DONE]")
    except Exception as error:
        if not isinstance(error, ServiceError):
            logger.exception("a stream of %s failed", stream.model.name)
        yield write_error(error)


@router.post(
    "/score",
    response_model=ScoreAnswer,
    response_model_exclude_none=True,
    openapi_extra=_describe_body(ScoreBody, text="To be, or not to be", seed=7),
)
async def score(writing: WritingDependency) -> Response:
    """Say how surprising each character of a text is, and how uncertain the networks were about it.

    Each character is scored given all before it. The first one is scored as that of a new text.
    """
    model, settings = writing.model, writing.parts.settings
    hint = 'Send application/json {"text": "…"}; see /docs for more.'
    asked = await read_json(writing.request, settings, writing.deadline, ScoreBody, "this route takes a text", hint)
    check_rate(model, asked.false_alarm_rate)
    seed, members = writing.choose_networks(asked)
    sequence = model.open(seed, members, writing.encode(asked.text), changes=asked.changes)
    stream = writing.parts.engine.write(model, sequence, writing.client)
    record = await writing.record(stream, asked.text)
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
