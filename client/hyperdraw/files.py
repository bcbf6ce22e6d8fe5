"""Files that are written whole or not at all.

`client/hyperdraw/files.py` and `models/files.py` are the same, as neither package may import the other. A test compares
them.
"""

import errno
import os
import secrets
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

if sys.platform != "win32":
    import fcntl

_MOST_LINKS = 40
"""Most links that a path may lead through, as on Linux."""


@contextmanager
def replace_file(path: Path) -> Iterator[BinaryIO]:
    """Opens a file that replaces the one at `path` when the block ends. If the block fails, nothing changes.

    Otherwise it works like `open(path, "wb")`: a link stays a link, and its target is replaced. An existing file keeps
    its permissions; a new one has those that the umask leaves. Devices and pipes are written into, and so are the open
    files of the process, such as /dev/stdout. Leftovers of killed processes are removed.

    Raises:
        OSError: if the file cannot be written, or is a directory or a socket. The error names `path`.
    """
    try:
        if (descriptor := _open_stream(path)) is not None:
            with os.fdopen(descriptor, "wb") as file:
                yield file
        else:
            with _replace_regular_file(Path(os.path.realpath(path))) as file:
                yield file
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error  # rather than the name of the part, or none


def _open_stream(path: Path) -> int | None:
    """Opens what is written into rather than replaced. None for a regular file, or one that does not exist yet."""
    if (own := _find_own_descriptor(path)) is not None:
        return os.dup(own)
    try:
        descriptor = os.open(path, os.O_WRONLY)  # raises, too, if the file is write-protected
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno == errno.ENXIO:
            raise OSError(errno.ENXIO, "It is a socket, or a device that does not exist") from error
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    return None


def _find_own_descriptor(path: Path) -> int | None:
    """The open file behind a path such as /dev/stdout, on Linux. Elsewhere such paths can be opened."""
    for _ in range(_MOST_LINKS):
        if not path.is_symlink():
            return None
        if str(path.parent.resolve()) == f"/proc/{os.getpid()}/fd":
            return int(path.name)
        path = path.parent / path.readlink()
    return None


@contextmanager
def _replace_regular_file(path: Path) -> Iterator[BinaryIO]:
    prefix = f".{path.name[:50]}."  # names have at most 255 bytes
    _remove_abandoned(path.parent, prefix)
    part, file = _create_part(path.parent, prefix)
    try:
        with file:
            with suppress(FileNotFoundError):
                part.chmod(stat.S_IMODE(path.stat().st_mode))
            yield file
            file.flush()
            os.fsync(file.fileno())
            if sys.platform == "win32":  # which renames no open file
                file.close()
            part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _create_part(folder: Path, prefix: str) -> tuple[Path, BinaryIO]:
    """Creates a file that is locked while it is open."""
    while True:
        part = folder / f"{prefix}{secrets.token_hex(4)}.part"
        file = part.open("xb")
        if sys.platform == "win32":  # where open files cannot be removed anyway
            return part, file
        with suppress(OSError):  # not every file system has locks
            fcntl.flock(file, fcntl.LOCK_EX)
        if os.fstat(file.fileno()).st_nlink:  # otherwise another process removed it before it was locked
            return part, file
        file.close()


def _remove_abandoned(folder: Path, prefix: str) -> None:
    """Removes parts that no process writes any longer, as far as permissions allow."""
    with suppress(OSError):
        parts = [entry for entry in folder.iterdir() if entry.name.startswith(prefix) and entry.suffix == ".part"]
        for part in parts:
            with suppress(OSError), part.open("rb") as file:
                if sys.platform != "win32":
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                part.unlink()
