"""Drawings that both clients let the service draw and score, and the command that draws."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import httpx
import hyperdraw
import numpy as np
import pytest
import torch
from hyperdraw import drawing_commands
from hyperdraw.__main__ import app as command_line
from hyperdraw.braille import rasterize, write_ascii, write_braille
from rich.console import Console
from typer.testing import CliRunner

from service.app import create_app
from service.settings import Settings
from tests.checkpoints import save_table
from tests.client.gateway import Ask, refuse, respond, stand_before
from tests.conftest import serve
from tests.rounding import allow_rounding
from tests.sequences import STROKES, save_writer

PROMPT: list[list[float]] = [[10, 2.5, 0], [0, -20, 1], [5, 5, 0]]

ASKED: dict[str, Any] = {"drawings": 3, "seed": 7, "temperature": 0.5, "max_points": 12}


@pytest.fixture(scope="module")
def draw_address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Two random models: `signs` draws, and `writer` writes text."""
    directory = tmp_path_factory.mktemp("checkpoints")
    save_table(directory / "people")
    save_writer(directory / "signs", modes=2, spec=STROKES)
    save_writer(directory / "writer", modes=1)
    with serve(create_app(Settings(checkpoints=directory))) as address:
        yield address


@pytest.fixture(scope="module")
def service(draw_address: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=draw_address, timeout=60) as service:
        yield service


def list_fields(found: hyperdraw.ScoredPoints) -> list[dict[str, Any]]:
    """Points in the form of the service's answers."""
    columns = {"point": found.points, "nats": found.nats, "offset": found.offset, "pen": found.pen}
    columns |= {"disagreement": found.disagreement}
    columns |= {} if found.changes is None else {"changes": found.changes}
    return [dict(zip(columns, row, strict=True)) for row in zip(*(c.tolist() for c in columns.values()), strict=True)]


@pytest.mark.parametrize("changes", [False, True])
def test_drawings_are_those_of_the_service(ask: Ask, draw_address: str, service: httpx.Client, changes: bool) -> None:
    asked = ASKED | {"changes": changes}
    said = service.post("/v1/models/signs/generate", json=asked | {"prompt": PROMPT}).json()
    answer = ask(draw_address, "draw", "signs", PROMPT, **asked)
    assert (answer.model, answer.seed, answer.members) == ("signs", 7, [0, 1])
    assert answer.version == said["version"]
    assert len(answer.drawings) == 3
    for drawing, expected in zip(answer.drawings, said["drawings"], strict=True):
        assert list_fields(drawing) == allow_rounding(expected["points"], 0.011)
        assert drawing.finish_reason == expected["finish_reason"]
        assert drawing.whole.tolist() == [*PROMPT, *drawing.points.tolist()]
        assert len(drawing.whole) <= 12


@pytest.mark.parametrize(
    "prompt",
    [
        np.array(PROMPT),
        np.array(PROMPT, np.float16),
        torch.tensor(PROMPT, requires_grad=True),
        torch.tensor(PROMPT, dtype=torch.bfloat16),
        [np.array(point) for point in PROMPT],
        tuple(map(tuple, PROMPT)),
    ],
)
def test_prompts_may_be_arrays(draw_address: str, prompt: Any) -> None:
    with hyperdraw.Client(draw_address) as client:
        expected, found = (client.draw("signs", given, seed=7, max_points=9) for given in (PROMPT, prompt))
        score = client.score_drawing("signs", prompt, seed=7)
        assert score.nats == pytest.approx(client.score_drawing("signs", PROMPT, seed=7).nats)
    np.testing.assert_allclose(found.drawings[0].whole, expected.drawings[0].whole, atol=0.011)


def test_new_drawings_begin_at_the_origin(draw_address: str) -> None:
    with hyperdraw.Client(draw_address) as client:
        (drawing,) = client.draw("signs", seed=7, member=1).drawings
        again = client.draw("signs", np.zeros((0, 3)), seed=7, member=1).drawings[0]
    assert drawing.prompt.shape == (0, 3)
    assert drawing.points.shape == (len(drawing.nats), 3)
    np.testing.assert_allclose(again.points, drawing.points, atol=0.011)
    strokes = drawing.list_strokes()
    assert strokes[0][0].tolist() == drawing.points[0, :2].tolist()
    assert np.concatenate(strokes)[-1] == pytest.approx(drawing.points[:, :2].sum(0))


