"""What an answer's numbers are worth: flags, calibrated probabilities and prediction sets.

All of it is measured once, by split conformal prediction on inputs that served for nothing else, for ensembles of
many sizes, and kept beside the checkpoint as `calibration.json`.

The quantile of one size says nothing of another size's scores: these change their distribution with every network. So
an ensemble between two calibrated sizes, or larger than all of them, is judged by what its first networks say, as many
as were calibrated. Their score is exchangeable with those that the threshold is a quantile of, whatever the size.

Shapes: S members, n calibration inputs, B inputs, K outputs.
"""

import dataclasses
import math
from bisect import bisect_right
from collections.abc import Iterable
from itertools import pairwise
from typing import Annotated, Any

from pydantic import BeforeValidator, FailFast, Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from models.inputs.spec import InputSpec
from models.noise import SEED_LIMIT
from models.predictions.prediction import Prediction, ScoreName
from models.schema import STRICT, Finite
from models.tasks.kind import Flag
from models.tasks.task import Task

SIZES = (1, 2, 5, 10, 20, 50, 100)
"""Ensembles that are evaluated, besides the largest."""

CALIBRATED_SIZES = (*range(1, 21), *range(25, 51, 5), *range(60, 101, 10))
"""Ensembles that are calibrated, besides the largest."""

RATES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2)
"""Of false alarms, and of prediction sets that miss, that are calibrated where the inputs suffice."""

DEFAULT_RATE = 0.05

Rate = Annotated[float, Field(gt=0, lt=1)]


@dataclass(frozen=True, config=STRICT)
class Seeds:
    """Successive seeds."""

    first: Annotated[int, Field(ge=0, lt=SEED_LIMIT)]
    count: Annotated[int, Field(ge=1)]

    def __len__(self) -> int:
        return self.count


def _read_list(seeds: Any) -> Any:
    """Seeds from what files of earlier versions hold, all of them in a list."""
    return Seeds(seeds[0], len(seeds)) if isinstance(seeds, list) and seeds else seeds


@dataclass(frozen=True, config=STRICT)
class ClassCalibration:
    """What was measured for classes."""

    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    """Of the mean probabilities."""
    least_probabilities: Annotated[tuple[Annotated[float, Field(ge=0, le=1)], ...], FailFast()]
    """Of the classes in a prediction set, after temperature, for each rate of sets that miss."""


@dataclass(frozen=True, config=STRICT)
class SizeCalibration:
    """What was measured for ensembles of one size."""

    ensemble_size: Annotated[int, Field(ge=1)]
    scores: dict[Flag, ScoreName]
    """What each flag is raised by."""
    thresholds: dict[Flag, Annotated[tuple[Finite, ...], FailFast()]]
    """For each rate of false alarms."""
    classes: ClassCalibration | None


