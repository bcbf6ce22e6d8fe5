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
