"""Denormal numbers: too small for full precision, and several times slower on processors."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def flush_denormals() -> Iterator[None]:
    """Treats denormal numbers as zero, in this thread and in threads that it starts. It must not be nested.

    Once a model fits its images, gradients become denormal, and so do the probabilities of wrong classes. Training,
    calibration, evaluation and attacks all run under this, so that they compute alike.
    """
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)
