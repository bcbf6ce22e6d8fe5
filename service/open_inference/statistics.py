"""Counts of what was asked of each model by the Open Inference Protocol."""

import time
from dataclasses import dataclass

from models.checkpoint import Checkpoint
from service.open_inference.messages import DurationStatistics, InferenceStatistics, ModelStatistics


@dataclass
class _Counts:
    inputs: int = 0
    successes: int = 0
    success_nanoseconds: int = 0
    failures: int = 0
    failure_nanoseconds: int = 0
    last_success: int = 0
    """Milliseconds since 1970."""


class Statistics:
    """Requests by model and version, since the service began."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str], _Counts] = {}

    def record(self, checkpoint: Checkpoint, inputs: int, nanoseconds: int) -> None:
        """Counts a request that so many inputs were answered of, 0 if it failed."""
        counts = self._counts.setdefault((checkpoint.name, checkpoint.version), _Counts())
        if not inputs:
            counts.failures += 1
            counts.failure_nanoseconds += nanoseconds
            return
        counts.inputs += inputs
        counts.successes += 1
        counts.success_nanoseconds += nanoseconds
        counts.last_success = time.time_ns() // 1_000_000

    def report(self, checkpoint: Checkpoint) -> ModelStatistics:
        """What was counted for a model."""
        counts = self._counts.get((checkpoint.name, checkpoint.version), _Counts())
        return ModelStatistics(
            name=checkpoint.name,
            version=checkpoint.version,
            last_inference=counts.last_success,
            inference_count=counts.inputs,
            inference_stats=InferenceStatistics(
                success=DurationStatistics(count=counts.successes, ns=counts.success_nanoseconds),
                fail=DurationStatistics(count=counts.failures, ns=counts.failure_nanoseconds),
            ),
        )
