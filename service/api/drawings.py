"""Asking models that draw: going on with a drawing, and scoring."""

import json
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import torch
from fastapi import Response
from fastapi.responses import JSONResponse

from models.sequences.drawing import read_drawing, render_lines, render_smooth
from models.sequences.live import Element
from models.sequences.strokes import StrokesSpec
from models.sequences.writing import Sampling
from service.api.asking import explain_inputs
from service.api.drawing_schemas import DrawBody, PointsBody, ScoreDrawingBody
from service.api.sequence_requests import SequenceRequest
from service.api.streams import (
    STILL_HERE,
    EventStream,
    follow_all,
    write_answer,
    write_changes,
    write_event,
)
from service.api.uploads import Body, read_json, validate_json
from service.engine.streams import Stream
from service.errors import ServiceError
from service.names import find_path

SVG = "image/svg+xml"

RENDER = {"smooth": render_smooth, "lines": render_lines}


@dataclass(frozen=True)
class Drawing(SequenceRequest):
    """A request to a model that draws."""

    spec: StrokesSpec

    async def draw(self) -> Response:
        """Goes on with a drawing, once or several times.

        Raises:
            ServiceError: if the request is refused, or cannot be answered.
            OverloadedError: if too many sequences are live.
        """
        hint = f'{self.model.name} draws. Send application/json {{"prompt": [[10, 0, 0], [0, 10, 1]], "seed": 7}}'
        asked = await self._read(DrawBody, "this route takes a prompt and parameters", hint)
        seed, members = self.choose_networks(asked)
        given, length = self._read_points(asked.prompt), self._choose_length(asked)
        sequences = [
            self.model.open(
                seed,
                members,
                given,
                more=length - len(given),
                sampling=Sampling(seed, asked.temperature, number=number),
                first=len(given),
                changes=asked.changes,
            )
            for number in range(asked.drawings)
        ]
        streams = await self.open_streams(sequences, asked.stream)
        head = self._identify(seed, members) | {"prompt_points": len(given)}
        if asked.stream:
            events = self._write_events(streams, head | {"drawings": len(streams)})
            return EventStream(find_path(self.request.scope), streams, events)
        drawn = await self._collect(streams)
        if asked.format == "svg":
            return self._answer_images(given, drawn, asked, seed)
        drawings = [
            f'{{"finish_reason":"{stream.future.result()}","points":{_write_list(elements)}}}'
            for stream, elements in zip(streams, drawn, strict=True)
        ]
        return write_answer(head, "drawings", f"[{','.join(drawings)}]")

    async def score(self) -> Response:
        """Says how surprising each point of a drawing is. Raises as `draw`."""
        hint = f'{self.model.name} scores drawings. Send application/json {{"drawing": [[10, 0, 0], [0, 10, 1]]}}'
        asked = await self._read(ScoreDrawingBody, "this route takes a drawing", hint)
        seed, members = self.choose_networks(asked)
        with explain_inputs():
            points = [[*point, 0.0] for point in read_drawing(asked.drawing, self.spec).tolist()]
        points[-1][3] = 1.0  # the drawing ends with it
        sequence = self.model.open(seed, members, points, changes=asked.changes)
        (elements,) = await self._collect(await self.open_streams([sequence]))
        nats, _, _, disagreement = map(sum, zip(*(element.measures for element in elements), strict=True))
        totals = {"nats": nats, "nats_per_point": nats / len(points), "disagreement": disagreement / len(points)}
        return write_answer(self._identify(seed, members) | totals, "points", _write_list(elements))

    def read_prompt(self, prompt: str) -> list[list[float]]:
        """What networks read of a prompt, points as JSON.

        Raises:
            ServiceError: 422 if it is no drawing.
        """
        hint = f"{self.model.name} draws. Give the prompt as points, such as [[10, 0, 0], [0, 10, 1]]."
        return self._read_points(validate_json(prompt.encode(), PointsBody, hint, len(prompt), len(prompt)).root)

    async def _read(self, schema: type[Body], what: str, hint: str) -> Body:
        hint = f"{hint}. It takes {', '.join(schema.model_fields)}."
        return await read_json(self.request, self.parts.settings, self.deadline, schema, what, hint)

    def _read_points(self, prompt: list[Any]) -> list[list[float]]:
        if not prompt:
            return []
        with explain_inputs():
            return [[*point, 0.0] for point in read_drawing(prompt, self.spec).tolist()]

    def _choose_length(self, asked: DrawBody) -> int:
        """Most points of a drawing.

        Raises:
            ServiceError: 422 if they are too many, or the prompt has as many.
        """
        most = self.spec.max_points
        length = most if asked.max_points is None else asked.max_points
        if length > most:
            message = f"max_points is {length}, but drawings of {self.model.name} have at most {most} points."
            raise ServiceError(422, "invalid_parameter", message, f"Ask for at most {most}.")
        if (given := len(asked.prompt)) >= length:
            message = f"The prompt has {given} points of at most {length}, so nothing is left to draw."
            raise ServiceError(422, "invalid_parameter", message, "Give a shorter prompt, or more max_points.")
        return length

    async def _collect(self, streams: Sequence[Stream]) -> list[list[Element]]:
        """All that streams bring, in their order."""
        collected: list[list[Element]] = [[] for _ in streams]

        async def collect() -> None:
            async with aclosing(follow_all(streams)) as news:
                async for number, elements in news:
                    collected[number] += elements or []

        await self.wait_for(collect())
        return collected

    async def _write_events(self, streams: Sequence[Stream], head: dict[str, Any]) -> AsyncGenerator[str]:
        yield write_event(json.dumps(head))
        counts = [0] * len(streams)
        async with aclosing(follow_all(streams, self.stream_deadline)) as news:
            async for number, elements in news:
                if elements is None:
                    reason = streams[number].future.result()
                    end = {"drawing": number, "finish_reason": reason, "points": counts[number]}
                    yield write_event(json.dumps(end))
                    continue
                events = [
                    write_event(f'{{"drawing":{number},"index":{index},{_write_point(element)}}}')
                    for index, element in enumerate(elements, counts[number])
                ]
                counts[number] += len(elements)
                yield "".join(events) or STILL_HERE
        yield write_event("[DONE]")

    def _answer_images(
        self, given: list[list[float]], drawn: Sequence[list[Element]], asked: DrawBody, seed: int
    ) -> Response:
        render = RENDER[asked.style or "smooth"]
        images = [render(torch.tensor([*given, *(element.value for element in elements)])[:, :3]) for elements in drawn]
        headers = {"X-Hyperdraw-Seed": str(seed), "X-Hyperdraw-Version": self.model.version}
        if len(images) == 1:
            return Response(images[0], media_type=SVG, headers=headers)
        return JSONResponse(images, headers=headers)

    def _identify(self, seed: int, members: list[int]) -> dict[str, Any]:
        return {"model": self.model.name, "version": self.model.version, "seed": seed, "members": members}


def _write_point(element: Element) -> str:
    """The fields of an element as JSON, without braces. A point has the digits that float32 holds."""
    dx, dy, lifted, _ = element.value
    nats, offset, pen, disagreement = element.measures
    fields = (
        f'"point":[{dx:.7g},{dy:.7g},{lifted:.0f}],"nats":{nats:.6g},"offset":{offset:.6g},"pen":{pen:.6g},'
        f'"disagreement":{disagreement:.6g}'
    )
    return fields if element.changes is None else f"{fields},{write_changes(element.changes)}"


def _write_list(elements: Sequence[Element]) -> str:
    return f"[{','.join([f'{{{_write_point(element)}}}' for element in elements])}]"
