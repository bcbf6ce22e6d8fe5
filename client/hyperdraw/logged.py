"""Logs of predictions, as `hyperdraw-serve --prediction-log FOLDER` writes them.

They are read line by line, and may be larger than memory. A damaged line is counted, and does not end the reading.
"""

import base64
import errno
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

SCHEMA_VERSION = 1

MOST_BYTES = 2**25
"""Longest line. Records of images at the size that a model takes are far shorter."""

_PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class LoggedFlag:
    """A flag of a logged answer."""

    flagged: bool
    score: float
    threshold: float


@dataclass(frozen=True)
class LoggedNumber:
    """A number that was predicted."""

    mean: float
    standard_deviation: float


@dataclass(frozen=True)
class LoggedPrediction:
    """An input that was answered. `request_id` and `index` tell it from others."""

    request_id: str
    index: int
    """Number of the input in its request, from 0."""
    time: datetime
    model: str
    version: str
    uncertainty: Mapping[str, float]
    """Quantities measured on the whole answer for the input, by name."""
    flags: Mapping[str, LoggedFlag]
    label: str | None
    """The predicted class, if there are classes."""
    class_index: int | None
    probabilities: tuple[float, ...]
    """Those of all classes, in the model's order."""
    numbers: Mapping[str, LoggedNumber]
    """What was predicted, if not a class."""
    image: bytes | None
    """A PNG file, if inputs were logged."""
    row: Mapping[str, Any] | None
    """Values by name, if inputs were logged."""

    def measure(self, quantity: str) -> float | None:
        """A quantity, or the score of a flag, by name. None if it was not measured."""
        if quantity in self.flags:
            return self.flags[quantity].score
        return self.uncertainty.get(quantity)


class Log:
    """The predictions in one or more files. Iterating reads them."""

    def __init__(self, path: str) -> None:
        """Finds the files.

        Args:
            path: a file, or a folder of files that end with .jsonl.

        Raises:
            OSError: if there is no such file, or the folder has none.
        """
        self.paths = _find_files(Path(path))
        self.lines = 0
        """Number of lines that were read so far."""
        self.damaged = 0
        """Number of those that are not records."""

    def __iter__(self) -> Iterator[LoggedPrediction]:
        for path in self.paths:
            with path.open("rb") as file:
                for line in _read_lines(file):
                    self.lines += 1
                    try:
                        yield _read_record(line)
                    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
                        self.damaged += 1


def _find_files(path: Path) -> list[Path]:
    if not path.is_dir():
        path.stat()  # raises if there is no such file
        return [path]
    if found := sorted(path.glob("*.jsonl")):
        return found
    raise FileNotFoundError(errno.ENOENT, "It has no logs of predictions, that is, no files such as *.jsonl", str(path))


def _read_lines(file: BinaryIO) -> Iterator[bytes]:
    """Lines that are not empty. Of one that is too long, only the beginning is returned."""
    while line := file.readline(MOST_BYTES):
        rest = line
        while not rest.endswith(b"\n") and (rest := file.readline(MOST_BYTES)):
            pass
        if line.strip():
            yield line


def _read_record(line: bytes) -> LoggedPrediction:
    """Reads a record. Raises one of various exceptions if it is not one."""
    content = json.loads(line)
    if content["schema_version"] != SCHEMA_VERSION:
        raise ValueError("of another version")
    told, given = content["prediction"], content.get("input") or {}
    image = base64.b64decode(given["image"], validate=True) if "image" in given else None
    if image is not None and not image.startswith(_PNG):
        raise ValueError("not an image")
    time = datetime.fromisoformat(content["time"])
    return LoggedPrediction(
        request_id=str(content["request_id"]),
        index=int(content["index"]),
        time=time if time.tzinfo else time.replace(tzinfo=UTC),
        model=str(content["model"]),
        version=str(content["version"]),
        uncertainty={str(name): _read_number(value) for name, value in content["uncertainty"].items()},
        flags={
            str(name): LoggedFlag(bool(flag["flagged"]), _read_number(flag["score"]), _read_number(flag["threshold"]))
            for name, flag in told["flags"].items()
        },
        label=str(told["label"]) if "label" in told else None,
        class_index=int(told["class_index"]) if "label" in told else None,
        probabilities=tuple(map(_read_number, told.get("probabilities", ()))),
        numbers={
            str(name): LoggedNumber(_read_number(number["mean"]), _read_number(number["standard_deviation"]))
            for name, number in told.get("outputs", {}).items()
        },
        image=image,
        row=dict(given["row"]) if "row" in given else None,
    )


def _read_number(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError("not a finite number")
    return number
