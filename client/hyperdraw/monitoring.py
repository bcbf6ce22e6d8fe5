"""What the service knows of the stream of a model's inputs, and the calls that ask for it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from hyperdraw.answers import ModelIdentity, explain_answers, read_fields
from hyperdraw.asking import ask, ask_model, find_path, set_limit
from hyperdraw.attempts import Attempts
from hyperdraw.transfer import Connection, RequestSpec


@dataclass(frozen=True)
class DriftAlarm:
    """When it was certain that inputs have changed."""

    time: datetime
    inputs: int
    """Number of inputs until then, from the start of the watch."""


@dataclass(frozen=True)
class FlagShare:
    """A share of inputs that were flagged, at the model's default budget of false alarms."""

    flagged: int
    share: float
    lower: float
    """Lower end of the 95 % interval."""
    upper: float
    counts: tuple[int, ...]
    """Inputs whose scores are above the thresholds of all rates, between each two, and above none."""


@dataclass(frozen=True)
class FlagMonitor(FlagShare):
    """What the scores of a flag say about drift."""

    log10_martingale: float
    """Decimal logarithm of the martingale. On average, the martingale is at most 1 while nothing changes."""
    alarm: DriftAlarm | None
    """The alarm, which stays until the watch begins anew."""
    bets: int
    """Number of inputs that were bet on."""
    false_alarm_rate: float
    """Share of inputs like those of the calibration that may be flagged."""


@dataclass(frozen=True)
class StreamPart:
    """Successive inputs."""

    inputs: int
    end: datetime
    shares: Mapping[str, FlagShare]
    """Shares of flagged inputs, by flag."""
    highest_log10: Mapping[str, float]
    """Decimal logarithms of the martingales' highest values, by flag."""


@dataclass(frozen=True)
class PredictedClass:
    """How often a class was predicted."""

    label: str
    inputs: int
    test_share: float | None
    """Its share of the labels of the test inputs, if that is known."""


@dataclass(frozen=True)
class Monitor:
    """What is known of the stream of a model's inputs since the watch over it began."""

    model: ModelIdentity
    since: datetime
    inputs: int
    level: float
    """Probability of ever raising an alarm while nothing changes, for each flag."""
    rates: tuple[float, ...]
    """Calibrated rates of false alarms, whose thresholds divide the counts of scores."""
    flags: Mapping[str, FlagMonitor]
    """Flags by name; empty if the model is not calibrated."""
    classes: tuple[PredictedClass, ...] | None
    """None if the model predicts numbers."""
    history: tuple[StreamPart, ...]
    """The whole stream in parts, the first part first."""

    @property
    def changed(self) -> tuple[str, ...]:
        """Flags whose scores say that the inputs have changed."""
        return tuple(flag for flag, known in self.flags.items() if known.alarm)


def monitor(
    client: Connection, model: str | None = None, *, version: str | None = None, timeout: float | None = None
) -> Attempts[Monitor]:
    """Tells whether the inputs of a model, or of the default model, have changed: those that its stable version has
    answered, unless another one is named.

    Raises:
        NotFound: if the service has no model of that name, or no such version of it.
        InvalidRequest: if it is a model of sequences.
    """
    limit, asked = set_limit(client, timeout), {"version": version}
    _, content = yield from ask_model(
        client, model, limit, lambda name: ask(client, RequestSpec("GET", f"{find_path(name)}/monitor", asked), limit)
    )
    return read_monitor(content)


def reset_monitor(client: Connection, model: str, *, timeout: float | None = None) -> Attempts[Monitor]:
    """Begins the watch over a model's inputs anew.

    Raises:
        Unauthorized: if the API key does not allow it.
        NotFound: if the service has no model of that name.
        InvalidRequest: if it is a model of sequences.
    """
    request = RequestSpec("POST", f"{find_path(model)}/monitor:reset")
    return read_monitor((yield from ask(client, request, set_limit(client, timeout))))


def read_monitor(content: bytes) -> Monitor:
    """Reads what is known of a stream from the service's JSON."""
    with explain_answers():
        answer = json.loads(content)
        classes = answer["classes"]
        known = {
            "model": read_fields(ModelIdentity, answer["model"]),
            "since": _read_time(answer["since"]),
            "rates": tuple(answer["rates"]),
            "flags": {flag: _read_flag(own) for flag, own in answer["flags"].items()},
            "classes": None if classes is None else tuple(read_fields(PredictedClass, own) for own in classes),
            "history": tuple(map(_read_part, answer["history"])),
        }
        return read_fields(Monitor, answer | known)


def _read_flag(content: Mapping[str, Any]) -> FlagMonitor:
    alarm = content["alarm"] and DriftAlarm(_read_time(content["alarm"]["time"]), content["alarm"]["inputs"])
    return read_fields(FlagMonitor, {**content, "alarm": alarm, "counts": tuple(content["counts"])})


def _read_part(content: Mapping[str, Any]) -> StreamPart:
    flags = content["flags"]
    shares = {flag: read_fields(FlagShare, {**own, "counts": tuple(own["counts"])}) for flag, own in flags.items()}
    highest = {flag: own["highest_log10"] for flag, own in flags.items()}
    return StreamPart(content["inputs"], _read_time(content["end"]), shares, highest)


def _read_time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds).astimezone()
