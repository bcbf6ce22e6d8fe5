"""Trust in an answer: flags, calibrated probabilities, prediction sets and prediction intervals.

They are calibrated once, for ensembles of many sizes: by split conformal prediction on inputs that were used for
nothing else, or crosswise in folds. The results are kept beside the checkpoint as `calibration.json`.

The quantile for one size says nothing about another size's scores, whose distribution changes with every network. An
ensemble between two calibrated sizes, or larger than all of them, is therefore judged by its first networks, as many as
were calibrated. Their score is exchangeable with the scores behind the threshold, for any size.

Shapes: S members, n calibration inputs, B inputs, K outputs, R rates.
"""

import dataclasses
import math
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Annotated

from pydantic import BeforeValidator, FailFast, Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from models.inputs.kind import InputKind
from models.predictions.calibration_origin import Feedback, Seeds, read_seeds
from models.predictions.prediction import FEATURE_DISTANCE, Prediction, ScoreName
from models.predictions.size_calibration import ClassCalibration, SizeCalibration
from models.predictions.stopping import Stopping, StoppingRule
from models.predictions.surprise import COMBINED_SURPRISE, SHARES, measure_surprise
from models.schema import STRICT
from models.tasks.kind import Flag
from models.tasks.regression import RegressionUncertainty
from models.tasks.task import Task

SIZES = (1, 2, 5, 10, 20, 50, 100)
"""Sizes of ensembles that are evaluated, besides the largest."""

CALIBRATED_SIZES = (*range(1, 21), *range(25, 51, 5), *range(60, 101, 10))
"""Sizes of ensembles that are calibrated, besides the largest."""

RATES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2)
"""Rates of false alarms, and of prediction sets that miss the label. Those with enough inputs are calibrated."""

DEFAULT_RATE = 0.05

Rate = Annotated[float, Field(gt=0, lt=1)]


