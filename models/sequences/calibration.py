"""Flags for foreign text: passages that surprise the networks, or divide them, more than usual text does.

A threshold is the conformal quantile of the scores of passages that were used for nothing else. Passages of one text
resemble each other, so the promised rate of false alarms holds approximately; the model card states the measured one.

Shapes: n passages of W symbols, P symbols of a text.
"""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import FailFast, Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from models.schema import STRICT, Finite

PassageScore = Literal["surprisal", "disagreement"]

SCORES: tuple[PassageScore, ...] = "surprisal", "disagreement"
"""Scores of symbols, of which a passage has the mean, in nats."""

DEFAULT_RATE = 0.05


@dataclass(frozen=True, config=STRICT)
class SizeThresholds:
    """Thresholds for ensembles of one size."""

    ensemble_size: Annotated[int, Field(ge=1)]
    score: PassageScore
    thresholds: Annotated[tuple[Finite, ...], FailFast()]
    """One for each rate, in nats."""


@dataclass(frozen=True, config=STRICT)
class PassageCalibration:
    """The content of a text model's `calibration.json`."""

    checkpoint: str
    """SHA-256 of the `config.json` to which the calibration belongs."""
    passage: Annotated[int, Field(ge=1)]
    """W, the symbols of a passage. It is read as a text of its own."""
    n: Annotated[int, Field(ge=1)]
    rates: Annotated[tuple[Annotated[float, Field(gt=0, lt=1)], ...], Field(min_length=1), FailFast()]
    """Rates of false alarms."""
    sizes: Annotated[tuple[SizeThresholds, ...], Field(min_length=1), FailFast()]

    def __post_init__(self) -> None:
        if list(self.rates) != sorted(set(self.rates)):
            raise ValueError(f"rates must increase, unlike {self.rates}")
        if any(len(size.thresholds) != len(self.rates) for size in self.sizes):
            raise ValueError(f"every size must have a threshold for each of {len(self.rates)} rates")
        if len({size.ensemble_size for size in self.sizes}) != len(self.sizes):
            raise ValueError("a size appears twice")

    @property
    def default_rate(self) -> float:
        """Budget of false alarms if none is given: 5 %, or the least for which there were enough passages."""
        return max(DEFAULT_RATE, self.rates[0])

    def find(self, ensemble_size: int) -> SizeThresholds | None:
        """Thresholds for ensembles of a size, if that was calibrated."""
        return next((size for size in self.sizes if size.ensemble_size == ensemble_size), None)

    def find_rate(self, rate: float | None) -> int:
        """Index of the largest calibrated rate that does not exceed this one, or the default.

        Raises:
            ValueError: if the rate is outside the calibrated range.
        """
        rate = self.default_rate if rate is None else rate
        if not self.rates[0] <= rate <= self.rates[-1]:
            raise ValueError(f"a false-alarm rate of {rate:g} was not calibrated")
        return max(index for index, known in enumerate(self.rates) if known <= rate)

    def judge(
        self, scores: Mapping[PassageScore, Tensor], ensemble_size: int, rate: float | None = None
    ) -> "PassageJudgement | None":
        """Judges the whole passages of a text.

        A passage within a text is read after what is before it, which makes usual text less surprising. So the first
        is judged as it was calibrated, and alarms at later ones are rarer.

        Args:
            scores: scores of all symbols of the text by name, [P] each, in nats.
            ensemble_size: number of networks behind the scores.
            rate: the budget of false alarms, if not the default.

        Returns:
            None if ensembles of this size were not calibrated.

        Raises:
            ValueError: if the rate is outside the calibrated range.
        """
        index, size = self.find_rate(rate), self.find(ensemble_size)
        if size is None:
            return None
        values, threshold = average_passages(scores[size.score], self.passage), size.thresholds[index]
        return PassageJudgement(size.score, values, threshold, values > threshold, self.rates[index])


@dataclasses.dataclass(frozen=True)
class PassageJudgement:
    """Which passages of a text are foreign."""

    score: PassageScore
    values: Tensor
    """Scores of passages, [n], in nats."""
    threshold: float
    flagged: Tensor
    """Bool [n]."""
    rate: float
    """Budget of false alarms that the threshold was calibrated for."""


def average_passages(values: Tensor, passage: int) -> Tensor:
    """Means over the whole passages of a text, [n], of values of its symbols, [P].

    Args:
        values: values of the text's symbols.
        passage: symbols of a passage, W.
    """
    count = len(values) // passage
    return values[: count * passage].view(count, passage).mean(1)
