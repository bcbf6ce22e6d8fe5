"""Times of things that take turns, so that what slows the machine down slows all of them."""

import statistics
import time
from collections.abc import Callable, Mapping

import torch

ROUNDS = 7
SECONDS = 3.0
"""At most for a comparison, beyond three rounds."""


def measure_times(
    functions: Mapping[str, Callable[[], object]], device: torch.device, rounds: int = ROUNDS
) -> dict[str, float]:
    """Seconds that each function takes, the median of several rounds, after one that does not count."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    start = time.perf_counter()
    for turn in range(rounds + 1):
        for name, function in functions.items():
            before = time.perf_counter()
            function()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if turn:
                times[name].append(time.perf_counter() - before)
        if turn >= 3 and time.perf_counter() - start > SECONDS:
            break
    return {name: statistics.median(own) for name, own in times.items()}
