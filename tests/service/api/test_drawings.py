"""Drawing, and scoring drawings, over HTTP."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import httpx
import pytest
import torch
from fastapi import FastAPI

from models.sequences.checkpoint import load_sequence_checkpoint
from models.sequences.drawing import render_lines, render_smooth
from service.admission import OverloadedError
from service.api.drawing_schemas import DrawAnswer, ScoreDrawingAnswer
from service.app import create_app
from service.engine.streams import Stream
from service.settings import Settings
from tests.checkpoints import save_curve
from tests.conftest import serve
from tests.connections import find_address
from tests.sequences import LSTM, STROKES, save_writer
from tests.service.api.test_sequences import await_idle, post, read_events
from tests.waiting import PATIENCE, wait_until
from training.sequences.drawings import score_drawings

GENERATE, SCORE = "/v1/models/drawer/generate", "/v1/models/drawer/score"
BEGUN = [[3, -2, 0], [10, 5.5, 1], [-30, 0, 0]]


@pytest.fixture(scope="module")
def drawers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("drawers")
    save_writer(directory / "drawer", spec=STROKES)
    save_writer(directory / "lstm", modes=1, size=LSTM, spec=STROKES)
    save_writer(directory / "writer")
    save_curve(directory / "curve")
    return directory


@pytest.fixture(scope="module")
def app(drawers: Path) -> FastAPI:
    return create_app(Settings(checkpoints=drawers))


@pytest.fixture(scope="module")
def client(app: FastAPI) -> Iterator[httpx.Client]:
    with serve(app) as address, httpx.Client(base_url=address) as client:
        yield client


def check_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    """Checks that points are the same, and what was said of them, but for rounding in other company."""
    assert one["point"] == pytest.approx(other["point"], abs=0.011)
    assert one.keys() == other.keys()
    for name in one.keys() - {"point"}:
        assert one[name] == pytest.approx(other[name], rel=1e-3, abs=1e-3)


def check_same_drawings(one: dict[str, Any], other: dict[str, Any]) -> None:
    for drawing, again in zip(one["drawings"], other["drawings"], strict=True):
        assert drawing["finish_reason"] == again["finish_reason"]
        for told, point in zip(drawing["points"], again["points"], strict=True):
            check_same(told, point)


class TestDrawing:
    def test_an_answer(self, client: httpx.Client, drawers: Path) -> None:
        body = {"prompt": BEGUN, "seed": 3, "changes": True, "temperature": 0.7, "drawings": 4}
        answer = post(client, GENERATE, body)
        DrawAnswer.model_validate(json.loads(json.dumps(answer)))
        assert answer["version"] == load_sequence_checkpoint(drawers / "drawer").version
        assert (answer["seed"], answer["members"], answer["prompt_points"]) == (3, [0, 1, 2], 3)
        assert len({str(drawing["points"]) for drawing in answer["drawings"]}) == 4
        for drawing in answer["drawings"]:
            count = len(drawing["points"])
            assert count <= 27
            assert drawing["finish_reason"] == ("end" if count < 27 else drawing["finish_reason"])
            assert all(len(point["changes"]) == 4 for point in drawing["points"])
            for point in drawing["points"]:
                assert point["nats"] == pytest.approx(point["offset"] + point["pen"], abs=1e-4)
        check_same_drawings(answer, post(client, GENERATE, body))
        fewer = post(client, GENERATE, {**body, "drawings": 1})
        check_same_drawings(fewer, {"drawings": answer["drawings"][:1]})

    def test_what_is_drawn_is_scored_alike(self, client: httpx.Client) -> None:
        ended = 0
        for seed in range(6):
            choice = ({"ensemble_size": 2}, {"member": 1}, {})[seed % 3]
            drawn = post(client, GENERATE, {"seed": seed, "temperature": 2, **choice})
            (drawing,) = drawn["drawings"]
            points = [point["point"] for point in drawing["points"]]
            scored = post(client, SCORE, {"drawing": points, "seed": seed, **choice})
            ended += drawing["finish_reason"] == "end"
            same = len(points) if drawing["finish_reason"] == "end" else -1  # for scoring, the drawing ends there
            for told, again in zip(drawing["points"][:same], scored["points"][:same], strict=True):
                check_same(told, again)
        assert ended > 1

    def test_going_on_with_what_was_drawn(self, client: httpx.Client) -> None:
        """Every point depends on those before it, however these came about, and on its own noise."""
        whole = post(client, GENERATE, {"seed": 5, "max_points": 9, "prompt": BEGUN[:1]})
        points = whole["drawings"][0]["points"]
        assert len(points) > 2
        body = {"seed": 5, "prompt": [BEGUN[0], *(point["point"] for point in points[:2])], "max_points": 9}
        del points[:2]
        check_same_drawings(whole, post(client, GENERATE, body))

    def test_without_a_seed_each_drawing_is_another(self, client: httpx.Client) -> None:
        first, second = (post(client, GENERATE, {"temperature": 0.5}) for _ in range(2))
        assert first["drawings"] != second["drawings"]
        check_same_drawings(post(client, GENERATE, {"seed": first["seed"], "temperature": 0.5}), first)

    @pytest.mark.parametrize("drawings", [1, 5])
    def test_events(self, client: httpx.Client, drawings: int) -> None:
        body = {"prompt": BEGUN, "seed": 5, "changes": True, "drawings": drawings}
        whole = post(client, GENERATE, body)
        response = client.post(GENERATE, json={**body, "stream": True})
        assert response.headers["content-type"].startswith("text/event-stream")
        head, *events = read_events(response.text)
        assert head == {**whole, "drawings": drawings}
        for number, drawing in enumerate(whole["drawings"]):
            *points, end = (event for event in events if event["drawing"] == number)
            assert end == {"drawing": number, "finish_reason": drawing["finish_reason"], "points": len(points)}
            for index, (told, point) in enumerate(zip(points, drawing["points"], strict=True)):
                check_same(told, {"drawing": number, "index": index, **point})

    def test_images(self, client: httpx.Client) -> None:
        body = {"prompt": BEGUN, "seed": 5, "drawings": 3, "temperature": 0.5}
        drawings = post(client, GENERATE, body)["drawings"]
        points = [[*BEGUN, *(point["point"] for point in drawing["points"])] for drawing in drawings]
        for style, render in (("smooth", render_smooth), ("lines", render_lines)):
            response = client.post(GENERATE, json={**body, "format": "svg", "style": style})
            images = response.json()
            assert images == [render(torch.tensor(each)) for each in points]
            assert response.headers["x-hyperdraw-seed"] == "5"
            for image in images:
                assert ElementTree.fromstring(image).tag == "{http://www.w3.org/2000/svg}svg"
        response = client.post(GENERATE, json={**body, "format": "svg", "drawings": 1})
        assert response.headers["content-type"].startswith("image/svg+xml")
        assert response.text == render_smooth(torch.tensor(points[0]))

    def test_an_lstm_draws_too(self, client: httpx.Client) -> None:
        response = client.post("/v1/models/lstm/generate", json={"changes": True})
        assert response.status_code == 422
        assert response.json()["error"]["message"] == "The weights of lstm, an LSTM, do not change."
        assert post(client, "/v1/models/lstm/generate", {})["drawings"]


class TestScoring:
    def test_scores_are_those_of_training(self, client: httpx.Client, drawers: Path) -> None:
        drawing = [*BEGUN, [1, 2, 0], [40, -7.25, 1]]
        answer = post(client, SCORE, {"drawing": drawing, "seed": 4, "changes": True})
        ScoreDrawingAnswer.model_validate(answer)
        sampler = load_sequence_checkpoint(drawers / "drawer").sampler
        together, alone = score_drawings(
            sampler, sampler.draw_latents(4, range(3)), STROKES, [torch.tensor(drawing)], "scoring"
        )
        assert answer["nats"] == pytest.approx(together.item(), rel=1e-5)
        assert answer["nats_per_point"] == pytest.approx(together.item() / 5, rel=1e-5)
        assert answer["disagreement"] == pytest.approx((alone - together).item() / 5, rel=1e-4)
        assert sum(point["nats"] for point in answer["points"]) == pytest.approx(answer["nats"], rel=1e-4)
        assert [point["point"] for point in answer["points"]] == drawing
        assert answer["points"][0]["changes"] == [0, 0, 0, 0]

    def test_the_last_point_ends_the_drawing_lifted_or_not(self, client: httpx.Client) -> None:
        answers = [post(client, SCORE, {"drawing": [*BEGUN, [1, 2, last]], "seed": 4}) for last in (0, 1)]
        assert answers[0]["nats"] == answers[1]["nats"]


class TestRefusals:
    @pytest.mark.parametrize(
        ("body", "message"),
        [
            ({"max_points": 31}, "max_points is 31, but drawings of drawer have at most 30 points."),
            ({"max_points": 0}, "max_points: Input should be greater than or equal to 1."),
            ({"prompt": BEGUN, "max_points": 3}, "The prompt has 3 points of at most 3, so nothing is left to draw."),
            ({"prompt": [[0, 0, 0]] * 31}, "The drawing has 31 points."),
            ({"prompt": [[0, 0]]}, "Point 0 is [0, 0]."),
            ({"prompt": [[0, 1e9, 0]]}, "An offset of point 0 is 1000000000.0."),
            ({"prompt": [[0, 0, 2]]}, "Point 0 has the pen lifted 2."),
            ({"prompt": "To be"}, "prompt: Input should be a valid array."),
            ({"temperature": -1}, "temperature: Input should be greater than or equal to 0."),
            ({"top_k": 5}, "top_k: Extra inputs are not permitted."),
            ({"top_p": 0.5}, "top_p: Extra inputs are not permitted."),
            ({"stop": "a"}, "stop: Extra inputs are not permitted."),
            ({"max_tokens": 5}, "max_tokens: Extra inputs are not permitted."),
            ({"drawings": 13}, "drawings: Input should be less than or equal to 12."),
            ({"drawings": 0}, "drawings: Input should be greater than or equal to 1."),
            ({"format": "png"}, "format: Input should be 'points' or 'svg'."),
            ({"style": "lines"}, 'the body: style is for format "svg".'),
            ({"format": "svg", "stream": True}, "the body: an SVG is not streamed, and has no changes."),
            ({"member": 3}, "drawer has no member 3."),
            ({"ensemble_size": 4}, "drawer has only 3 networks; 4 were requested."),
        ],
    )
    def test_bodies(self, client: httpx.Client, body: Any, message: str) -> None:
        response = client.post(GENERATE, json=body)
        assert response.status_code == 422
        assert response.json()["error"]["message"] == message
        assert response.json()["error"]["hint"]

    def test_hints_name_what_the_kind_takes(self, client: httpx.Client) -> None:
        hint = client.post(GENERATE, json={"top_k": 5}).json()["error"]["hint"]
        assert hint.startswith("drawer draws. Send application/json ")
        for name in ("prompt", "max_points", "temperature", "drawings", "format"):
            assert name in hint
        hint = client.post(SCORE, json={"text": "a"}).json()["error"]["hint"]
        assert hint.startswith('drawer scores drawings. Send application/json {"drawing": [[10, 0, 0], [0, 10, 1]]}.')
        error = client.post("/v1/models/writer/generate", json={"max_points": 5}).json()["error"]
        assert error["message"] == "max_points: Extra inputs are not permitted."
        assert "max_tokens" in error["hint"]

    @pytest.mark.parametrize("drawing", [[], None, [[1, 2, 3]], [[0, 0, 0]] * 31])
    def test_what_is_no_drawing(self, client: httpx.Client, drawing: Any) -> None:
        response = client.post(SCORE, json={"drawing": drawing})
        assert response.status_code == 422
        assert response.json()["error"]["hint"]

    @pytest.mark.parametrize("content", [b'{"prompt": [[NaN, 0, 0]]}', b'{"prompt": [[1e999, 0, 0]]}'])
    def test_numbers_that_are_not_finite(self, client: httpx.Client, content: bytes) -> None:
        assert client.post(GENERATE, content=content).status_code == 422

    def test_all_drawings_are_admitted_or_none(
        self, app: FastAPI, client: httpx.Client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await_idle(app)
        streams, opened = app.state.engine.streams, list[Stream]()
        real = streams.open

        def open_two(stream: Stream, name: str) -> None:
            if len(opened) == 2:
                raise OverloadedError(1.0)
            opened.append(stream)
            real(stream, name)

        monkeypatch.setattr(streams, "open", open_two)
        assert client.post(GENERATE, json={"drawings": 3}).status_code == 429
        assert [stream.future.cancelled() for stream in opened] == [True, True]
        await_idle(app)


def test_lists(client: httpx.Client) -> None:
    listed = client.get("/v1/models").json()
    (drawer,) = (model for model in listed["models"] if model["name"] == "drawer")
    assert drawer["task"] == {"kind": "sequence", "names": ["next point"]}
    assert drawer["input"] == {"kind": "strokes", "scale": 20.0, "extent": 90.0, "max_points": 30, "mixtures": 2}
    assert drawer["sampler"]["ensemble_size"] == 3
    assert client.get("/v1/models/drawer").json().items() >= drawer.items()


def test_the_description_has_both_kinds(client: httpx.Client) -> None:
    description = client.get("/openapi.json").json()
    paths, schemas = description["paths"], description["components"]["schemas"]
    for route, fields in (("generate", {"max_tokens", "max_points"}), ("score", {"text", "drawing"})):
        content = paths[f"/v1/models/{{model}}/{route}"]["post"]["requestBody"]["content"]["application/json"]
        kinds = [schemas[kind["$ref"].rpartition("/")[2]] for kind in content["schema"]["anyOf"]]
        assert [len(fields & set(kind["properties"])) for kind in kinds] == [1, 1]
        assert len(content["examples"]) == 2


def test_work_ends_when_the_client_leaves(app: FastAPI, client: httpx.Client) -> None:
    await_idle(app)
    body = json.dumps({"drawings": 12, "stream": True, "prompt": BEGUN}).encode()
    head = f"POST {GENERATE} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.create_connection(find_address(str(client.base_url)), PATIENCE) as connection:
        connection.sendall(head.encode() + body)
        wait_until(lambda: app.state.engine.streams.count().get("drawer"))
    await_idle(app)