def test_strokes_end_where_the_pen_is_lifted() -> None:
    empty = np.zeros(2)
    prompt, points = np.array(PROMPT), np.array([[1.0, 1.0, 1.0], [2.0, 0.0, 1.0]])
    drawing = hyperdraw.Drawing(points, empty, empty, empty, empty, None, "end", prompt)
    strokes = [[[10, 2.5], [10, -17.5]], [[15, -12.5], [16, -11.5]], [[18, -11.5]]]
    assert [stroke.tolist() for stroke in drawing.list_strokes()] == strokes


@pytest.mark.parametrize("style", ["smooth", "lines"])
def test_images_are_those_of_the_service(ask: Ask, draw_address: str, service: httpx.Client, style: str) -> None:
    said = service.post("/v1/models/signs/generate", json=ASKED | {"format": "svg", "style": style})
    answer = ask(draw_address, "draw_svg", "signs", style=style, **ASKED)
    assert answer == hyperdraw.DrawingImages("signs", said.headers["X-Hyperdraw-Version"], 7, said.json())
    one = ask(draw_address, "draw_svg", "signs", style=style, **ASKED | {"drawings": 1})
    assert one.images == answer.images[:1]
    assert ElementTree.fromstring(one.images[0]).tag == "{http://www.w3.org/2000/svg}svg"
    fresh = ask(draw_address, "draw_svg", "signs", PROMPT, style=style)
    assert ask(draw_address, "draw_svg", "signs", PROMPT, style=style, seed=fresh.seed) == fresh


def test_scores_are_those_of_the_service(ask: Ask, draw_address: str, service: httpx.Client) -> None:
    asked = {"seed": 7, "changes": True}
    said = service.post("/v1/models/signs/score", json=asked | {"drawing": PROMPT}).json()
    score = ask(draw_address, "score_drawing", "signs", PROMPT, **asked)
    assert list_fields(score.drawing) == said.pop("points")
    assert {name: getattr(score, name) for name in said} == said
    assert score.nats == pytest.approx(score.drawing.nats.sum())
    assert score.drawing.changes.shape == (3, 4)
    assert ask(draw_address, "score_drawing", "signs", PROMPT, member=1).drawing.changes is None


def test_a_drawing_that_ended_has_its_own_score(draw_address: str) -> None:
    with hyperdraw.Client(draw_address) as client:
        drawings = client.draw("signs", drawings=12, seed=7).drawings
        drawing = next(drawing for drawing in drawings if drawing.finish_reason == "end")
        score = client.score_drawing("signs", drawing.points, seed=7)
    assert score.drawing.nats == pytest.approx(drawing.nats, rel=1e-3, abs=1e-3)
    assert score.nats_per_point == pytest.approx(drawing.nats.mean(), rel=1e-3, abs=1e-3)


@pytest.mark.parametrize("call", ["draw", "draw_svg", "score_drawing"])
@pytest.mark.parametrize(
    ("model", "points", "parameters", "kind", "message"),
    [
        ("nobody", PROMPT, {}, hyperdraw.NotFound, "no model 'nobody'"),
        ("people", PROMPT, {}, hyperdraw.InvalidRequest, "people is not a model of sequences"),
        ("writer", PROMPT, {}, hyperdraw.InvalidRequest, r"writer (writes|scores) text\. Send"),
        ("signs", PROMPT, {"member": 7}, hyperdraw.InvalidRequest, r"no member 7\. Its members are 0 to 1"),
        ("signs", [[1, 2]], {}, hyperdraw.InvalidRequest, r"Point 0 is \[1, 2\]"),
        ("signs", np.full((1, 3), np.nan), {}, hyperdraw.InvalidRequest, "offset of point 0 is"),
        ("signs", [[1, 2, 0.5]], {}, hyperdraw.InvalidRequest, "pen lifted 0.5"),
        ("signs", np.zeros((31, 3)), {}, hyperdraw.InvalidRequest, "31 points"),
        ("signs", "text", {}, hyperdraw.InvalidRequest, r"valid array\. signs (draws|scores drawings)\. Send"),
        ("signs", [{1, 2}], {}, ValueError, "a list, an array or a tensor of points .*; it contains set"),
    ],
)
def test_what_is_refused_is_explained(
    draw_address: str, call: str, model: str, points: Any, parameters: Any, kind: type[Exception], message: str
) -> None:
    with hyperdraw.Client(draw_address) as client, pytest.raises(kind, match=message):
        getattr(client, call)(model, points, **parameters)


