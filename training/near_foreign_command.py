"""The command that studies near-foreign inputs."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from models.device import choose_device
from training.endings import conclude, explain_errors
from training.options import DATA_FOLDER, SEEDS, DataOption, DeviceOption, JSONOption, QuietOption, SeedsOption
from training.progress import be_quiet, warn
from training.recipes.recipe import Part


class DatasetChoice(StrEnum):
    """Datasets without some of their classes."""

    DIGITS = "digits-8"
    MNIST = "mnist-8"
    CIFAR = "cifar-5-brief"


def near_foreign_command(
    out: Annotated[Path, typer.Option(help="Directory for a folder of the dataset's name, with all trainings.")],
    dataset: Annotated[
        DatasetChoice, typer.Option(help="Dataset without some classes, which are foreign. digits-8 has no download.")
    ] = DatasetChoice.DIGITS,
    parts: Annotated[
        list[Part] | None,
        typer.Option("--with", help="A part to study. Can be repeated.", show_default="outliers and logitnorm"),
    ] = None,
    data: DataOption = DATA_FOLDER,
    device: DeviceOption = "auto",
    seed: SeedsOption = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Number of steps of each run.", show_default="by the dataset")
    ] = None,
    quiet: QuietOption = False,
    as_json: JSONOption = False,
) -> None:
    """Train with and without parts of recipes, and compare how classes that were left out are told from the others.

    Finished runs are kept, so the same command continues after an interrupt.
    """
    place = out / dataset
    with explain_errors(), be_quiet(quiet):
        from training.studies.near_foreign import study_near_foreign  # takes long to import

        finished = study_near_foreign(
            dataset,
            parts or (Part.OUTLIERS, Part.LOGITNORM),
            out,
            data,
            choose_device(device),
            seed or SEEDS,
            steps,
        )
    if not finished:
        warn("the study was interrupted. Continue with the same command.")
    conclude(f"Wrote {place / 'README.md'}." if finished else "", place / "comparison.json", as_json)
