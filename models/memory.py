"""The memory of the process."""

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
"""Parameters of glibc's `mallopt`."""

LARGEST_KEPT = 2**25
"""Size of the largest block that is kept, in bytes; glibc allows no more."""


def keep_freed_memory() -> None:
    """Makes the process keep freed memory for its next allocations.

    Tensors of some megabytes are allocated and freed all the time here. By default the system provides and clears the
    pages of each, and takes them back; that can take longer than computing the tensor. All threads share one arena,
    because per-thread arenas consist of 64 MiB parts that are always given back when empty. Existing threads keep
    theirs. If the C library is not glibc, nothing changes.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT)
        mallopt(M_TRIM_THRESHOLD, 2**30)
        mallopt(M_ARENA_MAX, 1)