@pytest.mark.parametrize("asked", [{"temperature": -1}, {"drawings": 13}, {"max_points": 31}, {"max_points": 3}])
def test_parameters_that_are_refused_are_explained(draw_address: str, asked: dict[str, Any]) -> None:
    with hyperdraw.Client(draw_address) as client, pytest.raises(hyperdraw.InvalidRequest, match=next(iter(asked))):
        client.draw("signs", PROMPT, **asked)


def test_refusals_are_tried_again(ask: Ask, service: httpx.Client) -> None:
    for call, arguments in (("draw", ()), ("draw_svg", ()), ("score_drawing", (PROMPT,))):
        with stand_before(service, b"", refuse(429), refuse(503)) as gateway:
            answer = ask(gateway.address, call, "signs", *arguments, seed=7)
        assert (answer.seed, len(gateway.requests)) == (7, 4)


@pytest.mark.parametrize("answer", ["[]", "{}", '{"drawings": [{"points": [{"point": [1]}]}]}'])
def test_what_is_no_drawing_is_said(service: httpx.Client, answer: str) -> None:
    for call, arguments in (("draw", ()), ("draw_svg", ()), ("score_drawing", (PROMPT,))):
        with (
            stand_before(service, respond(200, body=answer.encode())) as gateway,
            hyperdraw.Client(gateway.address) as client,
            pytest.raises(hyperdraw.InvalidAnswer),
        ):
            getattr(client, call)("signs", *arguments)


def test_lines_become_dots() -> None:
    diagonal = rasterize([np.array([[5.0, 7.0], [6.0, 8.0]])], 4, 4)
    assert diagonal.tolist() == np.eye(4, dtype=bool).tolist()
    corner = rasterize([np.array([[0.0, 0.0], [20.0, 0.0], [20.0, 10.0]])], 8, 11)
    expected = np.zeros((8, 11), bool)
    expected[0] = expected[:6, 10] = True
    assert corner.tolist() == expected.tolist()
    two = rasterize([np.array([[0.0, 0.0], [0.0, 2.0]]), np.array([[2.0, 2.0]])], 3, 9)
    assert two.astype(int)[:, :4].tolist() == [[1, 0, 0, 0], [1, 0, 0, 0], [1, 0, 1, 0]]
    assert two.sum() == 4
    point = rasterize([np.array([[3.0, -3.0]])], 4, 2)
    assert (point[0, 0], point.sum()) == (True, 1)
    upwards = rasterize([np.array([[1.0, 9.0], [1.0, -9.0]])], 12, 2)
    assert upwards[:, 0].all()


@pytest.mark.parametrize(("width", "height"), [(1, 1), (30, 7), (7, 30), (12, 12), (2, 41)])
def test_lines_have_no_gaps(width: int, height: int) -> None:
    dots = rasterize([np.array([[0.0, height - 1], [width - 1.0, 0.0]])], height, width)
    assert dots.sum() == max(width, height)
    y, x = dots.nonzero()
    order = np.lexsort((-y, x))
    assert np.abs(np.diff(x[order])).max(initial=0) <= 1
    assert np.abs(np.diff(y[order])).max(initial=0) <= 1


