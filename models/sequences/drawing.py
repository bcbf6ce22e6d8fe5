"""Drawings as clients send them and as SVG shows them.

Shapes: P points of a drawing, n points of a stroke.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from models.inputs.kind import InputError
from models.inputs.rows import show
from models.sequences.strokes import StrokesSpec

MAX_DEVIATIONS = 1000
"""Largest offset of a point, in units of the scale. A drawing of the training data measures a few units."""

PEN_WIDTH = 0.02
"""Width of a smooth line, as a share of the larger side."""

PLOTTER_PEN_WIDTH = 0.3
"""Width of a plotter's line in mm, for programs that show the file."""

CORNER = math.radians(75)
"""The pen's least turn at a corner. A smooth line is not rounded there."""

_NAMESPACE = 'xmlns="http://www.w3.org/2000/svg"'
_ROUND = 'stroke-linecap="round" stroke-linejoin="round"'

Position = tuple[float, float]


def read_drawing(drawing: Sequence[object], spec: StrokesSpec) -> Tensor:
    """Points of a client's drawing, float32 [P, 3].

    Args:
        drawing: [Δx, Δy, lifted] for each point, as JSON has it.
        spec: the drawings that the model knows.

    Raises:
        InputError: if it is not a drawing, is empty, or is larger than the model's drawings can be.
    """
    hint = "A drawing is a list of points [dx, dy, lifted]: two finite numbers, and 1 if the pen is lifted after the "
    hint += "point, else 0."
    if not isinstance(drawing, list | tuple):
        raise InputError(f"The drawing is {show(drawing)}.", hint)
    if not 0 < len(drawing) <= spec.max_points:
        raise InputError(f"The drawing has {len(drawing)} points.", f"Give 1 to {spec.max_points} points.")
    limit = MAX_DEVIATIONS * spec.scale
    for number, point in enumerate(drawing):
        if not isinstance(point, list | tuple) or len(point) != 3:
            raise InputError(f"Point {number} is {show(point)}.", hint)
        *offset, lifted = point
        for value in offset:
            if not isinstance(value, int | float) or isinstance(value, bool) or value != value:
                raise InputError(f"An offset of point {number} is {show(value)}.", hint)
            if not abs(value) <= limit:
                raise InputError(f"An offset of point {number} is {show(value)}.", f"Keep it within ±{limit:g}.")
        if not isinstance(lifted, int | float) or lifted not in (0, 1):
            raise InputError(f"Point {number} has the pen lifted {show(lifted)}.", hint)
    return torch.tensor(drawing, dtype=torch.float32)


def list_strokes(points: Tensor) -> list[Tensor]:
    """Positions along each stroke, float64 [n, 2], from the points of a drawing, [P, 3]. A stroke has at least one."""
    positions = points[:, :2].double().cumsum(0)
    ends = ((points[:, 2] > 0).nonzero()[:, 0] + 1).tolist()
    return [stroke for stroke in positions.tensor_split(ends) if len(stroke)]


def render_smooth(points: Tensor) -> str:
    """An SVG of a drawing [P, 3], P ≥ 1, with a smooth curve through the points of each stroke and round caps.

    The curves are centripetal Catmull–Rom splines, which have no loops between points. They are broken at corners. The
    larger side of the drawing measures 1000 units; the image fills the place that it is given.
    """
    side, pen = 1000.0, 1000 * PEN_WIDTH
    strokes, _ = _fit(list_strokes(points), side)
    curves = [_trace_pieces(stroke) for stroke in strokes]
    paths = "".join(map(_write_path, curves))
    bounds = list(zip(*(point for curve in curves for piece in curve for point in piece), strict=True))
    left, top = (min(values) - pen for values in bounds)
    width, height = (max(values) + pen - low for values, low in zip(bounds, (left, top), strict=True))
    style = f'fill="none" stroke="currentColor" stroke-width="{pen:g}" {_ROUND}'
    box = " ".join(map(_show, (left, top, width, height)))
    return f'<svg {_NAMESPACE} viewBox="{box}"><g {style}>{paths}</g></svg>\n'


