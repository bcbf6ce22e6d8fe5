"""Scores on one scale, so that several can be combined: how surprising each is among usual inputs.

Shapes: n usual inputs, B inputs.
"""

import math
from collections.abc import Mapping
from functools import lru_cache

import torch
from torch import Tensor

from models.predictions.prediction import Prediction, ScoreName

COMBINED_SURPRISE: ScoreName = "combined_surprise"
"""The sum of the surprises of several scores (Fisher's combination of p-values)."""

SHARES = (1.0, 0.5, 0.2, 0.1, 0.05, 0.02)
"""Shares of usual inputs."""

MOST_SURPRISE = 700.0
"""Nats; about the largest −ln of a number in double precision."""

Levels = tuple[float, ...]
"""What the scores of each of `SHARES` of the usual inputs reach at least."""


def measure_levels(scores: Tensor) -> Levels:
    """Levels of the scores of usual inputs, [n]."""
    return tuple(scores.double().quantile(1 - torch.tensor(SHARES, dtype=torch.float64)).tolist())


def measure_surprise(scores: Tensor, levels: Levels) -> Tensor:
    """−ln of the share of usual inputs whose scores are at least these, in nats: float64 [B] for scores [B].

    It is linear between the levels, and goes on beyond the last as between the last two.
    """
    x, y = _trace_curve(levels)
    scores = scores.double().contiguous()
    after = torch.searchsorted(x, scores).clamp(1, len(x) - 1)
    slopes = (y[after] - y[after - 1]) / (x[after] - x[after - 1])
    surprise: Tensor = (y[after - 1] + slopes * (scores - x[after - 1])).clamp(0, MOST_SURPRISE)
    return surprise


@lru_cache(maxsize=256)
def _trace_curve(levels: Levels) -> tuple[Tensor, Tensor]:
    """Ascending scores, and the surprise of each."""
    known = {level: -math.log(share) for level, share in reversed(list(zip(levels, SHARES, strict=True)))}
    points = torch.tensor(sorted(known.items()), dtype=torch.float64)
    if len(points) == 1:  # whatever is larger was never seen
        points = torch.cat([points, points + torch.tensor([[points.abs().max().clamp(min=1e-6), 1.0]])])
    x, y = points.mT.contiguous()
    return x, y


def measure_score(prediction: Prediction, name: ScoreName, levels: Mapping[ScoreName, Levels]) -> Tensor:
    """A score by name, [B]; the levels are those behind a combined surprise."""
    return combine_scores(prediction, levels) if name == COMBINED_SURPRISE else prediction.score(name)


def combine_scores(prediction: Prediction, levels: Mapping[ScoreName, Levels]) -> Tensor:
    """The sum of the surprises of several scores, by name: float64 [B]."""
    return torch.stack([measure_surprise(prediction.score(name), own) for name, own in levels.items()]).sum(0)
