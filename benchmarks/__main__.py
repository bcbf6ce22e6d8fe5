"""`python -m benchmarks`: one table, and its JSON."""

from collections.abc import Callable, Iterable
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import torch
import typer

from benchmarks.evaluator import measure_evaluator
from benchmarks.memory import measure_memory
from benchmarks.report import Ratio, collect, print_table
from benchmarks.sampling import measure_sampler
from benchmarks.serving import measure_service
from benchmarks.training_step import measure_training
from models.checkpoint import dump_json, load_checkpoint, write_file
from models.device import choose_device
from models.memory import keep_freed_memory

ROOT = Path(__file__).parent.parent
CHECKPOINTS = ROOT / "checkpoints"
MODEL = CHECKPOINTS / "mnist-hyperdraw"
SAMPLERS = ("mnist-hypergan", "mnist-deutsch", "mnist-hyperdraw")


class Part(StrEnum):
    """What can be measured by itself."""

    EVALUATOR = "evaluator"
    SAMPLER = "sampler"
    TRAINING = "training"
    MEMORY = "memory"
    SERVICE = "service"


def measure_samplers(device: torch.device) -> Iterable[Ratio]:
    """Of every shipped method."""
    for name in SAMPLERS:
        yield from measure_sampler(name, load_checkpoint(CHECKPOINTS / name, device).sampler, device)


def main(
    out: Annotated[Path, typer.Option(help="Directory of results.json.")] = ROOT / "benchmarks" / "results",
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:N, or auto.")] = "auto",
    only: Annotated[list[Part] | None, typer.Option(help="A part to measure; may be repeated.")] = None,
) -> None:
    """Measure how fast hyperdraw is on this machine, which should have nothing else to do."""
    keep_freed_memory()
    chosen = choose_device(device)
    parts: dict[Part, Callable[[], Iterable[Ratio]]] = {
        Part.EVALUATOR: lambda: measure_evaluator(load_checkpoint(MODEL, chosen).sampler, chosen),
        Part.SAMPLER: lambda: measure_samplers(chosen),
        Part.TRAINING: lambda: measure_training(chosen),
        Part.MEMORY: lambda: measure_memory(MODEL),
        Part.SERVICE: lambda: measure_service(MODEL, chosen),
    }
    ratios: list[Ratio] = []
    for part in only or list(Part):
        for ratio in parts[part]():
            ratios.append(ratio)
            typer.echo(f"{ratio.part}, {ratio.case}: {ratio.ratio:.2f} ({ratio.of})", err=True)
    out.mkdir(parents=True, exist_ok=True)
    write_file(out / "results.json", dump_json(collect(ratios, chosen)))
    typer.echo(print_table(ratios))


if __name__ == "__main__":
    typer.run(main)
