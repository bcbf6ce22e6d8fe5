"""The memory of the process."""

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
"""Of glibc's `mallopt`."""

LARGEST_KEPT = 2**25
"""Bytes of the largest block that is kept; glibc allows no more."""


def keep_freed_memory() -> None:
    """Makes the process keep memory that it has freed, for what it allocates next.

    Tensors of some megabytes are made and freed all the time here. By default each of them is fetched from the system,
    which clears its pages, and given back; that can take longer than to compute what is written into it. All threads
    allocate from one arena, for those of single threads consist of parts of 64 MiB, which are always given back when
    they are empty. Threads that exist already keep theirs. Where the C library is not glibc, nothing changes.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT)
        mallopt(M_TRIM_THRESHOLD, 2**30)
        mallopt(M_ARENA_MAX, 1)
