"""The most memory that a request takes, each in a process of its own."""

import multiprocessing
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch

from benchmarks.report import Ratio
from models.checkpoint import load_checkpoint
from models.predictions.prediction import evaluate, evaluate_members
from models.samplers.static_hypernetwork import StaticHypernetworkConfig
from models.targets.target import TargetNetwork
from training.recipes.targets import make_wide_resnet


def measure_memory(directory: Path) -> Iterator[Ratio]:
    """The peak of 1,000 networks over that of 100, for one input on the CPU."""
    few, many = _run_apart(_measure_peak, [(directory, 100), (directory, 1000)])
    case, of = "1,000 networks × 1 input", "of that with 100 networks"
    yield Ratio("peak memory of the process", case, many / few, of, smaller_is_better=True)


def measure_large_memory() -> Iterator[Ratio]:
    """What answers of 100 Wide ResNets add to the peak of two of them, over the size of all their weights."""
    target = make_wide_resnet(16, 4)
    few, many = _run_apart(_measure_large_peak, [(target, 2), (target, 100)])
    case, of = f"100 networks of {target.num_weights:,} weights × 16 inputs", "of the size of their weights"
    yield Ratio(
        "growth of the peak memory", case, (many - few) / (4 * 100 * target.num_weights), of, smaller_is_better=True
    )


def _run_apart(measure: Callable[..., int], cases: Sequence[tuple[object, ...]]) -> list[int]:
    """Each case in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        return pool.starmap(measure, cases, chunksize=1)


def _measure_peak(directory: Path, networks: int) -> int:
    config, sampler = (checkpoint := load_checkpoint(directory)).config, checkpoint.sampler
    inputs = torch.zeros(1, *config.input.shape, dtype=config.input.dtype)
    evaluate(sampler, config.input, config.task, inputs, 0, networks)
    return _read_peak()


def _measure_large_peak(target: TargetNetwork, networks: int) -> int:
    sampler = StaticHypernetworkConfig(modes=4, latent_size=8).build(target).eval()
    evaluate_members(sampler, torch.zeros(16, *target.input_shape), 0, networks)
    return _read_peak()


def _read_peak() -> int:
    """Bytes, of this process."""
    status = Path("/proc/self/status").read_text()  # of this process alone, which getrusage's is not
    return 1024 * int(re.findall(r"VmHWM:\s*(\d+)", status)[0])
