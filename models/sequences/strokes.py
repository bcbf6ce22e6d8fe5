"""Pen strokes as sequences of points: what a network for them reads, says and draws (Graves, "Generating Sequences With
Recurrent Neural Networks", 2013, section 4; Ha & Eck, "A Neural Representation of Sketch Drawings", 2018).

A drawing is stroke-3 data, [P, 3]: Δx and Δy from the point before, and 1 if the pen is lifted after the point, else 0.
Before the first point, the pen is at the origin. A network says of the next point where it is, by a mixture of
bivariate normals, and what the pen does then: it stays down, is lifted, or ends the drawing.

Shapes: B drawings, P points, T steps, S sampled networks, K components of the mixture, … any axes.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass as plain_dataclass
from typing import Annotated, Literal, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from models.noise import standard_normal, uniform
from models.schema import STRICT, Size

PEN_STATES = ("down", "lifted", "ended")
"""What the pen does after a point, in the order of a network's outputs."""
DOWN, LIFTED, ENDED = range(3)

LOG_DEVIATION_LIMIT = 5.0
"""Logarithms of deviations lie within ±5, in units of the scale. Offsets are whole numbers, and many are zero: without
a limit, likelihoods would grow as long as deviations shrink. The least deviation is 1/148 of the scale."""

CORRELATION_LIMIT = 0.999
"""Correlations lie within ±0.999. So a point's surprisal is at least −11.3 nats."""

DISTANCE_LIMIT = 1e6
"""Points farther than this many deviations from a mean count as this far, so that squares do not overflow."""

LEAST_SCALE, LARGEST_SCALE = 1e-6, 1e6
LARGEST_EXTENT = 1e12

STEP_BITS = 16
"""Bits of a step's number in the address of its noise."""

UNIFORM_STREAM = 22
NORMAL_STREAM = 23
"""Streams of the numbers that drawings are sampled with."""


class Surprisal(NamedTuple):
    """Surprisals of points in nats, [...]: of where they are, and of what the pen does then."""

    offset: Tensor
    pen: Tensor

    @property
    def total(self) -> Tensor:
        """Surprisals of both together, [...]."""
        return self.offset + self.pen


@plain_dataclass(frozen=True)
class PointDistribution:
    """What a network says of a point, in units of the scale."""

    log_weights: Tensor
    """[..., K]."""
    means: Tensor
    """[..., K, 2]."""
    log_deviations: Tensor
    """[..., K, 2]."""
    correlations: Tensor
    """[..., K]."""
    log_pen: Tensor
    """Logarithms of the probabilities of `PEN_STATES`, [..., 3]."""


