"""What a benchmark found, as one table."""

import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Ratio:
    """One figure."""

    part: str
    """What was measured."""
    case: str
    ratio: float
    of: str
    """What the ratio is of, and against what."""
    seconds: float
    """That ours took, on this machine."""


def describe_machine(device: torch.device) -> dict[str, Any]:
    """Where the benchmark ran."""
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "cpu",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def print_table(ratios: Sequence[Ratio]) -> str:
    """As Markdown."""
    rows = [f"| {r.part} | {r.case} | {r.ratio:.2f} | {r.of} | {1000 * r.seconds:.1f} ms |" for r in ratios]
    return "\n".join(["| | | ratio | of | ours took |", "| --- | --- | --- | --- | --- |", *rows])


def collect(ratios: Sequence[Ratio], device: torch.device) -> dict[str, Any]:
    """As JSON."""
    return {"machine": describe_machine(device), "ratios": [asdict(ratio) for ratio in ratios]}
