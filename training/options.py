"""Options that several commands of `hyperdraw-train` share."""

from pathlib import Path
from typing import Annotated

import typer

from training.data.published import default_data_folder
from training.recipes.recipe import Part

DATA_FOLDER = default_data_folder()
DataOption = Annotated[Path, typer.Option(help="Folder of the datasets' files. Missing files are downloaded into it.")]
TrainingDataOption = Annotated[
    Path,
    typer.Option(
        help="Your own folder or file that the model was trained on, or the folder of the datasets' files. Missing "
        "files are downloaded into the latter."
    ),
]
CheckpointArgument = Annotated[Path, typer.Argument(help="Directory of the checkpoint.")]
OutliersOption = Annotated[
    list[Path] | None,
    typer.Option(help="Folder of images to use as outliers, besides the usual sets. Can be repeated."),
]
QuietOption = Annotated[bool, typer.Option("--quiet", help="Show only results and warnings, no progress.")]
JSONOption = Annotated[
    bool, typer.Option("--json", help="Print the result as one JSON document. Everything else goes to stderr.")
]
SeedOption = Annotated[int | None, typer.Option(min=0, max=2**63 - 1, help="Seed of all randomness.", show_default="0")]
MinutesOption = Annotated[
    float | None,
    typer.Option(
        min=0.01,
        help="Length in minutes, with all folds, instead of --steps. The speed of this machine is measured first.",
    ),
]
ResumeOption = Annotated[bool, typer.Option("--resume", help="Continue the training in --out.")]
WithoutOption = Annotated[
    list[Part] | None, typer.Option(help="A part to leave out, to see its effect. Can be repeated.")
]
ExamplesOption = Annotated[
    bool,
    typer.Option(
        "--examples/--no-examples",
        help="Put a test image of each of up to six classes into the checkpoint. The service shows them to everybody "
        "who may ask the model, so leave them out if your images are private.",
    ),
]
FoldsOption = Annotated[
    int | None,
    typer.Option(
        min=2,
        max=20,
        help="Train on everything but the test set, and calibrate crosswise in so many folds. This takes one more "
        "training for each, and what flags, sets and intervals promise holds only approximately.",
        show_default="validation and calibration are held out",
    ),
]
OutOption = Annotated[Path, typer.Option(help="Directory of the checkpoint. It is created if it does not exist.")]
DeviceOption = Annotated[
    str, typer.Option(help="cpu, cuda, cuda:N or auto. With auto it is cuda if available, otherwise cpu.")
]


def check_length(steps: int | None, minutes: float | None, resume: bool, name: str = "--steps") -> None:
    """Checks the options that say how long a training is.

    Args:
        steps: number of steps, if it was given.
        minutes: length in minutes, if it was given.
        resume: whether a training is continued.
        name: the option of the steps.

    Raises:
        typer.BadParameter: if they contradict each other.
    """
    if steps is not None and minutes is not None:
        raise typer.BadParameter(f"use {name} or --minutes, not both")
    if resume and minutes is not None:
        raise typer.BadParameter(
            "a resumed training keeps its planned steps, so --minutes cannot be used with --resume"
        )


SEEDS = (0, 1, 2)
"""Seeds of an experiment's runs, if none are named."""

SeedsOption = Annotated[
    list[int] | None,
    typer.Option(min=0, max=2**63 - 1, help="Seed of the runs. Can be repeated.", show_default="0, 1 and 2"),
]
