"""The learning rate over a training."""

import math


def find_rate_factor(step: int, planned: int, warmup: int, final: float) -> float:
    """Factor of a learning rate at a step: a linear rise, and then half a cosine down.

    Args:
        step: steps that are made.
        planned: steps of the whole training.
        warmup: steps of the rise.
        final: factor at the end.
    """
    cosine = final + (1 - final) * (1 + math.cos(math.pi * (step / planned))) / 2
    return cosine * min(1.0, (step + 1) / warmup)
