"""The loop of a training: steps, progress, logs, validations, and saves, until the end or an interrupt."""

import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Protocol

import torch
from torch import Tensor

from models.targets.target import Weights
from training.evaluation.diversity import measure_weight_spread
from training.progress import Bar, announce, warn
from training.runs.ranks import ALONE, Ranks

LOG_EVERY = 20
SAVE_EVERY_SECONDS = 120

VALIDATIONS = 20
"""Number of validations in a run."""

CONTENTION_SECONDS, CONTENTION_SHARE = 20.0, 0.75
"""A training that got less than this share of its threads' time warns after so many seconds."""


@dataclass(frozen=True)
class StepReport:
    """Results of one step: scalars, left on the device so that the caller decides when to read them."""

    losses: Mapping[str, Tensor]
    metrics: Mapping[str, Tensor]
    """Metrics of the sampled networks on the step's batch."""
    weights: Weights = field(default_factory=dict)
    """The sampled networks, if their spread is of interest."""


class Run(Protocol):
    """A training that goes step by step."""

    @property
    def device(self) -> torch.device: ...

    @property
    def steps(self) -> int:
        """Steps that are made."""

    @property
    def planned_steps(self) -> int: ...

    @property
    def finished(self) -> bool: ...

    def step(self) -> StepReport:
        """Makes one step."""

    def validate(self) -> dict[str, float]:
        """Metrics on the validation split; empty if it is too early for them."""

    def save(self, path: Path) -> None:
        """Writes everything that is needed to go on."""


def run_steps(run: Run, title: str, state: Path, logs: Path, ranks: Ranks = ALONE) -> bool:
    """Makes steps until the run is finished or interrupted; returns whether it was not interrupted.

    An interrupt of one process stops all after the same step.

    Args:
        run: the run.
        title: what to call it.
        state: file that the run is saved to, now and then and at the end.
        logs: folder of its logs for TensorBoard.
        ranks: the processes that make the steps together. Only the first shows progress, validates, logs and saves.
    """
    if not ranks.leads:
        return _follow(run, ranks)
    from torch.utils.tensorboard import SummaryWriter  # takes long to import

    validate_every = max(1, run.planned_steps // VALIDATIONS)
    saved = started = time.monotonic()
    warned, computed = torch.get_num_threads() == 1 or run.device.type != "cpu", time.process_time()
    with (
        SummaryWriter(logs, purge_step=run.steps) as log,
        Bar(title, "step", run.planned_steps, run.steps) as bar,
        catch_interrupt(ranks) as interrupted,
    ):
        while not run.finished and not interrupted():
            report = run.step()
            bar.update()
            if run.steps % LOG_EVERY == 0:
                metrics = _summarize(report)
                bar.note(", ".join(f"{name} {value:.3g}" for name, value in metrics.items()))
                for name, value in metrics.items():
                    log.add_scalar(f"train/{name}", value, run.steps)
            if run.steps % validate_every == 0 and (metrics := run.validate()):
                described = ", ".join(f"{name} {value:.4f}" for name, value in metrics.items())
                announce(f"{title}, step {run.steps}: validation {described}")
                for name, value in metrics.items():
                    log.add_scalar(f"validation/{name}", value, run.steps)
            if not warned and (passed := time.monotonic() - started) > CONTENTION_SECONDS:
                warned = True
                _warn_of_contention((time.process_time() - computed) / passed, torch.get_num_threads())
            if time.monotonic() - saved > SAVE_EVERY_SECONDS:
                run.save(state)
                saved = time.monotonic()
        complete = not interrupted()
    run.save(state)
    return complete


def _follow(run: Run, ranks: Ranks) -> bool:
    """Makes the steps of another process than the first."""
    with catch_interrupt(ranks) as interrupted:
        while not run.finished and not interrupted():
            run.step()
        return not interrupted()


def _warn_of_contention(cores: float, threads: int) -> None:
    """Warns if other programs slow the training down; threads then lose even more time waiting for one another."""
    if cores < CONTENTION_SHARE * threads:
        warn(
            f"other programs use the processor: {threads} threads get {cores:.1f} cores and wait for one another. "
            "One thread can be faster: interrupt the training, set OMP_NUM_THREADS=1, and continue with --resume."
        )


def _summarize(report: StepReport) -> dict[str, float]:
    metrics = {name: float(value) for name, value in {**report.losses, **report.metrics}.items()}
    if len(next(iter(report.weights.values()), ())) > 1:
        metrics["spread"] = measure_weight_spread(report.weights)
    return metrics


@contextmanager
def catch_interrupt(ranks: Ranks = ALONE) -> Iterator[Callable[[], bool]]:
    """Turns the first Ctrl-C or SIGTERM into a request to stop, of all processes. A second one acts as usual."""
    asked = False

    def ask(signum: int, frame: FrameType | None) -> None:
        nonlocal asked
        asked = True
        for number, handler in previous.items():
            signal.signal(number, handler)

    previous = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: ranks.unite(asked)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