@dataclass(frozen=True, config=STRICT)
class Calibration:
    """The content of `calibration.json`.

    A threshold is the conformal quantile of the scores of n inputs that were used for nothing else. If each input is
    judged by networks of its own seed, pairs of an input and a seed are exchangeable. A further input like them, judged
    by networks of a fresh seed, is then flagged with a probability of at most the rate, and its prediction set misses
    its label with a probability of at most the rate. Both hold on average over inputs and seeds.

    In folds, each input was judged by networks that were trained without its fold, and the networks that are served
    were trained on all inputs. Both then hold only approximately (cross-conformal prediction: Vovk, "Cross-Conformal
    Predictors", 2015), as the served networks are not those behind the scores.
    """

    checkpoint: str
    """SHA-256 of the `config.json` to which the calibration belongs."""
    split: str
    n: Annotated[int, Field(ge=1)]
    seeds: Annotated[Seeds | None, BeforeValidator(read_seeds)]
    """Seeds of the draws that judge the inputs, each draw an equal part of them. Prefixes of a draw are the ensembles.
    There are n seeds; files of earlier versions have ten, which inputs share. None if requests chose them."""
    temperature_split: str | None
    """Split on which the temperature was fitted, by least negative log-likelihood, and the scores were chosen."""
    rates: Annotated[tuple[Rate, ...], Field(min_length=1), FailFast()]
    sizes: Annotated[tuple[SizeCalibration, ...], Field(min_length=1), FailFast()]
    density: str | None = None
    """SHA-256 of density.safetensors, which holds the density of the training's prepared inputs, if it is known."""
    folds: Annotated[int, Field(ge=2)] | None = None
    """Number of folds, if the calibration was crosswise. Then the split is that of all training examples."""
    stopping: Stopping | None = None
    """When ensembles stop growing that are as large as an input needs, if that was calibrated."""
    feedback: Feedback | None = None
    """The labelled answers of a service that the calibration was made of, instead of a split. Ensembles smaller than
    those that gave them are then not calibrated."""

    def __post_init__(self) -> None:
        sizes = [size.ensemble_size for size in self.sizes]
        if (sizes[0] != 1 and self.feedback is None) or not _grows(sizes):
            raise ValueError(f"ensemble sizes must increase from 1, unlike {sizes}")
        if not _grows(self.rates):
            raise ValueError(f"rates must increase, unlike {self.rates}")
        for size in self.sizes:
            if not size.thresholds.keys() == size.scores.keys() == set(self.flags):
                raise ValueError(f"every size must have scores and thresholds for {', '.join(self.flags)}")
            sets = [size.classes.least_probabilities] if size.classes else []
            intervals = [size.numbers.reaches] if size.numbers else []
            if any(len(numbers) != len(self.rates) for numbers in [*size.thresholds.values(), *sets, *intervals]):
                raise ValueError(f"there must be one number for each of {len(self.rates)} rates")
        if self.stopping:
            self.stopping.check(self.rates, self.flags, sizes, has_classes=self.sizes[0].classes is not None)

    @property
    def flags(self) -> tuple[Flag, ...]:
        """Flags that can be raised."""
        return tuple(self.sizes[0].scores)

    @property
    def least_size(self) -> int:
        """Size of the smallest ensembles that are calibrated."""
        return self.sizes[0].ensemble_size

    def for_size(self, ensemble_size: int) -> SizeCalibration:
        """Calibration of the largest size that does not exceed this ensemble's.

        Raises:
            ValueError: if the ensemble is too small.
        """
        if ensemble_size < self.least_size:
            raise ValueError(f"ensembles of less than {self.least_size} networks are not calibrated")
        return self.sizes[bisect_right([size.ensemble_size for size in self.sizes], ensemble_size) - 1]

    def find_rule(self, rate: float | None = None) -> StoppingRule | None:
        """The rule by which ensembles stop growing, if there is one, for a rate of false alarms or the default one.

        Raises:
            ValueError: if the rate is outside the calibrated range.
        """
        if self.stopping is None:
            return None
        return self.stopping.rules[self.find_rate(self.default_rate if rate is None else rate)]

    def follow(self, rule: StoppingRule) -> "Calibration":
        """The calibration of ensembles that stopped growing by a rule, at its rate."""
        return dataclasses.replace(self, sizes=tuple(rule.adjust(size) for size in self.sizes), stopping=None)

    @property
    def default_rate(self) -> float:
        """Budget of false alarms if none is given: 5 %, or the least for which there were enough inputs."""
        return max(DEFAULT_RATE, self.rates[0])

    def find_rate(self, rate: float) -> int:
        """Index of the largest calibrated rate that does not exceed this one.

        Raises:
            ValueError: if the rate is outside the calibrated range.
        """
        if not self.rates[0] <= rate <= self.rates[-1]:
            raise ValueError(f"a false-alarm rate of {rate:g} was not calibrated")
        return bisect_right(self.rates, rate) - 1

    def find_coverage(self, coverage: float) -> int:
        """Index of the smallest calibrated coverage that is at least this one.

        Raises:
            ValueError: if the coverage is outside the calibrated range, or there are neither sets nor intervals.
        """
        if self.sizes[0].classes is None and self.sizes[0].numbers is None:
            raise ValueError("its calibration has no prediction intervals")
        if not 1 - self.rates[-1] <= coverage <= 1 - self.rates[0]:
            raise ValueError(f"a coverage of {coverage:g} was not calibrated")
        return bisect_right(self.rates, round(1 - coverage, 12)) - 1

    def judge(self, prediction: Prediction, rate: float | None = None) -> dict[Flag, "Judgement"]:
        """Flags the inputs whose scores exceed the thresholds for a budget of false alarms.

        The scores are those of the first networks, the largest calibrated number of them.

        Args:
            prediction: prediction of an ensemble of any size.
            rate: the budget for each flag, if not the default.

        Raises:
            ValueError: if the rate is outside the calibrated range.
        """
        return self.judge_scores(self.measure(prediction), prediction.size, rate)

    def measure(self, prediction: Prediction) -> dict[Flag, Tensor]:
        """The score that raises each flag, [B]."""
        size = self.for_size(prediction.size)
        first = prediction.prefix(size.ensemble_size)
        return {flag: size.measure(first, flag) for flag in size.scores}

    def measure_distance_surprise(self, prediction: Prediction) -> Tensor | None:
        """How surprising the inputs' distances from the training examples are among usual inputs, in nats: [B]. None if
        no combined surprise knows."""
        levels = self.for_size(prediction.size).levels.get(FEATURE_DISTANCE)
        return None if levels is None else measure_surprise(prediction.score(FEATURE_DISTANCE), levels)

    def judge_scores(
        self, scores: Mapping[Flag, Tensor], ensemble_size: int, rate: float | None = None
    ) -> dict[Flag, "Judgement"]:
        """As `judge`, from the scores that `measure` found for an ensemble of this size."""
        index = self.find_rate(self.default_rate if rate is None else rate)
        size = self.for_size(ensemble_size)
        judgements: dict[Flag, Judgement] = {}
        for flag, name in size.scores.items():
            threshold = size.thresholds[flag][index]
            flagged = scores[flag] > threshold
            judgements[flag] = Judgement(name, scores[flag], threshold, flagged, self.rates[index], size.ensemble_size)
        return judgements

    def temperature_for(self, ensemble_size: int) -> float:
        """Temperature of an ensemble's mean probabilities."""
        return self._classes(ensemble_size).temperature

    def temper(self, log_probabilities: Tensor, ensemble_size: int) -> Tensor:
        """ln of the mean probabilities, [B, K], at the ensemble's temperature."""
        return apply_temperature(log_probabilities, self.temperature_for(ensemble_size))

    def choose_sets(self, prediction: Prediction, coverage: float) -> "PredictionSets":
        """Chooses sets of classes that contain the label for a share of inputs like those of the calibration (Sadinle,
        Lei & Wasserman, "Least Ambiguous Set-Valued Classifiers", 2019).

        The first networks choose them, the largest calibrated number. The class that all networks together find most
        probable is always included.

        Args:
            prediction: prediction of an ensemble of any size.
            coverage: the share; the smallest calibrated coverage that is at least this one is used.

        Raises:
            ValueError: if the coverage is outside the calibrated range, or there are no classes.
        """
        index = self.find_coverage(coverage)
        return PredictionSets(self.grade_classes(prediction) > index, 1 - self.rates[index])

    def grade_classes(self, prediction: Prediction) -> Tensor:
        """For how many of the calibrated coverages, from the largest on, `choose_sets` chooses each class, [B, K]. Sets
        for smaller coverages are parts of those for larger ones."""
        size = self.for_size(prediction.size).ensemble_size
        probabilities = self.temper(prediction.prefix(size).log_probabilities, size).exp()
        least = probabilities.new_tensor(self._classes(size).least_probabilities)
        best = prediction.log_probabilities == prediction.log_probabilities.amax(-1, keepdim=True)
        return ((probabilities[..., None] >= least) | best[..., None]).sum(-1)

    def choose_intervals(self, prediction: Prediction, coverage: float) -> "PredictionIntervals":
        """Chooses an interval for each number that contains it for a share of inputs like those of the calibration.

        It reaches equally many standard deviations to both sides of the mean (split conformal prediction with locally
        weighted residuals: Lei et al., "Distribution-Free Predictive Inference for Regression", 2018, section 5.2). The
        first networks choose it, the largest calibrated number.

        Args:
            prediction: prediction of an ensemble of any size.
            coverage: the share, for each number; the smallest calibrated coverage that is at least this one is used.

        Raises:
            ValueError: if the coverage is outside the calibrated range, or there are no intervals.
        """
        index, size = self.find_coverage(coverage), self.for_size(prediction.size)
        measured = prediction.prefix(size.ensemble_size).uncertainty
        assert isinstance(measured, RegressionUncertainty)
        reach = self.measure_reaches(measured, prediction.size)[:, index]
        return PredictionIntervals(measured.mean - reach, measured.mean + reach, 1 - self.rates[index])

    def measure_reaches(self, measured: RegressionUncertainty, ensemble_size: int) -> Tensor:
        """Half the widths of the intervals for each calibrated coverage, from the largest on, [B, R, K].

        Args:
            measured: what the first networks, the largest calibrated number, say.
            ensemble_size: size of the whole ensemble.
        """
        numbers = self.for_size(ensemble_size).numbers
        assert numbers is not None
        return measured.standard_deviation[:, None] * measured.mean.new_tensor(numbers.reaches)

    def _classes(self, ensemble_size: int) -> ClassCalibration:
        classes = self.for_size(ensemble_size).classes
        assert classes is not None
        return classes


