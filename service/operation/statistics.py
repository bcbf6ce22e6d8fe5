"""Counts of what was asked of each model by the Open Inference Protocol."""

import time
from dataclasses import dataclass

from models.model import Model


@dataclass
class Counts:
    """Requests that one version of a model had."""

    inputs: int = 0
    """Inputs that were answered."""
    successes: int = 0
    success_nanoseconds: int = 0
    failures: int = 0
    failure_nanoseconds: int = 0
    last_success: int = 0
    """Milliseconds since 1970."""


class Statistics:
    """Requests by model and version, since the service began."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str], Counts] = {}

    def record(self, model: Model, inputs: int, nanoseconds: int) -> None:
        """Counts a request by the inputs that were answered: 0 if it failed."""
        counts = self._counts.setdefault((model.name, model.version), Counts())
        if not inputs:
            counts.failures += 1
            counts.failure_nanoseconds += nanoseconds
            return
        counts.inputs += inputs
        counts.successes += 1
        counts.success_nanoseconds += nanoseconds
        counts.last_success = time.time_ns() // 1_000_000

    def find(self, model: Model) -> Counts:
        """What was counted for a model."""
        return self._counts.get((model.name, model.version), Counts())
