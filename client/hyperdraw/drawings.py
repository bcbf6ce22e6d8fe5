"""The calls for models that draw: going on with a drawing, and scoring.

Shapes: P points, Q points of the prompt, n points of a stroke.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Union

import numpy as np
from numpy.typing import NDArray

from hyperdraw.answers import explain_answers, read_fields
from hyperdraw.asking import ORIGIN, Text, ask, make_request, set_limit
from hyperdraw.attempts import Attempts
from hyperdraw.transfer import Connection, Transfer

if TYPE_CHECKING:
    import torch

Points = Union[Sequence[Sequence[float]], NDArray[Any], "torch.Tensor"]
"""A drawing: [dx, dy, lifted] for each point, the offset from the point before, and 1 if the pen is lifted after the
point, else 0. Before the first point, the pen is at the origin."""

Floats = NDArray[np.float64]

Style = Literal["smooth", "lines"]
"""Of an SVG: a smooth curve for each stroke, or a polyline in mm for plotters."""

_MEASURES = "nats", "offset", "pen", "disagreement"


@dataclass(frozen=True, eq=False)
class ScoredPoints:
    """Points of a drawing, and what the networks said of each before they knew it."""

    points: Floats
    """dx, dy, and 1 if the pen is lifted after the point, else 0, [P, 3]."""
    nats: Floats
    """Surprisals [P]: −ln of the density under the mean of the networks, in units of the model's scale, and of the
    probability of what the pen does. They may be negative."""
    offset: Floats
    """The parts of the surprisals for where the points are, [P]."""
    pen: Floats
    """The parts for what the pen does, [P]."""
    disagreement: Floats
    """How much the mean of the networks' own surprisals exceeds that of their mean, in nats, [P]."""
    changes: Floats | None
    """How much the weights of the input, forget and output gates and of the candidate changed, [P, 4], if requested."""


@dataclass(frozen=True, eq=False)
class Drawing(ScoredPoints):
    """A drawing. Its points and their surprisals are those that the networks drew."""

    finish_reason: str
    """`end` if the networks ended the drawing, `length` if it has as many points as it may have."""
    prompt: Floats
    """The points that were given, [Q, 3]."""

    @property
    def whole(self) -> Floats:
        """The points of the prompt and those that were drawn, [Q + P, 3]."""
        return np.concatenate([self.prompt, self.points])

    def list_strokes(self) -> list[Floats]:
        """The positions [n, 2] along each stroke of the whole drawing. Those of y increase downwards."""
        points = self.whole
        positions = points[:, :2].cumsum(0)
        return [stroke for stroke in np.split(positions, np.flatnonzero(points[:, 2]) + 1) if len(stroke)]


@dataclass(frozen=True, eq=False)
class Drawings:
    """Drawings that go on with the same prompt."""

    model: str
    version: str
    """SHA-256 of the checkpoint."""
    seed: int
    """The same seed, version and parameters give the same drawings, up to rounding."""
    members: Sequence[int]
    """The networks that drew together, among those of the seed."""
    drawings: Sequence[Drawing]


@dataclass(frozen=True)
class DrawingImages:
    """Drawings as SVG texts."""

    model: str
    version: str
    """SHA-256 of the checkpoint."""
    seed: int
    """The same seed, version and parameters give the same drawings, up to rounding."""
    images: Sequence[str]
    """An SVG of each drawing, with the prompt."""


@dataclass(frozen=True, eq=False)
class DrawingScore:
    """How surprising a drawing is to a model."""

    model: str
    version: str
    """SHA-256 of the checkpoint."""
    seed: int
    """The same seed, version and parameters give the same score."""
    members: Sequence[int]
    """The networks that scored it together, among those of the seed."""
    nats: float
    """Surprisal of the whole drawing."""
    nats_per_point: float
    disagreement: float
    """Mean disagreement on a point, in nats."""
    drawing: ScoredPoints
    """The points."""


def draw(
    client: Connection,
    model: str,
    prompt: Points = (),
    *,
    drawings: int = 1,
    temperature: float | None = None,
    max_points: int | None = None,
    seed: int | None = None,
    member: int | None = None,
    ensemble_size: int | None = None,
    changes: bool = False,
    timeout: float | None = None,
) -> Attempts[Drawings]:
    """Goes on with a drawing, or begins a new one, once or several times.

    Args:
        client: the client that asks.
        model: name of the model.
        prompt: the points to go on with, a list of [dx, dy, lifted], or an array or a tensor [Q, 3]; by default none,
            so that a new drawing begins. The model's description names the usual `extent` of its drawings.
        drawings: number of drawings, at most 12, all of which go on with the same prompt.
        temperature: multiplies the variances of points, and flattens the other probabilities; at 0, the mean of the
            heaviest component is drawn. By default 1.
        max_points: most points of a drawing, those of the prompt among them; by default, and at most, the model's.
        seed: seed of the networks and of the draws; by default a fresh one.
        member: number of the one network to ask, among those of the seed.
        ensemble_size: number of networks that draw together; by default one of each mode of the model, up to 8.
        changes: whether each point says how much the networks' weights changed.
        timeout: seconds that the call may take, retries included.

    Raises:
        ValueError: if the prompt does not consist of numbers.
        InvalidRequest: if the model does not draw, or does not take this prompt or these parameters.
        NotFound: if there is no such model.
        HyperdrawError: for any other failure; `hyperdraw.errors` lists them.
    """
    given = _list_points(prompt)
    content = {
        "prompt": given,
        "drawings": drawings,
        "temperature": temperature,
        "max_points": max_points,
        "seed": seed,
        "member": member,
        "ensemble_size": ensemble_size,
        "changes": changes,
    }
    answer = yield from ask(client, make_request(model, "generate", content), set_limit(client, timeout))
    with explain_answers():
        known = json.loads(answer)
        begun = np.array(given, np.float64).reshape(len(given), 3)
        known["drawings"] = [
            read_fields(Drawing, {**drawing, **_read_points(drawing["points"]), "prompt": begun})
            for drawing in known["drawings"]
        ]
        return read_fields(Drawings, known)