@dataclasses.dataclass(frozen=True)
class Judgement:
    """One flag for each of B inputs, with its reason."""

    score_name: ScoreName
    scores: Tensor
    """[B]."""
    threshold: float
    flagged: Tensor
    """bool [B]."""
    false_alarm_rate: float
    """Rate for which the threshold was calibrated."""
    ensemble_size: int
    """Size for which the threshold was calibrated, and number of networks behind the scores."""


@dataclasses.dataclass(frozen=True)
class PredictionSets:
    """A set of classes for each of B inputs."""

    members: Tensor
    """bool [B, K]."""
    coverage: float
    """Coverage for which they were calibrated."""


@dataclasses.dataclass(frozen=True)
class PredictionIntervals:
    """An interval for each of K numbers and B inputs."""

    lower: Tensor
    """[B, K], in the numbers' own units."""
    upper: Tensor
    """[B, K]."""
    coverage: float
    """Coverage for which they were calibrated."""


def list_sizes(networks: int, sizes: Iterable[int] = SIZES, least: int = 1) -> list[int]:
    """Sizes of ensembles that are evaluated, from the smallest that is calibrated to the largest."""
    return sorted({*(size for size in sizes if least <= size <= networks), networks})


def list_scores(task: Task, spec: InputKind, *, density: bool = False) -> dict[Flag, tuple[ScoreName, ...]]:
    """Scores that may raise each flag, two of them if the inputs' density is known. The first is the default."""
    usable = {
        flag: tuple(name for name in names if spec.perturbable or name not in task.noisy_scores)
        for flag, names in task.flag_scores.items()
    }
    if density:
        usable["out_of_distribution"] += (FEATURE_DISTANCE, COMBINED_SURPRISE)
    return {flag: names for flag, names in usable.items() if names}


