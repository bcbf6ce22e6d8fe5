"""Statistics of the requests by the Open Inference Protocol, for each model."""

import time
from dataclasses import dataclass

from models.model import Model


@dataclass
class Counts:
    """Counts of the requests to one version of a model."""

    inputs: int = 0
    """Number of inputs answered."""
    successes: int = 0
    success_nanoseconds: int = 0
    failures: int = 0
    failure_nanoseconds: int = 0
    last_success: int = 0
    """Time of the last success, in milliseconds since 1970."""


class Statistics:
    """Counts by model and version, since the service started."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str], Counts] = {}

    def record(self, model: Model, inputs: int, nanoseconds: int) -> None:
        """Counts a request, with its number of answered inputs: 0 if it failed."""
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
        """Counts of a model."""
        return self._counts.get((model.name, model.version), Counts())
