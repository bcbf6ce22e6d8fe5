"""`python -m benchmarks`: one table, its JSON and a figure; with `--check`, whether anything got worse."""

import service  # noqa: F401  # before PyTorch, so that the engine's threads wait here as the service's do

# isort: split

import json
from collections.abc import Callable, Iterable
from enum import StrEnum
from itertools import chain
from pathlib import Path
from typing import Annotated

import torch
import typer

from benchmarks.evaluator import LARGE_CASES, SHARE, measure_evaluator
from benchmarks.memory import measure_large_memory, measure_memory
from benchmarks.replicas import find_nginx, measure_replicas
from benchmarks.report import Ratio, collect, draw_growth, find_regressions, print_table
from benchmarks.sampling import measure_sampler
from benchmarks.sequences import measure_sequences
from benchmarks.serving import measure_backbone, measure_download, measure_neighbours, measure_service
from benchmarks.stages import measure_stages
from benchmarks.streams import measure_streams
from benchmarks.training_step import measure_training
from models.checkpoint import load_checkpoint
from models.checkpoint_files import dump_json, write_file
from models.device import choose_device
from models.memory import keep_freed_memory

ROOT = Path(__file__).parent.parent
CHECKPOINTS = ROOT / "checkpoints"
MODEL = CHECKPOINTS / "mnist-hyperdraw"
RESIDUAL = CHECKPOINTS / "cifar10-random-static"
WRITER = CHECKPOINTS / "shakespeare"
RESULTS = ROOT / "benchmarks" / "results"
ACCEPTED = ROOT / "benchmarks" / "accepted.json"
"""Ratios by name."""
SAMPLERS = ("mnist-hypergan", "mnist-deutsch", "mnist-hyperdraw")


class Part(StrEnum):
    """What can be measured by itself."""

    EVALUATOR = "evaluator"
    RESIDUAL = "residual"
    STAGES = "stages"
    SAMPLER = "sampler"
    TRAINING = "training"
    SEQUENCES = "sequences"
    STREAMS = "streams"
    MEMORY = "memory"
    WEIGHTS = "weights"
    SERVICE = "service"
    REPLICAS = "replicas"
    BACKBONE = "backbone"


def measure_residual(device: torch.device) -> Iterable[Ratio]:
    """Of Wide ResNets."""
    sampler = load_checkpoint(RESIDUAL, device).sampler
    return measure_evaluator("evaluator of Wide ResNets", sampler, device, LARGE_CASES)


def measure_samplers(device: torch.device) -> Iterable[Ratio]:
    """Of every shipped method."""
    for name in SAMPLERS:
        yield from measure_sampler(name, load_checkpoint(CHECKPOINTS / name, device).sampler, device)


def measure_downloads(device: torch.device) -> Iterable[Ratio]:
    """Of every shipped method."""
    for name in SAMPLERS:
        yield from measure_download(CHECKPOINTS / name, device)


def main(
    out: Annotated[Path, typer.Option(help="Directory of results.json and growth.svg.")] = RESULTS,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:N, or auto.")] = "auto",
    only: Annotated[list[Part] | None, typer.Option(help="A part to measure; may be repeated.")] = None,
    model: Annotated[
        Path | None, typer.Option(help="Checkpoint with a pretrained backbone, which the part backbone needs.")
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Fail if a ratio is worse than the accepted one.")] = False,
    accept: Annotated[bool, typer.Option("--accept", help="Accept the ratios that were measured.")] = False,
) -> None:
    """Measure how fast hyperdraw is on this machine, which should have nothing else to do."""
    keep_freed_memory()
    chosen = choose_device(device)
    parts: dict[Part, Callable[[], Iterable[Ratio]]] = {
        Part.EVALUATOR: lambda: measure_evaluator("evaluator", load_checkpoint(MODEL, chosen).sampler, chosen),
        Part.RESIDUAL: lambda: measure_residual(chosen),
        Part.STAGES: lambda: measure_stages(MODEL, chosen),
        Part.SAMPLER: lambda: measure_samplers(chosen),
        Part.TRAINING: lambda: measure_training(chosen),
        Part.SEQUENCES: lambda: measure_sequences(chosen),
        Part.STREAMS: lambda: measure_streams(WRITER, chosen),
        Part.MEMORY: lambda: chain(measure_memory(MODEL), measure_large_memory()),
        Part.WEIGHTS: lambda: measure_downloads(chosen),
        Part.SERVICE: lambda: chain(measure_service(MODEL, chosen), measure_neighbours(MODEL, chosen)),
        Part.REPLICAS: lambda: measure_replicas(MODEL, chosen),
    }
    if model is not None:
        parts[Part.BACKBONE] = lambda: measure_backbone(model, chosen)
    elif only and Part.BACKBONE in only:
        raise typer.BadParameter("the part backbone needs --model")
    ratios: list[Ratio] = []
    if not only and find_nginx() is None:
        typer.echo("without replicas, as nginx is not installed: apt-get install nginx-light", err=True)
        del parts[Part.REPLICAS]
    for part in only or list(parts):
        for ratio in parts[part]():
            ratios.append(ratio)
            typer.echo(f"{ratio.name}: {ratio.ratio:.2f}", err=True)
    out.mkdir(parents=True, exist_ok=True)
    write_file(out / "results.json", dump_json(collect(ratios, chosen)))
    growth = [ratio for ratio in ratios if (ratio.part, ratio.of) == ("evaluator", SHARE)]
    if growth:
        draw_growth(growth, out / "growth.svg")
    typer.echo(print_table(ratios))
    accepted = json.loads(ACCEPTED.read_text()) if ACCEPTED.exists() else {}
    if check and (regressions := find_regressions(ratios, accepted)):
        typer.echo("\n".join(["worse than accepted:", *regressions]), err=True)
        raise typer.Exit(1)
    if accept:
        accepted |= {ratio.name: round(ratio.ratio, 3) for ratio in ratios}
        write_file(ACCEPTED, dump_json(accepted))


if __name__ == "__main__":
    typer.run(main)
