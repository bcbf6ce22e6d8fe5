"""Numbers too small for full precision, on which processors are several times slower."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def flush_denormals() -> Iterator[None]:
    """Treats denormal numbers as zero, here and in threads that are started from here; not to be nested.

    Once a model fits its images, gradients become denormal, and so do the probabilities that it gives other classes.
    Whatever trains, calibrates, evaluates or attacks does so under this, so that all of them compute alike.
    """
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)
