"""The most memory that a request takes, each in a process of its own."""

import multiprocessing
import re
from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks.report import Ratio
from models.checkpoint import load_checkpoint
from models.prediction import evaluate


def measure_memory(directory: Path) -> Iterator[Ratio]:
    """The peak of 1,000 networks over that of 100, for one input on the CPU."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1, maxtasksperchild=1) as pool:
        few, many = pool.starmap(_measure_peak, [(directory, 100), (directory, 1000)], chunksize=1)
    case, of = "1,000 networks × 1 input", "of that with 100 networks"
    yield Ratio("peak memory of the process", case, many / few, of, smaller_is_better=True)


def _measure_peak(directory: Path, networks: int) -> int:
    config, sampler = (checkpoint := load_checkpoint(directory)).config, checkpoint.sampler
    inputs = torch.zeros(1, *config.input.shape, dtype=config.input.dtype)
    evaluate(sampler, config.input, config.task, inputs, 0, networks)
    status = Path("/proc/self/status").read_text()  # of this process alone, which getrusage's is not
    return int(re.findall(r"VmHWM:\s*(\d+)", status)[0])
