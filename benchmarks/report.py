"""What a benchmark found: one table, its JSON, a figure of growth, and what got worse."""

import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

TOLERANCE = 0.25
"""Share by which a ratio may be worse than the accepted one, as a shared machine's are noisy."""


@dataclass(frozen=True)
class Ratio:
    """One figure."""

    part: str
    """What was measured."""
    case: str
    ratio: float
    of: str
    """What the ratio is of, and against what."""
    seconds: float | None = None
    """That ours took, on this machine."""
    smaller_is_better: bool = False
    networks: int = 1
    """That were evaluated."""
    inputs: int = 1
    characters: int | None = None
    """That were read or written in this time."""

    @property
    def name(self) -> str:
        """What tells it from others."""
        return f"{self.part}, {self.case}, {self.of}"


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
    rows = [f"| {r.part} | {r.case} | {r.ratio:.2f} | {r.of} | {_print_time(r)} |" for r in ratios]
    return "\n".join(["| | | ratio | of | ours took |", "| --- | --- | --- | --- | --- |", *rows])


def _print_time(ratio: Ratio) -> str:
    if not ratio.seconds:
        return ""
    pace = f", {ratio.characters / ratio.seconds:,.0f} characters a second" if ratio.characters else ""
    return f"{1000 * ratio.seconds:.1f} ms{pace}"


def collect(ratios: Sequence[Ratio], device: torch.device) -> dict[str, Any]:
    """As JSON."""
    return {"machine": describe_machine(device), "ratios": [asdict(ratio) for ratio in ratios]}


def find_regressions(ratios: Sequence[Ratio], accepted: Mapping[str, float]) -> list[str]:
    """What is worse than accepted, by more than chance makes it; names of ratios as in `Ratio.name`."""
    return [
        f"{ratio.name}: {ratio.ratio:.2f}, accepted {accepted[ratio.name]:.2f}"
        for ratio in ratios
        if ratio.name in accepted and _is_worse(ratio, accepted[ratio.name])
    ]


def _is_worse(ratio: Ratio, accepted: float) -> bool:
    if ratio.smaller_is_better:
        return ratio.ratio > accepted * (1 + TOLERANCE)
    return ratio.ratio < accepted / (1 + TOLERANCE)


def draw_growth(ratios: Sequence[Ratio], path: Path) -> None:
    """Draws what one network takes for one input, as their numbers grow, from the evaluator's ratios."""
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    for axes, along, other in zip(figure.subplots(1, 2), ("networks", "inputs"), ("inputs", "networks"), strict=True):
        for held in sorted({getattr(ratio, other) for ratio in ratios}):
            points = sorted(
                (getattr(r, along), 1e6 * r.seconds / (r.networks * r.inputs))
                for r in ratios
                if r.seconds and getattr(r, other) == held
            )
            axes.plot(*zip(*points, strict=True), "o-", label=f"{held:,}")
        axes.set(xscale="log", yscale="log", xlabel=along, ylabel="µs for a network and an input")
        axes.legend(title=other)
        axes.grid(alpha=0.3)
    figure.savefig(path)
