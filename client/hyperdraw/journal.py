"""The answers of a run that is not finished, in a file beside the one that it writes."""

import errno
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self


class Journal:
    """Rows as lines of JSON, in the order in which they arrive; the first line says what all have in common.

    A line is written whole. If a process is killed while it writes, the next one removes the rest of its last line.
    """

    def __init__(self, out: Path, run: Mapping[str, Any], seed: int) -> None:
        """Opens the journal of a file, or begins one.

        Args:
            out: the file that the run writes.
            run: what all its answers have in common.
            seed: seed of a new journal.

        Raises:
            FileExistsError: if the journal is that of another run.
            OSError: if it cannot be read or written.
        """
        self.path = out.with_name(f"{out.name}.part")
        self.answered: set[str] = set()
        """Names of the inputs that have an answer."""
        self.example: dict[str, Any] = {}
        """A row with all columns, once there is a row."""
        self._places: dict[str, int] = {}
        """Where the last row of an input begins."""
        self._file = self.path.open("a+b", buffering=0)
        try:
            self.seed = self._read(run, seed)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Closes the file, and removes it if it has no answers."""
        self._file.close()
        if not self.answered:
            self.remove()

    def add(self, row: Mapping[str, Any]) -> None:
        """Keeps a row."""
        self._note(row, self._file.seek(0, 2))
        self._write(row)

    def read(self, names: Iterable[str]) -> Iterator[dict[str, Any]]:
        """The rows of some inputs."""
        with self.path.open("rb") as file:
            for name in names:
                file.seek(self._places[name])
                yield json.loads(file.readline())

    def remove(self) -> None:
        """Removes the file."""
        self.path.unlink(missing_ok=True)

    def _read(self, run: Mapping[str, Any], seed: int) -> int:
        """Reads all lines, or writes the first one. Returns the seed."""
        self._file.seek(0)
        first = self._file.readline()
        if not first:
            self._write({**run, "seed": seed})
            return seed
        try:
            known = json.loads(first)
            differing = [name for name, value in run.items() if known[name] != value]
            if not differing:
                self._read_rows(len(first))
                return int(known["seed"])
        except (ValueError, LookupError, TypeError) as error:
            message = "It is not the beginning of such a run. Remove it, or choose another name for the file"
            raise FileExistsError(errno.EEXIST, message, str(self.path)) from error
        message = f"It has the answers of a run with another {differing[0]}. Remove it to begin anew"
        raise FileExistsError(errno.EEXIST, message, str(self.path))

    def _read_rows(self, place: int) -> None:
        """Reads all lines but the first, and removes an incomplete one at the end."""
        with self.path.open("rb") as lines:
            lines.seek(place)
            for line in lines:
                if not line.endswith(b"\n"):
                    self._file.truncate(place)
                    return
                self._note(json.loads(line), place)
                place += len(line)

    def _write(self, content: Mapping[str, Any]) -> None:
        line = json.dumps(content).encode() + b"\n"
        if self._file.write(line) != len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))

    def _note(self, row: Mapping[str, Any], place: int) -> None:
        self._places[row["input"]] = place
        if row["error"] is None:
            self.answered.add(row["input"])
        if row["error"] is None or not self.answered:
            self.example = dict(row)