@dataclass(frozen=True, config=STRICT)
class Calibration:
    """What `calibration.json` holds.

    A threshold is the conformal quantile of the scores of n inputs that served for nothing else. Where each of them was
    judged by networks of a seed that no other shares, pairs of an input and a seed are exchangeable: a further input
    like them, judged by networks of a fresh seed, is flagged with a probability of at most the rate, and has a
    prediction set without its label with a probability of at most the rate. That is on average over inputs and seeds.
    """

    checkpoint: str
    """SHA-256 of the `config.json` that this was measured for."""
    split: str
    n: Annotated[int, Field(ge=1)]
    seeds: Annotated[Seeds, BeforeValidator(_read_list)]
    """Draws that the inputs are judged by, in as many equal parts; prefixes of a draw are the ensembles. There are n of
    them; in files of earlier versions there are ten, which inputs share."""
    temperature_split: str | None
    """Where the temperature was fitted, by least negative log-likelihood, and scores were chosen."""
    rates: Annotated[tuple[Rate, ...], Field(min_length=1), FailFast()]
    sizes: Annotated[tuple[SizeCalibration, ...], Field(min_length=1), FailFast()]

    def __post_init__(self) -> None:
        sizes = [size.ensemble_size for size in self.sizes]
        if sizes[0] != 1 or not _grows(sizes):
            raise ValueError(f"it must be for growing ensemble sizes from 1 up, not {sizes}")
        if not _grows(self.rates):
            raise ValueError(f"rates must grow, unlike {self.rates}")
        for size in self.sizes:
            if not size.thresholds.keys() == size.scores.keys() == set(self.flags):
                raise ValueError(f"there must be scores and thresholds of {', '.join(self.flags)} at every size")
            sets = [size.classes.least_probabilities] if size.classes else []
            if any(len(numbers) != len(self.rates) for numbers in [*size.thresholds.values(), *sets]):
                raise ValueError(f"there must be one number for each of {len(self.rates)} rates")

    @property
    def flags(self) -> tuple[Flag, ...]:
        """That can be raised."""
        return tuple(self.sizes[0].scores)

    def for_size(self, ensemble_size: int) -> SizeCalibration:
        """The calibration of the largest size that is no larger than this ensemble's."""
        return self.sizes[bisect_right([size.ensemble_size for size in self.sizes], ensemble_size) - 1]

    @property
    def default_rate(self) -> float:
        """The budget of false alarms where none is given: 5 %, or the least for which there were inputs enough."""
        return max(DEFAULT_RATE, self.rates[0])

    def find_rate(self, rate: float) -> int:
        """The number of the largest calibrated rate that is no larger than this one.

        Raises:
            ValueError: if it lies outside what was calibrated.
        """
        if not self.rates[0] <= rate <= self.rates[-1]:
            raise ValueError(f"a false-alarm rate of {rate:g} was not calibrated")
        return bisect_right(self.rates, rate) - 1

    def find_coverage(self, coverage: float) -> int:
        """The number of the smallest calibrated coverage that is no smaller than this one.

        Raises:
            ValueError: if it lies outside what was calibrated, or there are no classes.
        """
        if self.sizes[0].classes is None:
            raise ValueError("prediction sets are for classes, not for numbers")
        if not 1 - self.rates[-1] <= coverage <= 1 - self.rates[0]:
            raise ValueError(f"a coverage of {coverage:g} was not calibrated")
        return bisect_right(self.rates, round(1 - coverage, 12)) - 1

    def judge(self, prediction: Prediction, rate: float | None = None) -> dict[Flag, "Judgement"]:
        """Flags the inputs whose scores exceed what the budget of false alarms allows.

        Scores are those of the first networks, the largest calibrated number of them.

        Args:
            prediction: of an ensemble of some size.
            rate: the budget, for each flag, if not the default.

        Raises:
            ValueError: as for `find_rate`.
        """
        index = self.find_rate(self.default_rate if rate is None else rate)
        size = self.for_size(prediction.size)
        prediction = prediction.prefix(size.ensemble_size)
        judgements: dict[Flag, Judgement] = {}
        for flag, name in size.scores.items():
            scores, threshold = prediction.score(name), size.thresholds[flag][index]
            judgements[flag] = Judgement(
                name, scores, threshold, scores > threshold, self.rates[index], size.ensemble_size
            )
        return judgements

    def temperature_for(self, ensemble_size: int) -> float:
        """The temperature of an ensemble's mean probabilities."""
        return self._classes(ensemble_size).temperature

    def temper(self, log_probabilities: Tensor, ensemble_size: int) -> Tensor:
        """ln of the mean probabilities, [B, K], at that temperature."""
        return apply_temperature(log_probabilities, self.temperature_for(ensemble_size))

    def choose_sets(self, prediction: Prediction, coverage: float) -> "PredictionSets":
        """Sets of classes that hold the label of a share of inputs like those of the calibration (Sadinle, Lei &
        Wasserman, "Least Ambiguous Set-Valued Classifiers", 2019).

        The first networks choose them, the largest calibrated number; the class that all networks together find most
        probable is always in them.

        Args:
            prediction: of an ensemble of some size.
            coverage: that share; the smallest calibrated one that is no smaller is used.

        Raises:
            ValueError: if that was not calibrated.
        """
        index, size = self.find_coverage(coverage), self.for_size(prediction.size).ensemble_size
        probabilities = self.temper(prediction.prefix(size).log_probabilities, size).exp()
        members = probabilities >= self._classes(size).least_probabilities[index]
        best = prediction.log_probabilities == prediction.log_probabilities.amax(-1, keepdim=True)
        return PredictionSets(members | best, 1 - self.rates[index])

    def _classes(self, ensemble_size: int) -> ClassCalibration:
        classes = self.for_size(ensemble_size).classes
        assert classes is not None
        return classes


