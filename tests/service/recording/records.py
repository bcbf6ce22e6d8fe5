"""Records that need no model, and sinks that do what a test wants, when it wants it."""

import threading
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, ClassVar

from service.recording.record import Record


def make_record(index: int = 0, **fields: Any) -> Record:
    usual: dict[str, Any] = {
        "time": datetime(2026, 11, 30, 12, tzinfo=UTC),
        "request_id": "r",
        "key": None,
        "model": "digits",
        "version": "0" * 64,
        "method": "hypergan",
        "seed": 7,
        "ensemble_size": 20,
        "precision": "float32",
        "temperature": 1.5,
        "uncertainty": {"mutual_information": 0.25},
        "prediction": {"label": "7"},
    }
    return Record(**{**usual, **fields}, index=index)


class HeldSink:
    """Writes once it is let go; keeps what it has written."""

    writers: ClassVar[int] = 1

    def __init__(self) -> None:
        self.busy, self.release = threading.Event(), threading.Event()
        self.written: list[Record] = []
        self.failure: Exception | None = None
        self.closed = False

    def write(self, records: Sequence[Record]) -> None:
        self.busy.set()
        assert self.release.wait(60)
        if self.failure:
            raise self.failure
        self.written += records

    def close(self) -> None:
        self.closed = True
