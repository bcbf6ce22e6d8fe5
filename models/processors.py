"""The processors that this process may use, and its threads."""

import math
import os
from collections.abc import Iterator
from pathlib import Path

import torch

GROUPS, OWN_GROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
"""Where Linux shows the control groups, and which of them this process belongs to."""


def choose_threads(wanted: int | None = None) -> None:
    """Sets how many threads compute together: as many as wanted or, without that, as PyTorch would use, but no more
    than there are processors for them.

    PyTorch knows on which processors a process may run, but not how much of their time it may use. With more threads
    than that, a container is stopped in the middle of each period, while its threads wait for one another.
    """
    torch.set_num_threads(wanted or min(torch.get_num_threads(), count_processors()))


def count_processors(groups: Path = GROUPS, own: Path = OWN_GROUPS) -> int:
    """Number of processors on which this process may run all the time, at least 1.

    Args:
        groups: directory of the control groups.
        own: file that names those of this process.
    """
    known = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    return max(1, math.floor(min([len(known), *_list_quotas(groups, own)])))


def _list_quotas(groups: Path, own: Path) -> Iterator[float]:
    """Limits on the processor time of the control groups, as numbers of processors."""
    lines = own.read_text().splitlines() if own.exists() else []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        names = Path(path).parts[1:]
        for depth in range(len(names) + 1):  # a container may see its own group at the top of the directory
            quota = _read_quota(groups.joinpath(controllers, *names[:depth]))
            if quota is not None:
                yield quota


def _read_quota(group: Path) -> float | None:
    """The limit of a control group, of either version; None if there is none."""
    first, second = group / "cpu.max", group / "cpu.cfs_quota_us"
    if first.exists():
        quota, period = first.read_text().split()
    elif second.exists():
        quota, period = second.read_text(), (group / "cpu.cfs_period_us").read_text()
    else:
        return None
    return None if quota == "max" or int(quota) < 0 else int(quota) / int(period)