def render_lines(points: Tensor, millimetres: float = 100.0) -> str:
    """An SVG of a drawing [P, 3], P ≥ 1, for plotters: one polyline for each stroke, in the order of the drawing.

    A unit is a millimetre. A stroke of one point is a polyline with that point twice.

    Args:
        points: the drawing.
        millimetres: the larger side of the drawing. A margin of a twentieth is added on all sides.
    """
    margin = millimetres / 20
    strokes, extent = _fit(list_strokes(points), millimetres, margin)
    width, height = (side + 2 * margin for side in extent)
    lines = "".join(f'<polyline points="{_trace_line(stroke)}"/>' for stroke in strokes)
    size = f'width="{_show(width)}mm" height="{_show(height)}mm" viewBox="0 0 {_show(width)} {_show(height)}"'
    style = f'fill="none" stroke="black" stroke-width="{PLOTTER_PEN_WIDTH:g}" {_ROUND}'
    return f"<svg {_NAMESPACE} {size}><g {style}>{lines}</g></svg>\n"


def _fit(strokes: list[Tensor], side: float, margin: float = 0.0) -> tuple[list[list[Position]], Position]:
    """Strokes below and right of a margin, scaled so that their larger side measures `side`, and both sides."""
    everything = torch.cat(strokes)
    low = everything.amin(0)
    extent = everything.amax(0) - low
    factor = side / (float(extent.max()) or 1.0)
    width, height = (extent * factor).tolist()
    return [[(x, y) for x, y in ((stroke - low) * factor + margin).tolist()] for stroke in strokes], (width, height)


def _trace_line(stroke: list[Position]) -> str:
    return " ".join(f"{_show(x)},{_show(y)}" for x, y in (stroke if len(stroke) > 1 else stroke * 2))


def _trace_pieces(stroke: list[Position]) -> list[list[Position]]:
    """A stroke in pieces, from point to point: a line of two points, or a curve with two control points between them.

    Points that follow at the same position count once. A single one is a line to itself.
    """
    stroke = [point for i, point in enumerate(stroke) if i == 0 or point != stroke[i - 1]]
    corners = [i for i in range(1, len(stroke) - 1) if _turn(*stroke[i - 1 : i + 2]) > CORNER]
    parts = [stroke[start : end + 1] for start, end in pairwise([0, *corners, len(stroke) - 1])]
    return [piece for part in parts for piece in _trace_part(part)]


def _trace_part(points: list[Position]) -> list[list[Position]]:
    """The pieces between two corners."""
    if len(points) <= 2:
        return [[points[0], points[-1]]]
    pieces = []
    for i, (start, end) in enumerate(pairwise(points)):
        out = _control(points[i - 1], start, end) if i else start
        into = _control(points[i + 2], end, start) if i + 2 < len(points) else end
        pieces.append([start, out, into, end])
    return pieces


def _write_path(pieces: list[list[Position]]) -> str:
    steps = (f"{'C' if len(piece) == 4 else 'L'}{' '.join(map(_join, piece[1:]))}" for piece in pieces)
    return f'<path d="M{_join(pieces[0][0])}{"".join(steps)}"/>'


def _control(before: Position, point: Position, after: Position) -> Position:
    """The Bézier control point beside `point` on the way to `after`, on a centripetal Catmull–Rom spline."""
    a, b = math.sqrt(math.dist(before, point)), math.sqrt(math.dist(point, after))
    return tuple(  # type: ignore[return-value]  # two numbers
        (a * a * q - b * b * o + (2 * a * a + 3 * a * b + b * b) * p) / (3 * a * (a + b))
        for o, p, q in zip(before, point, after, strict=True)
    )


def _turn(before: Position, point: Position, after: Position) -> float:
    """The angle by which the pen turns at a point, from 0 to π."""
    came = math.atan2(point[1] - before[1], point[0] - before[0])
    goes = math.atan2(after[1] - point[1], after[0] - point[0])
    return abs(math.remainder(goes - came, 2 * math.pi))


def _join(point: Position) -> str:
    return f"{_show(point[0])} {_show(point[1])}"


def _show(value: float) -> str:
    """A coordinate, to a hundredth of a unit."""
    return f"{round(value, 2) + 0.0:.2f}".rstrip("0").rstrip(".")
