"""A watch over one model's stream of inputs.

Shapes: B inputs, M calibrated rates.
"""

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable

import numpy as np

from models.model import Model
from models.predictions.drift import Integers
from models.predictions.prediction import Part
from models.tasks.kind import Flag
from service.monitoring.bets import FlagBets
from service.monitoring.state import MOST_BUCKETS, Bucket, WatchState

MOST_WAITING = 64
"""Inputs that wait until they are bet on, unless somebody asks before. Together they take a microsecond each."""

MOST_OF_A_SEED = 16
"""Most inputs that are bet on of those that share a seed, where scores depend on it."""

MOST_SEEDS = 1024
"""Seeds that are remembered."""

FIRST_BUCKET = 16
"""Inputs in a bucket of the history, at first."""

logger = logging.getLogger(__name__)


class _Seeds:
    """Chooses among inputs that share a seed, so that few of them are bet on."""

    def __init__(self, random: np.random.Generator) -> None:
        self._random = random
        self._used: OrderedDict[int, int] = OrderedDict()

    def choose(self, seed: int, inputs: int) -> Integers:
        """Positions of inputs that are bet on, chosen at random, in order."""
        used = self._used.pop(seed, 0)
        chosen = np.sort(self._random.permutation(inputs)[: MOST_OF_A_SEED - used])
        self._used[seed] = used + len(chosen)
        if len(self._used) > MOST_SEEDS:
            self._used.popitem(last=False)
        return chosen


class Watch:
    """A watch over a model's stream, since a time. All methods are thread-safe."""

    def __init__(
        self,
        model: Model,
        level: float,
        state: WatchState | None = None,
        clock: Callable[[], float] = time.time,
        random: np.random.Generator | None = None,
    ) -> None:
        """Begins a watch, or goes on with one.

        Args:
            model: the model.
            level: δ, the probability of ever raising an alarm while nothing changes, for each flag.
            state: what was known, if the watch goes on.
            clock: gives seconds since 1970.
            random: breaks ties between scores, and chooses among inputs that share a seed.

        Raises:
            ValueError: if the state belongs to another model.
        """
        calibration, classes = model.calibration, len(model.task.outputs) if model.task.has_classes else 0
        if state:
            state.check(model.version, calibration, classes)
        self._name, self._version, self._level, self._clock = model.name, model.version, level, clock
        self._random = random or np.random.default_rng()
        self._seeds = _Seeds(self._random)
        self._lock = threading.Lock()
        self._since = state.since if state else clock()
        self._inputs = state.inputs if state else 0
        self._classes = np.array(state.classes if state else [0] * classes, dtype=np.int64)
        self._flags: dict[Flag, FlagBets] = {}
        for flag in calibration.flags if calibration else ():
            self._flags[flag] = FlagBets(model, flag, state.flags[flag] if state else None)
        self._history = state.history if state else []
        self._bucket_inputs = state.bucket_inputs if state else FIRST_BUCKET

    def add(self, part: Part, seed: int) -> None:
        """Counts inputs, and bets on their scores: on all, or on some of those that share the seed."""
        inputs, networks = len(part.positions), part.prediction.size
        with self._lock:
            numbers = np.arange(self._inputs, self._inputs + inputs)
            self._inputs += inputs
            if len(self._classes):
                chosen = part.prediction.probabilities.argmax(-1).numpy()
                self._classes += np.bincount(chosen, minlength=len(self._classes))
            dependent = {flag for flag, bets in self._flags.items() if bets.depends_on_seed(networks)}
            some = self._seeds.choose(seed, inputs) if dependent else None
            counts = {
                flag: bets.add(part.scores[flag].numpy(), networks, numbers, some if flag in dependent else None)
                for flag, bets in self._flags.items()
            }
            self._record(inputs, counts)
            is_full = self._history[-1].inputs >= self._bucket_inputs
            if is_full or any(bets.waiting >= MOST_WAITING for bets in self._flags.values()):
                self._settle()

    def read(self) -> WatchState:
        """What is known now."""
        with self._lock:
            self._settle()
            return WatchState(
                version=self._version,
                since=self._since,
                inputs=self._inputs,
                classes=self._classes.tolist(),
                flags={flag: bets.save() for flag, bets in self._flags.items()},
                history=[bucket.copy() for bucket in self._history],
                bucket_inputs=self._bucket_inputs,
            )

    def _record(self, inputs: int, counts: dict[Flag, list[int]]) -> None:
        """Adds inputs to the last bucket of the history, or to a new one if that is full."""
        new = Bucket(inputs, self._clock(), counts, {flag: bets.log10 for flag, bets in self._flags.items()})
        if self._history and self._history[-1].inputs < self._bucket_inputs:
            new = self._history.pop().join(new)
        elif len(self._history) == MOST_BUCKETS:
            pairs = zip(self._history[::2], self._history[1::2], strict=True)
            self._history = [first.join(second) for first, second in pairs]
            self._bucket_inputs *= 2
        self._history.append(new)

    def _settle(self) -> None:
        """Bets on all that waits."""
        for flag, bets in self._flags.items():
            known = bets.alarm
            highest = bets.settle(self._random, self._level, self._clock())
            if self._history:
                self._history[-1].highest[flag] = max(self._history[-1].highest[flag], highest)
            if bets.alarm and not known:
                text = "the inputs of %s have changed, by the scores of %s; this was certain after %d of them"
                logger.warning(text, self._name, flag, bets.alarm.inputs)
