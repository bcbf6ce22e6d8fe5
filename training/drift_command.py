"""The command that studies alarms of drift."""

from pathlib import Path
from typing import Annotated

import typer

from models.processors import count_processors
from training.endings import conclude
from training.options import JSONOption, QuietOption
from training.progress import be_quiet
from training.studies.drift import FILE, describe_drift, study_drift


def drift_command(
    out: Annotated[Path, typer.Option(help="Directory for the tables.")],
    streams: Annotated[int, typer.Option(min=1, max=100_000, help="Number of streams, for each question.")] = 200,
    inputs: Annotated[int, typer.Option(min=1, max=10**9, help="Length of unchanged streams.")] = 100_000,
    calibration: Annotated[int, typer.Option(min=999, max=10**6, help="Number of calibration inputs.")] = 2_500,
    level: Annotated[
        float, typer.Option(min=1e-6, max=0.5, help="δ, the probability of ever raising a false alarm.")
    ] = 0.01,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Seed of all randomness.")] = 0,
    quiet: QuietOption = False,
    as_json: JSONOption = False,
) -> None:
    """Simulate streams of inputs, and tell how often alarms of drift are false, and how soon they are raised."""
    with be_quiet(quiet):
        study = study_drift(out, calibration, level, streams, inputs, seed, count_processors())
    conclude(describe_drift(study), out / FILE, as_json)
