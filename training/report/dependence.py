"""How a model's answers depend on single columns of a table: partial dependence (Friedman, "Greedy Function
Approximation", Annals of Statistics 2001, section 8.2).

Shapes: S sampled networks, P points, B test rows, K classes or numbers.
"""

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor

from models.checkpoint import Checkpoint
from models.inputs.columns import CategoryColumn, Column
from models.predictions.prediction import interpret
from training.evaluation.evaluation import evaluate_split

MOST_POINTS, MOST_ROWS = 9, 200
"""Most values of a column, and most test rows that get each."""


@dataclass(frozen=True)
class Dependence:
    """Mean answers if all test rows had the same value in a column, and their other values stayed."""

    column: str
    values: tuple[float | str, ...]
    """P values: quantiles of numbers and dates, or the most frequent categories."""
    means: tuple[tuple[float, ...], ...]
    """Probabilities or numbers, [P, K], on average over networks and rows."""
    stds: tuple[tuple[float, ...], ...]
    """Standard deviations of the networks' averages over rows, [P, K]."""


def measure_dependence(checkpoint: Checkpoint, column: Column, number: int, rows: Tensor) -> Dependence | None:
    """Partial dependence on a column, or None if it has no values.

    Args:
        checkpoint: a model of rows.
        column: the column.
        number: its place among the columns.
        rows: test rows [B, columns].
    """
    own = rows[:, number]
    known = own[~own.isnan()]
    if not len(known):
        return None
    if isinstance(column, CategoryColumn):
        values, counts = known.unique(return_counts=True)
        points = values[counts.argsort(descending=True, stable=True)][:MOST_POINTS].sort().values
    else:
        points = known.quantile(torch.linspace(0, 1, MOST_POINTS, dtype=known.dtype), interpolation="nearest").unique()
    some = rows[:MOST_ROWS]
    made = some.repeat(len(points), 1)
    made[:, number] = points.repeat_interleave(len(some))
    prediction = interpret(checkpoint.config.task, evaluate_split(checkpoint, made))
    averages = prediction.members.double().unflatten(1, (len(points), len(some))).mean(2)  # [S, P, K]
    return Dependence(
        column=column.name,
        values=tuple(column.name_number(point) for point in points.tolist()),
        means=tuple(map(tuple, averages.mean(0).tolist())),
        stds=tuple(map(tuple, averages.std(0, correction=0).tolist())),
    )


def describe_dependence(dependence: Dependence, outputs: tuple[str, ...]) -> str:
    """A line of text; for classes, the probability of the class that changes most.

    Args:
        dependence: the partial dependence.
        outputs: names of the K classes or numbers.
    """
    means = torch.tensor(dependence.means)
    chosen = int((means.amax(0) - means.amin(0)).argmax())
    points = "; ".join(
        f"{value if isinstance(value, str) else f'{value:.4g}'}: {mean[chosen]:.3g} ± {std[chosen]:.2g}"
        for value, mean, std in zip(dependence.values, dependence.means, dependence.stds, strict=True)
    )
    what = f", probability of {outputs[chosen]}" if len(outputs) > 1 else ""
    return f"{dependence.column}{what}: {points}"
