"""Drawing with live sequences: the next points of many at once, and what their networks say about them.

Shapes: n drawings, R networks of all drawings together, K components of a mixture.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from models.noise import uniform
from models.sequences.drawing import MAX_DEVIATIONS
from models.sequences.strokes import STEP_BITS, StrokesSpec, draw_noise
from models.sequences.writing import Floats, Integers, Sampling

MEMBER_STREAM = 32
"""Stream of the random numbers that choose the network by which a point is drawn."""

DRAWN_DEVIATIONS = 0.999 * MAX_DEVIATIONS
"""Largest offset that is drawn, in units of the scale, so that what was drawn can be given as a prompt."""

DRAWN_DIGITS = 3
"""Decimal digits of drawn offsets below the first of the scale. So they are short numbers, and the same ones although
networks that compute beside others round otherwise."""


class StrokesScript:
    """How networks for drawings read and draw. An element is a point: Δx and Δy in the data's unit, 1 if the pen is
    lifted after it, and 1 if the drawing ends with it."""

    measures = ("nats", "offset", "pen", "disagreement")
    """What is said of each point, in nats: its surprisal under the mean density of the networks, in units of the scale;
    the two parts of it, that of where the point is and that of what the pen does then, given where it is; and how much
    the mean of the networks' own surprisals exceeds it."""
    one_hot = False
    dtype = np.float64
    start = (0.0, 0.0, 0.0, 0.0)
    unknown = (np.nan,) * 4
    silence = (0.5, 0.5, 0.0, 0.0, 0.5)

    def __init__(self, spec: StrokesSpec) -> None:
        self._spec = spec
        self._units = np.array([spec.scale, spec.scale, 1.0])

    def read(self, points: Floats) -> Floats:
        """What networks read after some points: [R, 3], from [R, 4]."""
        read: Floats = points[:, :3] / self._units
        return read

    def ends(self, point: Sequence[float]) -> bool:
        """Whether a drawing ends with a point."""
        return bool(point[3])

    def draw_noise(self, sampling: Sampling, positions: range) -> list[list[float]]:
        """Random numbers for the points at some positions: those of `StrokesSpec.sample`, and one that chooses the
        network."""
        noise = draw_noise(sampling.seed, sampling.number, positions)
        addresses = [sampling.number << STEP_BITS | position for position in positions]
        shares = uniform(sampling.seed, addresses, 1, MEMBER_STREAM).double() / 2 + 0.5
        drawn: list[list[float]] = torch.cat([noise, shares], dim=1).tolist()
        return drawn

    def prepare(self, samplings: Sequence[Sampling], counts: Integers) -> "StrokesWriter":
        """Prepares for the next points of some drawings, each drawn by a number of networks."""
        return StrokesWriter(self._spec, samplings, counts)


class StrokesWriter:
    """Draws the next points of certain drawings."""

    def __init__(self, spec: StrokesSpec, samplings: Sequence[Sampling], counts: Integers) -> None:
        self._spec = spec
        self._counts = counts
        self._offsets = counts.cumsum() - counts
        self._heat = torch.tensor([sampling.temperature for sampling in samplings], dtype=torch.float64)

    def write(self, outputs: Floats, given: Floats, noise: Floats) -> tuple[Floats, Floats]:
        """The next points and what is said of them. Each is drawn by one network, which its noise chooses: so it comes
        from the mean of the networks' densities.

        Args:
            outputs: finite outputs of all networks, those of a drawing together, [R, 6K + 3].
            given: the points that are known already, and NaN for those to be drawn, [n, 4].
            noise: [n, 5].

        Returns:
            points, [n, 4], and `StrokesScript.measures`, [n, 4].
        """
        said, known = torch.from_numpy(outputs), ~np.isnan(given[:, :1])
        points = given if known.all() else np.where(known, given, self._draw(said, noise))
        each = torch.from_numpy(points.repeat(self._counts, axis=0))
        parts = self._spec.split_surprisal(said, each[:, :3], each[:, 3] > 0)
        total, offset = self._average(parts.total), self._average(parts.offset)
        own = np.add.reduceat(parts.total.numpy(), self._offsets) / self._counts
        return points, np.stack([total, offset, total - offset, np.maximum(own - total, 0.0)], axis=1)

    def _draw(self, said: Tensor, noise: Floats) -> Floats:
        chosen = np.minimum((noise[:, 4] * self._counts).astype(np.int64), self._counts - 1)
        points, ended = self._spec.sample(said[self._offsets + chosen], torch.from_numpy(noise[:, :4]), self._heat)
        drawn = torch.cat([points.double(), ended[:, None].double()], dim=1).numpy()
        limit, digits = DRAWN_DEVIATIONS * self._spec.scale, DRAWN_DIGITS - math.floor(math.log10(self._spec.scale))
        drawn[:, :2] = drawn[:, :2].clip(-limit, limit).round(digits) + 0.0  # not −0
        return drawn

    def _average(self, surprisals: Tensor) -> Floats:
        """Surprisals under the mean densities of each drawing's networks: `average_surprisal` of its rows."""
        summed = np.logaddexp.reduceat(-surprisals.numpy(), self._offsets)
        return np.log(self._counts) - summed
