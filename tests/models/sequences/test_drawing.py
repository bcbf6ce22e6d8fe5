"""Drawings from clients, and as SVG."""

import json
import re
import xml.etree.ElementTree as ElementTree
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from models.inputs.kind import InputError
from models.sequences.drawing import list_strokes, read_drawing, render_lines, render_smooth
from models.sequences.strokes import StrokesSpec

SPEC = StrokesSpec(scale=10.0, extent=50.0, max_points=5)
SVG = "{http://www.w3.org/2000/svg}"

TWO_STROKES = torch.tensor([[10, 20, 0], [30, 0, 0], [0, 60, 1], [-40, 0, 1]], dtype=torch.float32)
"""From (10, 20) by (40, 20) to (40, 80), and a dot at (0, 80)."""

GENTLE = torch.tensor([[0, 0, 0], [50, 25, 0], [50, -25, 1]], dtype=torch.float32)


def numbers(text: str) -> list[float]:
    return [float(number) for number in re.findall(r"-?[\d.]+", text)]


def pairs(text: str) -> list[tuple[float, float]]:
    found = numbers(text)
    return list(zip(found[::2], found[1::2], strict=True))


def read_paths(svg: str) -> list[str]:
    return [path.attrib["d"] for path in ElementTree.fromstring(svg).iter(f"{SVG}path")]


def read_polylines(svg: str) -> list[str]:
    return [line.attrib["points"] for line in ElementTree.fromstring(svg).iter(f"{SVG}polyline")]


