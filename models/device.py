"""The device to compute on."""

import torch


class DeviceError(Exception):
    """A device that this machine does not have; the message names it."""


def choose_device(name: str) -> torch.device:
    """A device by name, with `auto` for CUDA where there is one, else the CPU.

    Raises:
        DeviceError: if there is no such device here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise DeviceError(f"there is no device {name!r} here: {error}") from error
    return device


def works(device: torch.device) -> bool:
    """Whether a device computes. After some faults CUDA fails whatever it is asked, until the process ends."""
    try:
        return float(torch.ones(1, device=device).sum()) == 1
    except RuntimeError:
        return False


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error says that memory ran out; the CPU's allocator has no type of its own for it."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "DefaultCPUAllocator" in str(error)