@dataclass(frozen=True, config=STRICT)
class StrokesSpec:
    """Drawings by strokes of a pen, and the mixture that predicts their points."""

    scale: Annotated[float, Field(ge=LEAST_SCALE, le=LARGEST_SCALE)]
    """Deviation of the training set's offsets, by which offsets are divided."""
    extent: Annotated[float, Field(gt=0, le=LARGEST_EXTENT)]
    """Usual size of the training set's drawings: the median of the larger of width and height, in the data's unit."""
    max_points: Size
    """Most points of a drawing."""
    mixtures: Annotated[int, Field(gt=0, le=1000)] = 20
    kind: Literal["strokes"] = "strokes"

    @property
    def num_inputs(self) -> int:
        """Numbers that a network reads at a step."""
        return 3

    @property
    def num_outputs(self) -> int:
        """Numbers that a network returns at a step: K logits of weights; K pairs of means and K of log deviations, x
        and y; K correlations before tanh; and three logits of the pen. Offsets are in units of the scale."""
        return 6 * self.mixtures + len(PEN_STATES)

    def make_inputs(self, points: Tensor) -> Tensor:
        """What a network reads at each step: the point before, whose offsets are scaled; zeros before the first.

        Args:
            points: [T, ..., 3].

        Returns:
            [T, ..., 3].
        """
        return F.pad(self.prepare(points[:-1]), (0, 0) * (points.dim() - 1) + (1, 0))

    def prepare(self, points: Tensor) -> Tensor:
        """Points [..., 3] with scaled offsets, as a network reads them."""
        offsets, lifted = points.split((2, 1), dim=-1)
        return torch.cat([offsets / self.scale, lifted], dim=-1)

    def interpret(self, outputs: Tensor) -> PointDistribution:
        """Reads a network's outputs [..., 6K + 3]; half precision becomes single."""
        k = self.mixtures
        outputs = outputs.to(torch.promote_types(outputs.dtype, torch.float32))
        weights, means, deviations, correlations, pen = outputs.split((k, 2 * k, 2 * k, k, len(PEN_STATES)), dim=-1)
        return PointDistribution(
            weights.log_softmax(-1),
            means.unflatten(-1, (k, 2)),
            LOG_DEVIATION_LIMIT * (deviations / LOG_DEVIATION_LIMIT).tanh().unflatten(-1, (k, 2)),
            CORRELATION_LIMIT * correlations.tanh(),
            pen.log_softmax(-1),
        )

    def describe(self, outputs: Tensor) -> dict[str, Tensor]:
        """What a network's outputs [..., 6K + 3] say of a point, in the data's unit, for an answer.

        Returns:
            `weight` [..., K], `mean` and `deviation` [..., K, 2], `correlation` [..., K], and `pen`, the probabilities
            of `PEN_STATES`, [..., 3].
        """
        found = self.interpret(outputs)
        return {
            "weight": found.log_weights.exp(),
            "mean": self.scale * found.means,
            "deviation": self.scale * found.log_deviations.exp(),
            "correlation": found.correlations,
            "pen": found.log_pen.exp(),
        }

    def measure_surprisal(self, outputs: Tensor, points: Tensor, last: Tensor) -> Tensor:
        """Surprisals of points in nats, [...]: the sum of both parts. Arguments as in `split_surprisal`."""
        return self.split_surprisal(outputs, points, last).total

    def split_surprisal(self, outputs: Tensor, points: Tensor, last: Tensor) -> Surprisal:
        """Surprisals of points in nats: −log of the mixture's density, and cross-entropy of the pen.

        Densities are those of scaled offsets; in the data's unit, surprisals are 2 · log(scale) higher. They are finite
        for finite outputs: see `LOG_DEVIATION_LIMIT`, `CORRELATION_LIMIT` and `DISTANCE_LIMIT`. Limits of deviations
        and correlations are approached by tanh, so that gradients lead back from them.

        Args:
            outputs: [..., 6K + 3]; leading axes may be more than those of the points.
            points: [..., 3], in the data's unit.
            last: whether the drawing ends after the point, bool [...].
        """
        found = self.interpret(outputs)
        offsets = (points[..., None, :2] / self.scale).to(found.means.dtype)
        away = (offsets - found.means) * (-found.log_deviations).exp()
        x, y = away.clamp(-DISTANCE_LIMIT, DISTANCE_LIMIT).unbind(-1)
        free = 1 - found.correlations**2  # share of y's variance that x does not explain
        squares = x**2 + (y - found.correlations * x) ** 2 / free
        log_normal = -math.log(2 * math.pi) - found.log_deviations.sum(-1) - (free.log() + squares) / 2
        states = torch.where(last, ENDED, (points[..., 2] > 0).long()).expand(outputs.shape[:-1])
        return Surprisal(
            -(found.log_weights + log_normal).logsumexp(-1),
            -found.log_pen.gather(-1, states[..., None])[..., 0],
        )

    def sample(self, outputs: Tensor, noise: Tensor, temperature: float | Tensor = 1.0) -> tuple[Tensor, Tensor]:
        """Draws the next point of each drawing.

        At temperature τ, weights are π^(1/τ), normalised again, variances σ² · τ, and logits of the pen are divided by
        τ. At 0, it is the mean of the component with the largest weight, and the pen's most probable state.

        Args:
            outputs: [B, 6K + 3].
            noise: [B, 4], as `draw_noise` returns it.
            temperature: finite and not negative, for all drawings or for each, [B].

        Returns:
            Points in the data's unit, float32 [B, 3]; and whether drawings end after them, bool [B]. The pen is lifted
            after a last point.
        """
        found = self.interpret(outputs.double())
        component_noise, pen_noise, normal_x, normal_y = noise.unbind(-1)
        heat = torch.as_tensor(temperature, dtype=torch.float64, device=outputs.device).expand(len(outputs))
        components = _pick(found.log_weights, component_noise, heat)
        states = _pick(found.log_pen, pen_noise, heat)
        rows = torch.arange(len(outputs), device=outputs.device)
        means, correlations = found.means[rows, components], found.correlations[rows, components]
        deviations = found.log_deviations[rows, components].exp() * heat.sqrt()[:, None]
        correlated = correlations * normal_x + (1 - correlations**2).sqrt() * normal_y
        offsets = means + deviations * torch.stack([normal_x, correlated], dim=-1)
        points = torch.cat([self.scale * offsets, (states != DOWN)[:, None]], dim=-1)
        return points.float(), states == ENDED


def draw_noise(seed: int, drawing: int, steps: Sequence[int]) -> Tensor:
    """The random numbers with which points are sampled: pure functions of seed, number of the drawing, and step.

    Args:
        seed: in [0, 2^63).
        drawing: in [0, 2^16), for several drawings of one seed.
        steps: each in [0, 2^16).

    Returns:
        float64 [steps, 4], on the CPU: two numbers that are uniform on (0, 1), for component and pen, and two normal
        ones, for x and y.

    Raises:
        ValueError: if a number is out of range.
    """
    limit = 1 << STEP_BITS
    if not (0 <= drawing < limit and all(0 <= step < limit for step in steps)):
        raise ValueError(f"the drawing and its steps must be in [0, {limit})")
    members = [drawing << STEP_BITS | step for step in steps]
    shares = uniform(seed, members, 2, UNIFORM_STREAM).double() / 2 + 0.5
    return torch.cat([shares, standard_normal(seed, members, 2, NORMAL_STREAM).double()], dim=-1)


def average_surprisal(surprisals: Tensor) -> Tensor:
    """Surprisal under the mean density of several networks: [S, ...] → [...], in nats."""
    return math.log(len(surprisals)) - (-surprisals).logsumexp(0)


def _pick(log_probabilities: Tensor, shares: Tensor, heat: Tensor) -> Tensor:
    """Draws from distributions [B, n] at temperatures [B] by shares in (0, 1), [B]: int64 [B]. Never picks what is
    improbable beyond double precision."""
    below = log_probabilities - log_probabilities.amax(-1, keepdim=True)
    cold = heat == 0
    cumulative = (below / heat.masked_fill(cold, 1.0)[:, None]).exp().cumsum(-1)
    picked = (cumulative <= shares[:, None] * cumulative[:, -1:]).sum(-1)
    return torch.where(cold, below.argmax(-1), picked)