def random_drawing(seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    offsets = 40 * torch.randn(60, 2, generator=generator)
    return torch.cat([offsets, (torch.rand(60, 1, generator=generator) < 0.2).float()], dim=1)


def test_a_clients_drawing_is_read() -> None:
    drawing = json.loads("[[1, -2.5, 0], [0, 0, true], [3, 4, 1.0], [0, 1e3, false]]")
    points = read_drawing(drawing, SPEC)
    assert points.dtype == torch.float32
    assert points.tolist() == [[1, -2.5, 0], [0, 0, 1], [3, 4, 1], [0, 1000, 0]]


@pytest.mark.parametrize(
    ("drawing", "message"),
    [
        ("{}", "The drawing is {}."),
        ('"[[1, 2, 0]]"', "The drawing is '[[1, 2, 0]]'."),
        ("null", "The drawing is None."),
        ("[]", "The drawing has 0 points. Give 1 to 5 points."),
        ("[[1, 2, 0], [1, 2, 0], [1, 2, 0], [1, 2, 0], [1, 2, 0], [1, 2, 0]]", "The drawing has 6 points."),
        ("[1, 2, 0]", "Point 0 is 1."),
        ("[[1, 2, 0], [1, 2]]", "Point 1 is [1, 2]."),
        ("[[1, 2, 0, 0, 1]]", "Point 0 is [1, 2, 0, 0, 1]."),
        ('[{"dx": 1, "dy": 2, "lifted": 0}]', "Point 0 is {'dx': 1"),
        ('["abc"]', "Point 0 is 'abc'."),
        ('[["1", 2, 0]]', "An offset of point 0 is '1'."),
        ("[[true, 2, 0]]", "An offset of point 0 is True."),
        ("[[1, null, 0]]", "An offset of point 0 is None."),
        ("[[1, [2], 0]]", "An offset of point 0 is [2]."),
        ("[[NaN, 2, 0]]", "An offset of point 0 is nan."),
        ("[[1, -Infinity, 0]]", "An offset of point 0 is -inf. Keep it within ±10000."),
        ("[[1, 1e5, 0]]", "An offset of point 0 is 100000.0. Keep it within ±10000."),
        (f"[[1{'0' * 400}, 2, 0]]", "An offset of point 0 is 1000"),
        ("[[1, 2, 2]]", "Point 0 has the pen lifted 2."),
        ("[[1, 2, -1]]", "Point 0 has the pen lifted -1."),
        ("[[1, 2, 0.5]]", "Point 0 has the pen lifted 0.5."),
        ("[[1, 2, NaN]]", "Point 0 has the pen lifted nan."),
        ('[[1, 2, "1"]]', "Point 0 has the pen lifted '1'."),
        ("[[1, 2, []]]", "Point 0 has the pen lifted []."),
    ],
)
def test_what_is_no_drawing_is_refused(drawing: str, message: str) -> None:
    with pytest.raises(InputError) as refusal:
        read_drawing(json.loads(drawing), SPEC)
    assert str(refusal.value).startswith(message)
    assert len(str(refusal.value)) < 400
    assert refusal.value.hint


def test_strokes_end_where_the_pen_is_lifted() -> None:
    strokes = [stroke.tolist() for stroke in list_strokes(TWO_STROKES)]
    assert strokes == [[[10, 20], [40, 20], [40, 80]], [[0, 80]]]
    begun = TWO_STROKES[:2]  # the pen is still down
    assert [stroke.tolist() for stroke in list_strokes(begun)] == [[[10, 20], [40, 20]]]


def test_lines_for_plotters() -> None:
    svg = render_lines(TWO_STROKES, millimetres=120)
    root = ElementTree.fromstring(svg)
    assert root.tag == f"{SVG}svg"
    assert (root.attrib["width"], root.attrib["height"]) == ("92mm", "132mm")
    assert root.attrib["viewBox"] == "0 0 92 132"  # a unit is a millimetre
    assert read_polylines(svg) == ["26,6 86,6 86,126", "6,126 6,126"]  # y downwards, the dot drawn
    assert not list(root.iter(f"{SVG}path"))


def test_a_smooth_curve() -> None:
    svg = render_smooth(TWO_STROKES)
    path, dot = read_paths(svg)
    assert path == "M166.67 0L666.67 0L666.67 1000"  # a right angle is a corner, and lines stay lines
    assert dot == "M0 1000L0 1000"
    root = ElementTree.fromstring(svg)
    assert numbers(root.attrib["viewBox"]) == [-20, -20, 706.67, 1040]
    assert 'stroke-linecap="round"' in svg
    assert 'fill="none"' in svg


def test_gentle_turns_are_rounded_symmetrically() -> None:
    (path,) = read_paths(render_smooth(GENTLE))
    start, out, into, middle, after, _, end = pairs(path)
    assert path.count("C") == 2
    assert (start, middle, end) == ((0, 0), (500, 250), (1000, 0))
    assert out == start
    assert into[1] == after[1] == 250  # level at the middle
    assert 500 - into[0] == pytest.approx(after[0] - 500)
    assert into[0] < 500


@pytest.mark.parametrize("direction", [[1, 1], [-1, 1], [1, -1], [-1, -1]])
def test_turns_are_the_same_in_all_directions(direction: list[float]) -> None:
    (path,) = read_paths(render_smooth(GENTLE * torch.tensor([*direction, 1])))
    assert path.count("C") == 2


@pytest.mark.parametrize("seed", range(3))
def test_curves_pass_through_all_points_inside_the_view(seed: int) -> None:
    points = random_drawing(seed)
    svg = render_smooth(points)
    left, top, width, height = numbers(ElementTree.fromstring(svg).attrib["viewBox"])
    strokes, paths = list_strokes(points), read_paths(svg)
    assert len(paths) == len(strokes)
    everything = torch.cat(strokes)
    low = everything.amin(0)
    factor = 1000 / float((everything.amax(0) - low).max())
    for stroke, path in zip(strokes, paths, strict=True):
        ends = [pairs(step)[-1] for step in re.findall(r"[MLC][^MLC]+", path)]
        shown = torch.tensor(ends[: len(stroke)], dtype=torch.float64)
        torch.testing.assert_close(shown, (stroke - low) * factor, atol=0.006, rtol=0)
        for x, y in pairs(path):
            assert left <= x <= left + width
            assert top <= y <= top + height


@pytest.mark.parametrize("seed", range(3))
def test_lines_pass_through_all_points(seed: int) -> None:
    points = random_drawing(seed)
    strokes = list_strokes(points)
    for stroke, line in zip(strokes, read_polylines(render_lines(points)), strict=True):
        shown = torch.tensor(pairs(line), dtype=torch.float64)
        assert len(shown) == max(2, len(stroke))
        for (a, b), (c, d) in zip(pairwise(stroke), pairwise(shown), strict=False):
            assert torch.nn.functional.cosine_similarity(b - a, d - c, dim=0) > 0.99


@pytest.mark.parametrize("render", [render_smooth, render_lines])
def test_position_and_size_do_not_matter(render: object) -> None:
    assert callable(render)
    points = random_drawing(5).double()
    moved = points.clone()
    moved[0, :2] += torch.tensor([512.0, -4096.0])
    scaled = points * torch.tensor([1 / 64, 1 / 64, 1])
    assert render(points) == render(moved) == render(scaled)


@pytest.mark.parametrize(
    "points", [[[5, 5, 1]], [[5, 5, 0]], [[5, 5, 0], [0, 0, 0], [0, 0, 1]], [[0, 0, 1], [0, 0, 1]]]
)
def test_dots_are_drawn(points: list[list[float]]) -> None:
    drawing = torch.tensor(points, dtype=torch.float32)
    assert set(read_paths(render_smooth(drawing))) == {"M0 0L0 0"}
    assert ElementTree.fromstring(render_smooth(drawing)).attrib["viewBox"] == "-20 -20 40 40"
    assert set(pairs(" ".join(read_polylines(render_lines(drawing))))) == {(5, 5)}


def test_a_pen_that_rests_does_not_change_the_curve() -> None:
    rests = torch.tensor([[0, 0, 0], [50, 25, 0], [0, 0, 0], [0, 0, 0], [50, -25, 1]], dtype=torch.float32)
    assert render_smooth(rests) == render_smooth(GENTLE)
