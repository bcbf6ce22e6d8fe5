"""Bets on the scores of one flag.

Shapes: B inputs, M calibrated rates.
"""

import math

import numpy as np

from models.model import Model
from models.predictions.detection import Calibration
from models.predictions.drift import Bag, Floats, Integers, Martingale, count_gaps, find_bins
from models.predictions.size_calibration import SizeCalibration
from models.tasks.kind import Flag
from service.monitoring.state import Alarm, Bets, FlagState

MANY_NETWORKS = 20
"""Networks from which on another seed hardly changes a score, unless the score needs noise, which a seed has in common
for all inputs."""


class _SizeBets:
    """Bets on the scores of ensembles of one size, on several inputs at a time."""

    def __init__(self, calibration: Calibration, size: SizeCalibration, flag: Flag, state: Bets | None) -> None:
        self._thresholds = size.thresholds[flag]
        gaps = np.array(state.bag) if state else count_gaps(calibration.n, calibration.rates, self._thresholds)
        self._bag = Bag(gaps)
        capital = np.array(state.capital) if state else None
        self._martingale = Martingale(calibration.rates, state.inputs if state else 0, capital)
        self._waiting: list[tuple[Integers, Integers]] = []

    @property
    def value(self) -> float:
        return float(self._martingale.value)

    @property
    def waiting(self) -> int:
        return sum(len(bins) for bins, _ in self._waiting)

    def add(self, scores: Floats, numbers: Integers, chosen: Integers | None) -> list[int]:
        bins = find_bins(scores, self._thresholds)
        self._waiting.append((bins, numbers) if chosen is None else (bins[chosen], numbers[chosen]))
        counts: list[int] = np.bincount(bins, minlength=len(self._thresholds) + 1).tolist()
        return counts

    def settle(self, random: np.random.Generator) -> tuple[Integers, Floats]:
        """Bets on what waits. Returns the inputs' numbers, and the martingale after each."""
        if not self.waiting:
            return np.zeros(0, np.int64), np.zeros(0)
        bins, numbers = map(np.concatenate, zip(*self._waiting, strict=True))
        self._waiting.clear()
        return numbers, self._martingale.bet(self._bag.rank(bins, random.random(len(bins))))

    def save(self) -> Bets:
        return Bets(self._martingale.inputs, self._bag.gaps.tolist(), self._martingale.capital.tolist())


class FlagBets:
    """Bets on the scores of a flag, by ensembles of any size.

    Each size has a martingale of its own, because scores of one size say something about the calibration's scores of
    another. The k-th martingale counts 1/(k (k + 1)) of its value. These shares have the sum 1, so the largest of the
    products reaches 1/δ with a probability of at most δ, too.
    """

    def __init__(self, model: Model, flag: Flag, state: FlagState | None = None) -> None:
        """Begins, or goes on with what was saved. The model is calibrated."""
        calibration = model.calibration
        assert calibration is not None
        self._calibration, self._flag = calibration, flag
        self._noisy_scores, self._num_networks = model.task.noisy_scores, model.num_networks
        self._sizes: dict[int, _SizeBets] = {}
        for size, bets in (state.bets if state else {}).items():
            self._sizes[size] = _SizeBets(calibration, calibration.for_size(size), flag, bets)
        self.alarm = state.alarm if state else None

    @property
    def log10(self) -> float:
        """Decimal logarithm of the martingale; so far without what waits."""
        return math.log10(max((share * bets.value for share, bets in self._list_shares()), default=0.5))

    @property
    def waiting(self) -> int:
        """Number of inputs of one size that are not bet on yet."""
        return max((bets.waiting for bets in self._sizes.values()), default=0)

    def depends_on_seed(self, networks: int) -> bool:
        """Whether scores depend so much on the seed that those of inputs that share one are not independent."""
        size = self._calibration.for_size(networks)
        few = size.ensemble_size < MANY_NETWORKS and size.ensemble_size != self._num_networks
        return few or size.scores[self._flag] in self._noisy_scores

    def add(self, scores: Floats, networks: int, numbers: Integers, chosen: Integers | None) -> list[int]:
        """Adds inputs.

        Args:
            scores: their scores, [B].
            networks: number of networks that were asked.
            numbers: numbers of the inputs in the stream, [B].
            chosen: those that are bet on, by their positions; None for all.

        Returns:
            Numbers of scores above all thresholds, between each two, and above none, [M + 1].
        """
        size = self._calibration.for_size(networks)
        if (bets := self._sizes.get(size.ensemble_size)) is None:
            bets = self._sizes[size.ensemble_size] = _SizeBets(self._calibration, size, self._flag, None)
        return bets.add(scores, numbers, chosen)

    def settle(self, random: np.random.Generator, level: float, now: float) -> float:
        """Bets on what waits, and raises the alarm if a value reaches 1/level.

        Returns:
            Decimal logarithm of the highest value since the last time.
        """
        highest = self.log10
        for share, bets in self._list_shares():
            numbers, values = bets.settle(random)
            highest = max([highest, *np.log10(share * values).tolist()])
            if self.alarm is None and (reached := np.flatnonzero(share * values >= 1 / level)).size:
                self.alarm = Alarm(now, int(numbers[reached[0]]) + 1)
        return highest

    def save(self) -> FlagState:
        """What is known, without what waits."""
        return FlagState(self.log10, {size: bets.save() for size, bets in self._sizes.items()}, self.alarm)

    def _list_shares(self) -> list[tuple[float, _SizeBets]]:
        return [(1 / (k * (k + 1)), bets) for k, bets in enumerate(self._sizes.values(), 1)]
