"""A folder of JSON lines as the sink of a log: a new file each day and before one gets large, the oldest removed."""

import errno
import os
import secrets
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, date, datetime
from io import FileIO
from pathlib import Path
from typing import ClassVar

from service.recording.record import Record

FILES = 16
"""Number of full files in a full folder."""

PREFIX, SUFFIX = "predictions-", ".jsonl"


class FolderSink:
    """Appends records to files that only their owner can read.

    Names of files begin with the time of their first record, so their order is that of time. Several processes may
    share a folder: each writes files of its own, and the bound is that of all.
    """

    writers: ClassVar[int] = 1

    def __init__(self, folder: Path, most_bytes: int) -> None:
        """Makes the folder if it does not exist.

        Args:
            folder: the folder.
            most_bytes: most bytes of all files together. A file has at most a `FILES`-th of them, unless a single
                request's records are larger.

        Raises:
            OSError: if there can be no files in the folder.
        """
        self._folder = folder
        self._most_bytes = most_bytes
        self._file: FileIO | None = None
        self._path = folder
        self._size = 0
        self._day: date | None = None
        self._make_folder()
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))

    def write(self, records: Sequence[Record]) -> None:
        """Appends records, all of them or none.

        Raises:
            OSError: if they cannot be written.
        """
        content = "".join(f"{record.write()}\n" for record in records).encode()
        file = self._choose_file(len(content))
        if file.write(content) != len(content):  # on a full disk, which takes a part
            file.truncate(self._size)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._path))
        self._size += len(content)

    def close(self) -> None:
        """Closes the current file."""
        if self._file:
            self._file.close()
        self._file = None

    def _choose_file(self, size: int) -> FileIO:
        """The current file, or a new one if it is of another day, would get too large, or was removed."""
        now = datetime.now(UTC)
        full = self._size > 0 and self._size + size > self._most_bytes // FILES
        if self._file and not full and self._day == now.date() and os.fstat(self._file.fileno()).st_nlink:
            return self._file
        self.close()
        self._make_folder()
        self._make_room(max(size, self._most_bytes // FILES))
        name = f"{PREFIX}{now:%Y-%m-%dT%H-%M-%S.%fZ}-{secrets.token_hex(4)}{SUFFIX}"
        self._path, self._size, self._day = self._folder / name, 0, now.date()
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL
        self._file = FileIO(os.open(self._path, flags, mode=0o600), "wb")
        return self._file

    def _make_folder(self) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def _make_room(self, size: int) -> None:
        """Removes the oldest files until a file of some size fits."""
        paths = sorted(self._folder.glob(f"{PREFIX}*{SUFFIX}"))
        sizes: dict[Path, int] = {}
        for path in paths:
            with suppress(FileNotFoundError):  # another process has removed it
                sizes[path] = path.lstat().st_size
        excess = sum(sizes.values()) + size - self._most_bytes
        for path, freed in sizes.items():
            if excess <= 0:
                break
            path.unlink(missing_ok=True)
            excess -= freed
