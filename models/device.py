"""The device to compute on."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

SMALL_WORK = 2**26
"""Multiplications that one thread does as fast as several, which would wait for one another."""


class DeviceError(Exception):
    """A device that this machine lacks; the message names it."""


def choose_device(name: str) -> torch.device:
    """A device by name; `auto` is CUDA if available, otherwise the CPU.

    Raises:
        DeviceError: if this machine has no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise DeviceError(f"this machine has no device {name!r}: {error}") from error
    return device


@contextmanager
def limit_threads(multiplications: int) -> Iterator[None]:
    """Lets one thread of the CPU do all of a computation that is small.

    Several threads wait for one another after each operation. Where other processes compute, too, that takes a hundred
    times as long as the operation.
    """
    threads = torch.get_num_threads()
    if multiplications > SMALL_WORK or threads == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def works(device: torch.device) -> bool:
    """Whether a device computes. After some faults, every CUDA call fails until the process ends."""
    try:
        return float(torch.ones(1, device=device).sum()) == 1
    except RuntimeError:
        return False


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error says that memory ran out. The CPU's allocator has no error type of its own."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "DefaultCPUAllocator" in str(error)
