"""Stopping: an ensemble grows in rounds, until more networks would not change what is answered for an input.

What is answered are a label and flags. After a round, an input is settled if the label leads clearly, and no score is
close to where its flag changes. What is clear and what is close was chosen at calibration, and tested on inputs of its
own: by "Learn then Test" (Angelopoulos, Bates, Candès, Jordan & Lei, 2021), as early exits are by Schuster et al.,
"Confident Adaptive Language Modeling", NeurIPS 2022.

Shapes: B inputs.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated

import torch
from pydantic import FailFast, Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from models.predictions.prediction import Part, Prediction
from models.predictions.size_calibration import ClassCalibration, NumberCalibration, SizeCalibration
from models.schema import STRICT, Finite
from models.tasks.kind import Flag

ROUNDS = (5, 10, 20, 50)
"""Sizes of ensembles after which an input may be settled, besides the largest."""

Distance = Annotated[float, Field(ge=0, allow_inf_nan=False)]


@dataclass(frozen=True, config=STRICT)
class Round:
    """What settles an input when an ensemble has a certain size. In the last round, everything does."""

    ensemble_size: Annotated[int, Field(ge=1)]
    centres: dict[Flag, Finite]
    """Scores from which those of settled inputs are far: about where the flag of a whole ensemble changes."""
    distances: dict[Flag, Distance]
    """Least distances from them."""
    lead: Distance = 0.0
    """Least lead of the most probable class over the next, if there are classes."""

    def settle(self, lead: Tensor, scores: Mapping[Flag, Tensor]) -> Tensor:
        """Which inputs are settled, bool [B].

        Args:
            lead: `measure_lead` of an ensemble of this size, [B].
            scores: its score for each flag, [B].
        """
        settled = lead >= self.lead
        for flag, centre in self.centres.items():
            settled = settled & ((scores[flag] - centre).abs() >= self.distances[flag])
        return settled


@dataclass(frozen=True, config=STRICT)
class StoppingRule:
    """When ensembles stop growing, for one rate of false alarms, and what answers are then calibrated by."""

    rounds: Annotated[tuple[Round, ...], Field(min_length=2), FailFast()]
    offsets: dict[Flag, Finite]
    """How much a score must exceed the centre of its round to raise the flag. It is the conformal quantile of what the
    scores of calibration inputs exceed the centres of their last rounds by."""
    least_probabilities: Annotated[tuple[Annotated[float, Field(ge=0, le=1)], ...], FailFast()] = ()
    """Least probability of the classes in a prediction set, for each rate of sets that miss, if there are classes."""
    reaches: Annotated[tuple[tuple[Distance, ...], ...], FailFast()] = ()
    """Half the width of each number's prediction interval, in predicted standard deviations, for each rate of intervals
    that miss, if there are numbers."""

    def settle(self, prediction: Prediction, scores: Mapping[Flag, Tensor]) -> Tensor:
        """Which inputs are settled after a round, bool [B].

        Args:
            prediction: prediction of an ensemble that has the size of a round.
            scores: its score for each flag, [B].
        """
        last = self._find_round(prediction.size)
        assert last is not None
        return last.settle(measure_lead(prediction), scores)

    def adjust(self, size: SizeCalibration) -> SizeCalibration:
        """What is calibrated for ensembles that stopped growing at a size, from what is for all of the size."""
        last = self._find_round(size.ensemble_size)
        if last is None:
            return size
        return dataclasses.replace(
            size,
            thresholds={
                flag: (last.centres[flag] + self.offsets[flag],) * len(size.thresholds[flag])
                for flag in size.thresholds
            },
            classes=size.classes and ClassCalibration(size.classes.temperature, self.least_probabilities),
            numbers=size.numbers and NumberCalibration(self.reaches),
        )

    def _find_round(self, ensemble_size: int) -> Round | None:
        return next((each for each in self.rounds if each.ensemble_size == ensemble_size), None)


@dataclass(frozen=True, config=STRICT)
class Stopping:
    """The rules of all rates, and how they were tested.

    With the stated confidence, at most the tolerated share of answers differs from those of a whole ensemble of another
    seed in the label or a flag, beyond the share by which two whole ensembles differ. This holds for each rule, and for
    inputs like those of the split.
    """

    split: str
    """Split whose inputs tested the rules."""
    n: Annotated[int, Field(ge=1)]
    """Number of these inputs."""
    tolerance: Annotated[float, Field(gt=0, lt=1)]
    confidence: Annotated[float, Field(gt=0, lt=1)]
    rules: Annotated[tuple[StoppingRule | None, ...], FailFast()]
    """A rule for each rate of false alarms, or None where none passed the test."""

    def check(self, rates: Sequence[float], flags: Sequence[Flag], sizes: Sequence[int], *, has_classes: bool) -> None:
        """Checks that the rules fit a calibration of fixed sizes.

        Raises:
            ValueError: if they do not.
        """
        if len(self.rules) != len(rates):
            raise ValueError(f"there must be a stopping rule, or none, for each of {len(rates)} rates")
        for rule in filter(None, self.rules):
            rounds = [each.ensemble_size for each in rule.rounds]
            if not set(rounds) <= set(sizes) or rounds != sorted(set(rounds)) or rounds[-1] != sizes[-1]:
                raise ValueError(f"rounds must grow through calibrated sizes to the largest, unlike {rounds}")
            named = [rule.offsets, *(named for each in rule.rounds for named in (each.centres, each.distances))]
            if any(each.keys() != set(flags) for each in named):
                raise ValueError(f"every round must have scores and distances for {', '.join(flags)}")
            ends = rule.rounds[-1]
            if ends.lead or any(ends.distances.values()):
                raise ValueError("the last round must settle every input")
            if [len(rule.least_probabilities), len(rule.reaches)] != [
                len(rates) * has_classes,
                len(rates) * (not has_classes),
            ]:
                raise ValueError(f"a rule must have prediction sets or intervals for each of {len(rates)} rates")


def grow(
    rule: StoppingRule, measure: Callable[[Prediction], Mapping[Flag, Tensor]], prediction: Prediction
) -> list[Part]:
    """The predictions of ensembles that stop growing, from that of whole ones; a part for each round in which any does.

    Args:
        rule: when they stop growing.
        measure: finds the score for each flag: `Calibration.measure`.
        prediction: prediction of the whole ensemble for B inputs.
    """
    found, left = [], torch.arange(prediction.members.shape[1])
    for each in rule.rounds:
        grown = prediction.of_inputs(left).prefix(each.ensemble_size)
        scores = measure(grown)
        settled = rule.settle(grown, scores)
        if settled.any():
            found.append(Part(left, grown, scores).of_inputs(settled.nonzero()[:, 0], left[settled]))
        left = left[~settled]
    return found


def measure_lead(prediction: Prediction) -> Tensor:
    """Lead of the most probable class over the next, [B]; infinite if there are no classes."""
    if not prediction.task.has_classes:
        outputs = prediction.outputs.plain
        return outputs.new_full((outputs.shape[1],), float("inf"))
    first, second = prediction.probabilities.topk(2).values.unbind(-1)
    return first - second