def test_dots_become_characters() -> None:
    for number, character in enumerate("⠁⠈⠂⠐⠄⠠⡀⢀"):
        dots = np.zeros((8, 4), bool)
        dots[4 + number // 2, 2 + number % 2] = True
        assert write_braille(dots) == ["  ", f" {character}"]
    assert write_braille(np.ones((4, 6), bool)) == ["⣿⣿⣿"]
    assert write_braille(np.eye(4, dtype=bool)) == ["⠑⢄"]
    assert write_ascii(np.eye(4, dtype=bool)) == ["'.  ", "  '."]
    assert write_ascii(np.ones((2, 3), bool)) == [":::"]


def run(address: str, *arguments: str, code: int = 0, charset: str = "utf-8") -> str:
    """What `hyperdraw draw` prints, or what it says if it fails."""
    result = CliRunner(charset=charset).invoke(command_line, ["draw", *arguments], env={"HYPERDRAW_URL": address})
    assert result.exit_code == code, result.output
    return result.stderr if code else result.stdout


SHOWN = "--drawings", "4", "--seed", "7", "--temperature", "0.5"


@pytest.fixture(scope="module")
def drawn(draw_address: str) -> hyperdraw.Drawings:
    """What the command shows."""
    with hyperdraw.Client(draw_address) as client:
        return client.draw("signs", drawings=4, seed=7, temperature=0.5)


@pytest.mark.parametrize(("charset", "rows", "columns"), [("utf-8", 4, 2), ("ascii", 2, 1)])
def test_drawings_are_shown_side_by_side(
    draw_address: str, drawn: hyperdraw.Drawings, charset: str, rows: int, columns: int
) -> None:
    shown = run(draw_address, "signs", *SHOWN, charset=charset).splitlines()
    write = write_braille if charset == "utf-8" else write_ascii
    expected: list[str] = []
    for drawings in (drawn.drawings[:3], drawn.drawings[3:]):
        tiles = [write(rasterize(drawing.list_strokes(), 12 * rows, 24 * columns)) for drawing in drawings]
        expected += [line for parts in zip(*tiles, strict=True) if (line := "  ".join(parts).rstrip())]
        captions = [f"{len(drawing.points)} points, {drawing.nats.sum():.1f} nats" for drawing in drawings]
        expected.append("  ".join(caption.ljust(24) for caption in captions).rstrip())
    assert shown == [*expected, "2 networks of signs, seed 7"]


@pytest.mark.parametrize(("width", "captions"), [(10, 4), (24, 4), (50, 2), (102, 1)])
def test_as_many_as_there_is_room_for(
    draw_address: str, monkeypatch: pytest.MonkeyPatch, width: int, captions: int
) -> None:
    make = lambda: Console(force_terminal=True, color_system=None, width=width, highlight=False)  # noqa: E731
    monkeypatch.setattr(drawing_commands, "make_console", make)
    lines = run(draw_address, "signs", *SHOWN).splitlines()
    assert sum("points" in line for line in lines) == captions
    assert max(len(line) for line in lines if "points" not in line and "networks" not in line) <= width


def test_numbers_are_printed(draw_address: str, drawn: hyperdraw.Drawings) -> None:
    shown = json.loads(run(draw_address, "signs", *SHOWN, "--json"))
    expected = dataclasses.asdict(drawn)
    assert shown["drawings"][3]["points"] == expected["drawings"][3]["points"].tolist()
    assert (shown["version"], shown["seed"], shown["members"]) == (drawn.version, 7, [0, 1])
    assert shown["drawings"][0].keys() == expected["drawings"][0].keys()


def test_files_are_written(draw_address: str, tmp_path: Path) -> None:
    with hyperdraw.Client(draw_address) as client:
        smooth = client.draw_svg("signs", drawings=4, seed=7, temperature=0.5)
        (line,) = client.draw_svg("signs", style="lines", seed=7).images
    said = run(draw_address, "signs", *SHOWN, "--out", str(tmp_path / "sign.svg"))
    files = [tmp_path / f"sign-{number}.svg" for number in range(1, 5)]
    assert [file.read_text() for file in files] == smooth.images
    origin = f"of signs at version {smooth.version}, seed 7."
    assert said == f"Wrote {files[0]} to {files[3]}: 4 drawings {origin}\n"
    one = str(tmp_path / "one.svg")
    assert run(draw_address, "signs", "--seed", "7", "--style", "lines", "--out", one).startswith(f"Wrote {one}: 1 dr")
    assert Path(one).read_text() == line
    assert run(draw_address, "signs", "--seed", "7", "--style", "lines", "--out", "-") == line
    said = run(draw_address, "signs", *SHOWN, "--json", "--out", str(tmp_path / "sign.svg"))
    assert json.loads(said) == {"files": list(map(str, files)), "model": "signs", "version": smooth.version, "seed": 7}


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["people"], 1, "people is not a model of sequences"),
        (["nobody"], 1, "no model 'nobody'"),
        (["writer"], 1, "writer writes text. Send"),
        (["signs", "--temperature", "11"], 1, "temperature"),
        (["signs", "--temperature", "-1"], 2, "--temperature"),
        (["signs", "--drawings", "13"], 1, "drawings"),
        (["signs", "--drawings", "0"], 2, "--drawings"),
        (["signs", "--style", "lines"], 2, "--style is for the file of --out"),
        (["signs", "--style", "rough", "--out", "-"], 2, "--style"),
        (["signs", "--drawings", "2", "--out", "-"], 2, "standard output takes one drawing"),
        (["signs", "--out", "/"], 1, "Is a directory"),
        (["signs", "--out", "/nowhere/sign.svg"], 1, "No such file"),
    ],
)
def test_mistakes_are_explained(draw_address: str, arguments: list[str], code: int, message: str) -> None:
    said = run(draw_address, *arguments, code=code)
    assert message in " ".join(said.replace("│", "").split())
    assert "Traceback" not in said
