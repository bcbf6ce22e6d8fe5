"""Files that others wrote: read whole and within bounds, so that none of them can hold up or fill the process."""

import errno
import os
import stat
import time
from pathlib import Path

LASTING = frozenset(
    {
        errno.EACCES,
        errno.EFBIG,
        errno.EINVAL,
        errno.EISDIR,
        errno.ELOOP,
        errno.ENAMETOOLONG,
        errno.ENODEV,
        errno.ENOENT,
        errno.ENOTDIR,
        errno.ENXIO,
        errno.EPERM,
    }
)
"""Errors that lie in the files. Others may pass, as EMFILE and EIO do."""


def read_file(path: Path, most_bytes: int, forbidden_mode: int = 0) -> bytes:
    """The content of a regular file, or of one that links lead to.

    Args:
        path: of the file.
        most_bytes: that it may have.
        forbidden_mode: permissions that nobody must have.

    Raises:
        OSError: if it cannot be read, is a directory, device, pipe or socket, is too large, has such permissions, or
            changes meanwhile.
    """
    _check(path, path.stat(), most_bytes, forbidden_mode)  # as to open a device may do something
    with open(path, "rb", opener=_open_at_once) as file:
        status = os.fstat(file.fileno())  # what was opened may be another file
        _check(path, status, most_bytes, forbidden_mode)
        content = file.read(status.st_size + 1)
    if content is None or len(content) != status.st_size:
        raise OSError(errno.EAGAIN, "changed while it was read", str(path))
    return content


SETTLED_SECONDS = 2.0
"""After which a further change of a file is sure to show in its time stamps, which are coarse."""

Stamp = tuple[int, ...]


def take_stamp(path: Path) -> Stamp:
    """Differs when a file was replaced, written, or got other permissions, and when it is there and when it is not."""
    try:
        status = path.stat()
    except OSError as error:
        return (error.errno or 0,)
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def is_settled(stamp: Stamp) -> bool:
    """Whether the file has not changed a moment ago, as it may then change again and have the same stamp."""
    return max(stamp[3:], default=0) < (time.time() - SETTLED_SECONDS) * 1e9


def may_pass(error: BaseException | None) -> bool:
    """Whether the same files may be read another time."""
    return isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno not in LASTING)


def _open_at_once(path: str, flags: int) -> int:
    """Without waiting for whoever writes into a pipe. Windows has neither."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0))


def _check(path: Path, status: os.stat_result, most_bytes: int, forbidden_mode: int) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    if status.st_size > most_bytes:
        raise OSError(errno.EFBIG, f"larger than {most_bytes} bytes", str(path))
    if status.st_mode & forbidden_mode:
        permissions = stat.filemode(status.st_mode)
        raise OSError(errno.EPERM, f"its permissions are {permissions}, so that others can change it", str(path))
