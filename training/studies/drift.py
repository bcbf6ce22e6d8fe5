"""How often alarms of drift are false, and how soon they are raised, on simulated streams of scores.

The scores of a calibration and of unchanged inputs are drawn from one distribution, whichever it is: only their ranks
count. Foreign inputs have scores above all of them.

Shapes: S streams, n calibration inputs, B inputs, M rates.
"""

import math
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic.dataclasses import dataclass

from models.checkpoint_files import dump_json, write_file
from models.predictions.detection import DEFAULT_RATE, RATES, find_rank
from models.predictions.drift import Bag, Floats, Integers, Martingale, count_gaps
from training.progress import announce

FILE = "drift.json"

FOREIGN_SHARE = 0.02
"""Share of inputs that are foreign after a change."""

FOREIGN_SCORE = 100.0
"""A score that no usual input has."""

CHANGES = (0, 1_000, 100_000)
"""Numbers of inputs before a change."""

PATIENCE = 20_000
"""Inputs after a change within which it must be found."""

BLOCK, GROUP = 1_000, 50
"""Inputs and streams that are simulated at once."""

SHARING, SHARED_INPUTS = 256, 102_400
"""Inputs that share a seed, as those of a large request do, and those of a stream of such requests."""

SEED_SPREAD = 0.12
"""Standard deviation of what a seed adds to the scores of all its inputs, in units of the scores' own. It makes 5 % of
flagged inputs 3.9 to 6.4 % from one seed to another, a standard deviation to each side: about as wide as the spread of
`suspect_adversarial` in docs/flags.md."""

BETS = (SHARING, 16)
"""How many inputs of those that share a seed are bet on. The service bets on 16, where the seed matters."""


class Detector(Protocol):
    """Watches streams, and raises an alarm for each that has changed."""

    def watch(self, scores: Floats) -> Integers:
        """Position of the first alarm among the next scores [S, B] of each stream, or −1, int64 [S]."""


class MartingaleDetector:
    """The service's: an alarm when the martingale reaches 1/δ."""

    def __init__(self, calibration: Floats, random: np.random.Generator, level: float) -> None:
        n = calibration.shape[1]
        self._thresholds = np.sort(calibration)[:, [find_rank(n, rate) - 1 for rate in RATES]]
        self._bag = Bag(count_gaps(n, RATES, self._thresholds[0].tolist()))
        self._martingale = Martingale(RATES)
        self._level, self._random = level, random

    def watch(self, scores: Floats) -> Integers:
        bins = (scores[..., None] <= self._thresholds[:, None]).sum(-1)
        values = self._martingale.bet(self._bag.rank(bins, self._random.random(bins.shape)))
        return _find_first(values >= 1 / self._level)


class RateDetector:
    """The alert `EntropyDrift`: of the last inputs, more than twice as many are flagged as the budget allows."""

    def __init__(self, calibration: Floats, random: np.random.Generator, window: int) -> None:
        rank = find_rank(calibration.shape[1], DEFAULT_RATE)
        self._threshold, self._window = np.sort(calibration)[:, rank - 1 : rank], window
        self._flagged = np.zeros((len(calibration), 0), dtype=bool)

    def watch(self, scores: Floats) -> Integers:
        flagged = np.concatenate([self._flagged, scores > self._threshold], 1)
        self._flagged = flagged[:, 1 - self._window :]
        sums = np.pad(flagged.cumsum(1), ((0, 0), (1, 0)))
        counts = sums[:, self._window :] - sums[:, : -self._window]
        first = _find_first(counts > 2 * DEFAULT_RATE * self._window)
        return np.where(first < 0, -1, first + scores.shape[1] - counts.shape[1])


class KolmogorovSmirnovDetector:
    """A two-sample Kolmogorov–Smirnov test of each block of inputs against the calibration, at a level."""

    def __init__(self, calibration: Floats, random: np.random.Generator, level: float) -> None:
        from scipy.stats import kstwobign  # takes long to import

        self._calibration, self._critical = np.sort(calibration), float(kstwobign.isf(level))

    def watch(self, scores: Floats) -> Integers:
        n, size = self._calibration.shape[1], scores.shape[1]
        steps = np.arange(n + 1) / n
        below = np.stack(
            [np.searchsorted(np.sort(new), known) for known, new in zip(self._calibration, scores, strict=True)]
        )
        distances = np.maximum(np.abs(below / size - steps[1:]), np.abs(below / size - steps[:-1])).max(1)
        return np.where(distances * math.sqrt(n * size / (n + size)) > self._critical, size - 1, -1)