@dataclasses.dataclass(frozen=True)
class Judgement:
    """Which of B inputs a flag is raised for, and why."""

    score_name: ScoreName
    scores: Tensor
    """[B]."""
    threshold: float
    flagged: Tensor
    """bool [B]."""
    false_alarm_rate: float
    """That the threshold was calibrated for."""
    ensemble_size: int
    """Likewise, and of the networks that the scores are of."""


@dataclasses.dataclass(frozen=True)
class PredictionSets:
    """A set of classes for each of B inputs."""

    members: Tensor
    """bool [B, K]."""
    coverage: float
    """That they were calibrated for."""


def list_sizes(networks: int, sizes: Iterable[int] = SIZES) -> list[int]:
    """Sizes of ensembles that are evaluated, up to the largest."""
    return sorted({*(size for size in sizes if size <= networks), networks})


def list_scores(task: Task, spec: InputSpec) -> dict[Flag, tuple[ScoreName, ...]]:
    """What each flag may be raised by; the first, where nothing speaks for another."""
    usable = {
        flag: tuple(name for name in names if spec.perturbable or name not in task.noisy_scores)
        for flag, names in task.flag_scores.items()
    }
    return {flag: names for flag, names in usable.items() if names}


def check_calibration(calibration: Calibration, task: Task, spec: InputSpec, networks: int | None) -> None:
    """Checks that a calibration fits a sampler of so many networks, None if every draw is a fresh one.

    Raises:
        ValueError: if it does not.
    """
    scores = list_scores(task, spec)
    if set(calibration.flags) != scores.keys():
        raise ValueError(f"calibrates {', '.join(calibration.flags)}, not {', '.join(scores)}")
    largest = calibration.sizes[-1].ensemble_size
    if networks is not None and largest > networks:
        raise ValueError(f"calibrates ensembles of {largest} of a sampler that has {networks} networks")
    for size in calibration.sizes:
        for flag, score in size.scores.items():
            if score not in scores[flag]:
                raise ValueError(f"{flag} is raised by {' or '.join(scores[flag])}, not by {score}")
        if (size.classes is not None) != task.has_classes:
            raise ValueError("must have temperatures and prediction sets for classes, and for nothing else")


def conformal_quantile(scores: Tensor, rate: float) -> float:
    """The ⌈(n + 1)(1 − α)⌉-th smallest of n scores [n] (Vovk's split-conformal quantile).

    Raises:
        ValueError: if n is too small for α, n < 1/α − 1.
    """
    rank = math.ceil((len(scores) + 1) * (1 - rate))
    if rank > len(scores):
        raise ValueError(f"{len(scores)} scores are too few for a false-alarm rate of {rate}")
    return float(scores.sort().values[rank - 1])


def apply_temperature(log_probabilities: Tensor, temperature: float) -> Tensor:
    """ln of p^(1/T), normalised, from ln p, [B, K]; in double precision."""
    return (log_probabilities.double() / temperature).log_softmax(-1)


def _grows(numbers: tuple[float, ...] | list[int]) -> bool:
    return all(a < b for a, b in pairwise(numbers))
