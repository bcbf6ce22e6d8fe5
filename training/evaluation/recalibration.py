"""A new calibration from answers of a service whose labels arrived later.

Shapes: n labelled answers, K classes or numbers.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from models.predictions.calibration_origin import Feedback
from models.predictions.detection import Calibration, conformal_quantile
from models.tasks.kind import Flag
from training.evaluation.calibration import calibrate_intervals, calibrate_sets, choose_rates, fit_temperature

LEAST = 100
"""Fewest labelled answers of which a calibration is made. With fewer, what it promises is mostly left to chance."""

FITTED = 5
"""One in so many answers fits the temperature, and has no other use. The others give the quantiles."""


@dataclass(frozen=True)
class CollectedAnswers:
    """Labelled answers of a version, by ensembles whose first networks, as many as were calibrated, were the same
    number."""

    ensemble_size: int
    """Number of these networks."""
    judged: Tensor
    """ln of their class probabilities, [n, K], or their means and standard deviations, [n, 2, K]."""
    labels: Tensor
    """[n] or [n, K]."""
    scores: Mapping[Flag, Tensor]
    """The score behind each flag, [n]."""
    days: tuple[str, str]
    """Days of the first and the last answer."""

    def __len__(self) -> int:
        return len(self.labels)


def recalibrate(calibration: Calibration, version: str, collected: CollectedAnswers) -> Calibration:
    """Makes thresholds, temperature, prediction sets and intervals anew, for ensembles of one size.

    Which score raises a flag stays as it was, and so do levels of a combined surprise. Sizes without answers, and
    rules for when ensembles stop growing, are dropped.

    Args:
        calibration: the calibration by which the answers were given.
        version: version of the checkpoint that gave them.
        collected: the answers.

    Raises:
        ValueError: if there are too few.
    """
    n = len(collected)
    if n < LEAST:
        raise ValueError(f"{n} labelled answers are too few to calibrate with; {LEAST} are needed")
    old = calibration.for_size(collected.ensemble_size)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(0))
    fitted, held = order.tensor_split([n // FITTED if old.classes else 0])
    rates = choose_rates(len(held))
    judged, labels = collected.judged, collected.labels
    classes = numbers = None
    if old.classes:
        temperature = fit_temperature(judged[fitted], labels[fitted])
        classes = calibrate_sets(judged[held], temperature, labels[held], rates)
    else:
        numbers = calibrate_intervals(judged[held, 0], judged[held, 1], labels[held], rates)
    thresholds = {
        flag: tuple(conformal_quantile(scores[held], rate) for rate in rates)
        for flag, scores in collected.scores.items()
    }
    return replace(
        calibration,
        split="feedback",
        n=len(held),
        seeds=None,
        temperature_split="feedback" if classes else None,
        rates=rates,
        sizes=(replace(old, thresholds=thresholds, classes=classes, numbers=numbers),),
        folds=None,
        stopping=None,
        feedback=Feedback(version, *collected.days, fitted=len(fitted)),
    )
