"""Noise of PyTorch's own generators, as a function of a number."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def fork_noise(number: int, device: torch.device) -> Iterator[None]:
    """Seeds the generators of the CPU and of a device, and restores them afterwards. Other devices' are left alone.

    Args:
        number: the seed, below 2^64.
        device: the device that computes.
    """
    on_gpu = device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if on_gpu else []):
        torch.default_generator.manual_seed(number)  # `torch.manual_seed` seeds every device's
        if on_gpu:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(number)
        yield
