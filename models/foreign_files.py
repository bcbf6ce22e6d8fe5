"""Files that others wrote. They are read whole and within bounds, so that none can block or fill the process."""

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
"""Errors that the files themselves cause. Others, such as EMFILE and EIO, may be temporary."""


def read_file(path: Path, most_bytes: int, forbidden_mode: int = 0, *, follow_links: bool = True) -> bytes:
    """The content of a regular file.

    Args:
        path: path of the file.
        most_bytes: largest size of the file.
        forbidden_mode: permission bits that the file must not have.
        follow_links: whether the path may be a link to a file. Its folders may always be.

    Raises:
        OSError: if the file cannot be read, is a directory, device, pipe, socket or forbidden link, is too large, has
            forbidden permissions, or changes during the read.
    """
    status = path.stat() if follow_links else path.lstat()
    _check(path, status, most_bytes, forbidden_mode)  # first, as opening a device may have effects
    with open(path, "rb", opener=_open_at_once if follow_links else _open_no_link) as file:
        status = os.fstat(file.fileno())  # the opened file may be another one
        _check(path, status, most_bytes, forbidden_mode)
        content = file.read(status.st_size + 1)
    if content is None or len(content) != status.st_size:
        raise OSError(errno.EAGAIN, "changed while it was read", str(path))
    return content


SETTLED_SECONDS = 2.0
"""Seconds after which another change of a file is sure to show in its coarse time stamps."""

Stamp = tuple[int, ...]


def take_stamp(path: Path) -> Stamp:
    """A stamp that changes when a file is created, removed, replaced, written, or gets other permissions."""
    try:
        status = path.stat()
    except OSError as error:
        return (error.errno or 0,)
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def is_settled(stamp: Stamp) -> bool:
    """Whether the last change is long enough ago: soon after one, another change may leave the stamp the same."""
    return max(stamp[3:], default=0) < (time.time() - SETTLED_SECONDS) * 1e9


def may_pass(error: BaseException | None) -> bool:
    """Whether reading the same files may succeed later."""
    return isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno not in LASTING)


def _open_at_once(path: str, flags: int) -> int:
    """Opens a file without waiting for a pipe's writer. Windows has neither flag."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0))


def _open_no_link(path: str, flags: int) -> int:
    """Opens a file like `_open_at_once`, but no link, even one that has just replaced the file."""
    return _open_at_once(path, flags | getattr(os, "O_NOFOLLOW", 0))


def _check(path: Path, status: os.stat_result, most_bytes: int, forbidden_mode: int) -> None:
    if stat.S_ISLNK(status.st_mode):
        raise OSError(errno.EINVAL, "a link, not a file of its own", str(path))
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    if status.st_size > most_bytes:
        raise OSError(errno.EFBIG, f"larger than {most_bytes} bytes", str(path))
    if status.st_mode & forbidden_mode:
        permissions = stat.filemode(status.st_mode)
        raise OSError(errno.EPERM, f"its permissions are {permissions}, so others can change it", str(path))