def draw_svg(
    client: Connection,
    model: str,
    prompt: Points = (),
    *,
    style: Style = "smooth",
    drawings: int = 1,
    temperature: float | None = None,
    max_points: int | None = None,
    seed: int | None = None,
    member: int | None = None,
    ensemble_size: int | None = None,
    timeout: float | None = None,
) -> Attempts[DrawingImages]:
    """Goes on with a drawing, or begins a new one, once or several times. The images show the prompt as well.

    `style` is "smooth", with a curve for each stroke, or "lines", with a polyline in mm, for plotters. `draw` says what
    the other arguments mean, and which exceptions are raised.
    """
    content = {
        "format": "svg",
        "style": style,
        "prompt": _list_points(prompt),
        "drawings": drawings,
        "temperature": temperature,
        "max_points": max_points,
        "seed": seed,
        "member": member,
        "ensemble_size": ensemble_size,
    }
    text = Text()
    request = make_request(model, "generate", content, expected=ORIGIN)
    transfer = Transfer(request, text, client, set_limit(client, timeout))
    yield from transfer.attempts()
    with explain_answers():
        answer = text.content.decode()
        seed, version = int(transfer.headers["X-Hyperdraw-Seed"]), transfer.headers["X-Hyperdraw-Version"]
        return DrawingImages(model, version, seed, [answer] if drawings == 1 else json.loads(answer))


def score_drawing(
    client: Connection,
    model: str,
    drawing: Points,
    *,
    seed: int | None = None,
    member: int | None = None,
    ensemble_size: int | None = None,
    changes: bool = False,
    timeout: float | None = None,
) -> Attempts[DrawingScore]:
    """Says how surprising each point of a drawing is, given all before it. The drawing ends with its last point.

    Args:
        client: the client that asks.
        model: name of the model.
        drawing: the points, a list of [dx, dy, lifted], or an array or a tensor [P, 3]; at least one.
        seed: seed of the networks; by default a fresh one.
        member: number of the one network to ask, among those of the seed.
        ensemble_size: number of networks that score together; by default one of each mode of the model, up to 8.
        changes: whether each point says how much the networks' weights changed.
        timeout: seconds that the call may take, retries included.

    Raises:
        ValueError: if the drawing does not consist of numbers.
        InvalidRequest: if the model does not draw, or does not take this drawing or these parameters.
        NotFound: if there is no such model.
        HyperdrawError: for any other failure; `hyperdraw.errors` lists them.
    """
    content = {
        "drawing": _list_points(drawing),
        "seed": seed,
        "member": member,
        "ensemble_size": ensemble_size,
        "changes": changes,
    }
    answer = yield from ask(client, make_request(model, "score", content), set_limit(client, timeout))
    with explain_answers():
        known = json.loads(answer)
        scored = read_fields(ScoredPoints, _read_points(known["points"]))
        return read_fields(DrawingScore, known | {"drawing": scored})


def _list_points(points: Points) -> Any:
    """Points as JSON has them. The service says what is wrong with them.

    Raises:
        ValueError: if JSON cannot have them.
    """
    return json.loads(json.dumps(points, default=_list_values))


def _list_values(value: Any) -> Any:
    """The numbers of an array, a tensor or a number of numpy."""
    if not hasattr(value, "tolist"):
        kind = type(value).__name__
        raise ValueError(f"a drawing is a list, an array or a tensor of points [dx, dy, lifted]; it contains {kind}")
    return value.tolist()


def _read_points(points: Sequence[Mapping[str, Any]]) -> dict[str, Floats | None]:
    """The fields of `ScoredPoints`, from the points of an answer."""
    changes = [point["changes"] for point in points if "changes" in point]
    measures = {name: np.array([point[name] for point in points], np.float64) for name in _MEASURES}
    return measures | {
        "points": np.array([point["point"] for point in points], np.float64).reshape(len(points), 3),
        "changes": np.array(changes, np.float64) if changes else None,
    }