def check_calibration(calibration: Calibration, task: Task, spec: InputKind, networks: int | None) -> None:
    """Checks that a calibration fits a task, an input and a sampler's number of networks (None: every draw is new).

    Raises:
        ValueError: if it does not fit.
    """
    scores = list_scores(task, spec, density=calibration.density is not None)
    if set(calibration.flags) != scores.keys():
        raise ValueError(f"calibrates {', '.join(calibration.flags)} instead of {', '.join(scores)}")
    largest = calibration.sizes[-1].ensemble_size
    if networks is not None and largest > networks:
        raise ValueError(f"calibrates ensembles of {largest} networks, but the sampler has only {networks}")
    for size in calibration.sizes:
        for flag, score in size.scores.items():
            if score not in scores[flag]:
                raise ValueError(f"{flag} is raised by {' or '.join(scores[flag])}, not by {score}")
        _check_levels(size, [name for name in scores["out_of_distribution"] if name != COMBINED_SURPRISE])
        if (size.classes is not None) != task.has_classes:
            raise ValueError("must have temperatures and prediction sets for classes, and only for classes")
        if size.numbers:
            _check_reaches(size.numbers.reaches, task)
    for rule in filter(None, calibration.stopping.rules if calibration.stopping else ()):
        _check_reaches(rule.reaches, task)


def _check_reaches(reaches: Sequence[Sequence[float]], task: Task) -> None:
    if any(len(reach) != len(task.outputs) for reach in reaches):
        raise ValueError(f"must have intervals of {len(task.outputs)} numbers")


def _check_levels(size: SizeCalibration, names: Sequence[ScoreName]) -> None:
    combined = COMBINED_SURPRISE in size.scores.values()
    if combined != bool(size.levels) or not size.levels.keys() <= set(names):
        raise ValueError(f"must have levels of {' or '.join(names)} for a combined surprise, and only for that")
    for name, levels in size.levels.items():
        if len(levels) != len(SHARES) or list(levels) != sorted(levels):
            raise ValueError(f"must have {len(SHARES)} levels of {name} that do not decrease")


def conformal_quantile(scores: Tensor, rate: float) -> float:
    """The ⌈(n + 1)(1 − α)⌉-th smallest of n scores [n] (Vovk's split-conformal quantile).

    Raises:
        ValueError: if n is too small for α, n < 1/α − 1.
    """
    rank = find_rank(len(scores), rate)
    if rank > len(scores):
        raise ValueError(f"{len(scores)} scores are too few for a false-alarm rate of {rate}")
    return float(scores.sort().values[rank - 1])


def find_rank(n: int, rate: float) -> int:
    """Rank of the conformal quantile among n scores, from 1 on: so many of them do not exceed it."""
    return math.ceil((n + 1) * (1 - rate))


def apply_temperature(log_probabilities: Tensor, temperature: float) -> Tensor:
    """ln of p^(1/T), normalised, from ln p, [B, K], in double precision."""
    return (log_probabilities.double() / temperature).log_softmax(-1)


def _grows(numbers: tuple[float, ...] | list[int]) -> bool:
    return all(a < b for a, b in pairwise(numbers))