@dataclass(frozen=True)
class Delay:
    """How soon a change is found."""

    change: int
    """Inputs before it."""
    early: float
    """Share of streams with an alarm before it."""
    quantiles: tuple[int | None, int | None, int | None]
    """Inputs from the change until the alarm: quantiles .1, .5 and .9 of the other streams. None beyond `PATIENCE`."""


@dataclass(frozen=True)
class Performance:
    """What a detector does on unchanged streams, and on streams that change."""

    detector: str
    false_alarms: dict[int, float]
    """Shares of unchanged streams with an alarm, by their length."""
    delays: tuple[Delay, ...]


@dataclass(frozen=True)
class DriftStudy:
    """The contents of `drift.json`."""

    n: int
    level: float
    streams: int
    detectors: tuple[Performance, ...]
    sharing: dict[int, float]
    """Shares of unchanged streams with a false alarm if inputs share seeds, by how many of these are bet on."""


MakeDetector = Callable[[Floats, np.random.Generator], Detector]
"""Makes a detector from the scores of the streams' calibrations, [S, n], and randomness for its own use."""


def study_drift(
    out: Path, n: int, level: float, streams: int, inputs: int, seed: int = 0, processes: int = 1
) -> DriftStudy:
    """Simulates streams, and writes tables of false alarms and delays.

    Args:
        out: directory for the tables.
        n: number of calibration inputs.
        level: δ.
        streams: S, for each question.
        inputs: length of unchanged streams.
        seed: seed of all randomness.
        processes: number of processes that simulate at once. The result does not depend on it.
    """
    martingale = partial(MartingaleDetector, level=level)
    makers: dict[str, MakeDetector] = {
        f"martingale, 1/δ = {1 / level:g}": martingale,
        "2 × rate, the last 200 inputs": partial(RateDetector, window=200),
        f"2 × rate, the last {BLOCK:,} inputs": partial(RateDetector, window=BLOCK),
        f"Kolmogorov–Smirnov, each {BLOCK:,} inputs, p < {level:g}": partial(KolmogorovSmirnovDetector, level=level),
    }
    found = []
    with ProcessPoolExecutor(processes) as pool:
        for name, make in makers.items():
            announce(f"simulating: {name}")
            ask = partial(_simulate_all, pool, streams, seed, partial(simulate, make, n))
            alarms = ask(inputs, inputs)
            lengths = sorted({min(length, inputs) for length in (10_000, 100_000, inputs)})
            false_alarms = {length: float(((alarms >= 0) & (alarms < length)).mean()) for length in lengths}
            delays = tuple(_summarize(change, ask(change, change + PATIENCE)) for change in CHANGES)
            found.append(Performance(name, false_alarms, delays))
        announce("simulating inputs that share seeds")
        share = partial(_simulate_all, pool, streams, seed, partial(simulate_sharing, martingale, n))
        sharing = {bets: float((share(bets) >= 0).mean()) for bets in BETS}
    study = DriftStudy(n, level, streams, tuple(found), sharing)
    out.mkdir(parents=True, exist_ok=True)
    write_file(out / FILE, dump_json(study))
    write_file(out / "README.md", describe_drift(study).encode())
    return study


def _simulate_all(
    pool: ProcessPoolExecutor, streams: int, seed: int, simulate: Callable[..., Integers], *arguments: int
) -> Integers:
    """Simulates streams in groups, each with randomness of its own."""
    sizes = _split(streams, GROUP)
    futures = [
        pool.submit(simulate, *arguments, streams=size, random=np.random.default_rng([seed, group, *arguments]))
        for group, size in enumerate(sizes)
    ]
    return np.concatenate([future.result() for future in futures])


def simulate(
    make: MakeDetector, n: int, change: int, inputs: int, *, streams: int, random: np.random.Generator
) -> Integers:
    """Number of the input at which each stream has its first alarm, or −1, int64 [S].

    Args:
        make: makes the detector.
        n: number of calibration inputs.
        change: number of inputs, in whole blocks, after which some are foreign.
        inputs: length of the streams.
        streams: S.
        random: all randomness.
    """

    def draw(start: int, size: int) -> Floats:
        scores = random.random((streams, size))
        if start >= change:
            scores[random.random((streams, size)) < FOREIGN_SHARE] = FOREIGN_SCORE
        return scores

    detector = make(random.random((streams, n)), random)
    return _watch(detector, streams, (draw(i * BLOCK, size) for i, size in enumerate(_split(inputs, BLOCK))))


