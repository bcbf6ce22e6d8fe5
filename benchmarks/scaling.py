"""`python -m benchmarks.scaling`: what an autoscaler makes of a burst, by the waiting work and by the processors' load.

A simulation, for want of a cluster. Requests arrive at random. Replicas share the work that waits, as least connections
would have it. The autoscaler is Kubernetes' HorizontalPodAutoscaler: it looks at a metric of the last scrape, at most
doubles the replicas in each of its periods, and takes one away each minute once that was enough for five minutes. New
replicas load their models before they are ready.
"""

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated

import numpy as np
import typer

from service.settings import Settings

STEP = 0.1
"""Seconds that the simulation moves on at a time."""

SCRAPE, PERIOD, REMOVAL, STABLE = 15.0, 15.0, 60.0, 300.0
"""Seconds between two scrapes, between two decisions, and between two removals, and for which less must be enough."""

TOLERANCE = 0.1
"""Relative difference from its target at which a metric changes nothing, as in Kubernetes."""

UTILIZATION = 0.7
"""Target of the processors' load, a usual one."""


class Signal(StrEnum):
    """What the autoscaler looks at."""

    NOTHING = "nothing"
    LOAD = "load of the processors"
    WAITING = "waiting work"


@dataclass(frozen=True)
class Scenario:
    """Replicas, and the burst that they meet. Costs are in inputs × networks."""

    rate: float = 150.0
    """Requests a second before and after the burst."""
    factor: float = 10.0
    """How many times as many there are during the burst."""
    before: float = 120.0
    burst: float = 600.0
    after: float = 1200.0
    """Seconds of each part."""
    cost: float = 100.0
    """Of a request."""
    pace: float = 31_700.0
    """Cost that a replica does in a second: 317 answers by 100 networks, as docs/performance.md has it."""
    startup: float = 30.0
    """Seconds until a new replica is ready."""
    least: int = 2
    most: int = 10
    """Numbers of replicas."""
    threshold: float = 20_000.0
    """Cost that may wait for each replica."""
    capacity: float = float(Settings.model_fields["max_queue"].default)
    """Cost that may wait at a replica before it refuses."""


@dataclass
class Outcome:
    """What happened to the requests."""

    waits: list[float] = field(default_factory=list)
    """Seconds that those of a step waited, once for each request."""
    arrived: int = 0
    refused: int = 0
    served: float = 0.0
    left: float = 0.0
    """Cost that was done, and that still waits in the end."""
    recovered: float = math.inf
    """Seconds from the beginning of the burst until waits stay below a second."""
    replica_minutes: float = 0.0
    largest: int = 0
    """Largest number of replicas."""


class Autoscaler:
    """Decides how many replicas there should be."""

    def __init__(self, measure: Callable[[int], float] | None, least: int, most: int) -> None:
        """Args:
        measure: gives the metric divided by its target, for a number of ready replicas; None to leave the number.
        least, most: bounds of the number.
        """
        self._measure = measure
        self._least, self._most = least, most
        self._ratio = 1.0
        self._wanted: deque[tuple[float, int]] = deque()
        """When it was decided how many are enough, for as long as decisions count."""
        self._scraped = self._decided = self._removed = -math.inf

    def decide(self, now: float, ready: int, replicas: int) -> int:
        """The number of replicas, those that start included."""
        if self._measure is None:
            return replicas
        if now - self._scraped >= SCRAPE:
            self._scraped, self._ratio = now, self._measure(ready)
        if now - self._decided < PERIOD:
            return replicas
        self._decided = now
        enough = ready if abs(self._ratio - 1) <= TOLERANCE else math.ceil(ready * self._ratio)
        enough = min(max(enough, self._least), self._most)
        self._wanted.append((now, enough))
        while self._wanted[0][0] < now - STABLE:
            self._wanted.popleft()
        if enough > replicas:
            return min(enough, 2 * replicas)
        if max(each for _, each in self._wanted) < replicas and now - self._removed >= REMOVAL:
            self._removed = now
            return replicas - 1
        return replicas


def simulate(scenario: Scenario, signal: Signal, seed: int = 0) -> Outcome:
    """Lets requests arrive, wait, be refused and be served."""
    random, outcome = np.random.default_rng(seed), Outcome()
    ready, starting, waiting, load = scenario.least, deque[float](), 0.0, 0.0
    measures: dict[Signal, Callable[[int], float] | None] = {
        Signal.NOTHING: None,
        Signal.LOAD: lambda _: load / UTILIZATION,
        Signal.WAITING: lambda ready: waiting / ready / scenario.threshold,
    }
    autoscaler = Autoscaler(measures[signal], scenario.least, scenario.most)
    end, busy = scenario.before + scenario.burst + scenario.after, deque[float](maxlen=round(SCRAPE / STEP))
    for step in range(round(end / STEP)):
        now = step * STEP
        while starting and starting[0] <= now:
            starting.popleft()
            ready += 1
        bursting = scenario.before <= now < scenario.before + scenario.burst
        count = int(random.poisson(scenario.rate * STEP * (scenario.factor if bursting else 1)))
        room = int((ready * scenario.capacity - waiting) // scenario.cost)
        admitted = min(count, max(room, 0))
        outcome.arrived += count
        outcome.refused += count - admitted
        waiting += admitted * scenario.cost
        pace = ready * scenario.pace
        outcome.waits += [waiting / pace] * admitted
        if now >= scenario.before and waiting / pace >= 1:
            outcome.recovered = math.inf
        elif bursting and math.isinf(outcome.recovered):
            outcome.recovered = now - scenario.before
        done = min(waiting, pace * STEP)
        waiting -= done
        outcome.served += done
        busy.append(done / (pace * STEP))
        load = sum(busy) / len(busy)
        wanted = autoscaler.decide(now, ready, ready + len(starting))
        while wanted > ready + len(starting):
            starting.append(now + scenario.startup)
        while wanted < ready + len(starting):
            if starting:
                starting.pop()
            else:
                ready -= 1
        outcome.largest = max(outcome.largest, ready)
        outcome.replica_minutes += (ready + len(starting)) * STEP / 60
    outcome.left = waiting
    return outcome


def main(
    rate: Annotated[float, typer.Option(help="Requests a second, before and after the burst.")] = Scenario.rate,
    factor: Annotated[float, typer.Option(help="How many times as many there are in the burst.")] = Scenario.factor,
    pace: Annotated[float, typer.Option(help="Inputs × networks of a replica, a second.")] = Scenario.pace,
    startup: Annotated[float, typer.Option(help="Seconds until a new replica is ready.")] = Scenario.startup,
    seed: Annotated[int, typer.Option(help="Seed of the arrivals.")] = 0,
) -> None:
    """Simulate a burst of requests, with replicas that are added by one signal or another."""
    scenario = Scenario(rate=rate, factor=factor, pace=pace, startup=startup)
    columns = "replicas by", "refused", "median wait", "p99", "waits below a second after", "most replicas"
    typer.echo(f"| {' | '.join(columns)} | replica-minutes |")
    typer.echo("| --- | --- | --- | --- | --- | --- | --- |")
    for signal in Signal:
        found = simulate(scenario, signal, seed)
        median, late = np.quantile(found.waits, (0.5, 0.99))
        recovered = f"{found.recovered:.0f} s" if math.isfinite(found.recovered) else "never in the burst"
        typer.echo(
            f"| {signal} | {found.refused / found.arrived:.1%} | {median:.2f} s | {late:.1f} s | {recovered} "
            f"| {found.largest} | {found.replica_minutes:.0f} |"
        )


if __name__ == "__main__":
    typer.run(main)