def simulate_sharing(make: MakeDetector, n: int, bets: int, *, streams: int, random: np.random.Generator) -> Integers:
    """As `simulate`, of unchanged streams, if each seed changes the scores of all its inputs a little."""
    detector = make(_share_seed(random, (streams, n, 1))[..., 0], random)
    draws = (_share_seed(random, (streams, 1, bets))[:, 0] for _ in range(SHARED_INPUTS // SHARING))
    return _watch(detector, streams, draws)


def _watch(detector: Detector, streams: int, parts: Iterable[Floats]) -> Integers:
    found, start = np.full(streams, -1), 0
    for scores in parts:
        first = detector.watch(scores)
        found = np.where((found < 0) & (first >= 0), start + first, found)
        start += scores.shape[1]
        if (found >= 0).all():
            break
    return found


def _summarize(change: int, alarms: Integers) -> Delay:
    early = (alarms >= 0) & (alarms < change)
    waits = np.sort(np.where(alarms < 0, math.inf, alarms - change + 1.0)[~early])
    ranks = [math.ceil(share * len(waits)) - 1 for share in (0.1, 0.5, 0.9)]
    low, middle, high = (int(waits[rank]) if len(waits) and math.isfinite(waits[rank]) else None for rank in ranks)
    return Delay(change, float(early.mean()), (low, middle, high))


def _share_seed(random: np.random.Generator, shape: tuple[int, int, int]) -> Floats:
    """Scores of inputs that share a seed along the last axis."""
    scores: Floats = random.standard_normal(shape) + SEED_SPREAD * random.standard_normal((*shape[:2], 1))
    return scores


def _find_first(alarms: NDArray[np.bool_]) -> Integers:
    """Position of the first alarm of each stream, or −1, from bool [S, B]."""
    return np.where(alarms.any(1), alarms.argmax(1), -1) if alarms.shape[1] else np.full(len(alarms), -1)


def _split(count: int, size: int) -> list[int]:
    """Sizes of parts that make up a number."""
    return [min(size, count - start) for start in range(0, count, size)]


def describe_drift(study: DriftStudy) -> str:
    """The tables, in Markdown."""
    lengths = list(study.detectors[0].false_alarms)
    false_alarms = [
        f"| {own.detector} | {' | '.join(f'{own.false_alarms[length]:.1%}' for length in lengths)} |"
        for own in study.detectors
    ]
    delays = [
        f"| {own.detector} | {' | '.join(_describe_delay(delay) for delay in own.delays)} |" for own in study.detectors
    ]
    sharing = [f"| {bets} of {SHARING} | {share:.1%} |" for bets, share in study.sharing.items()]
    return "\n".join(
        [
            "# Drift: false alarms and delays",
            "",
            f"{study.streams:,} streams for each number, each with its own calibration of {study.n:,} inputs.",
            "",
            "Share of unchanged streams with an alarm within so many inputs:",
            "",
            f"| | {' | '.join(f'{length:,}' for length in lengths)} |",
            f"| --- |{' --- |' * len(lengths)}",
            *false_alarms,
            "",
            f"Inputs until the alarm if {FOREIGN_SHARE:.0%} of them become foreign, after so many that were not: median "
            f"(quantiles .1 to .9), and the share of streams with an alarm before. – is more than {PATIENCE:,}:",
            "",
            f"| | {' | '.join(f'after {change:,}' for change in CHANGES)} |",
            f"| --- |{' --- |' * len(CHANGES)}",
            *delays,
            "",
            f"Share of unchanged streams of {SHARED_INPUTS:,} inputs with an alarm of the martingale if always {SHARING} "
            "inputs share a seed that changes their scores a little, by how many of these are bet on:",
            "",
            "| bets of a seed | false alarms |",
            "| --- | --- |",
            *sharing,
            "",
        ]
    )


def _describe_delay(delay: Delay) -> str:
    low, middle, high = ("–" if wait is None else f"{wait:,}" for wait in delay.quantiles)
    return f"{middle} ({low} to {high}); {delay.early:.1%}"
