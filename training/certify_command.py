"""The command that certifies a classifier's answers for test images."""

from typing import Annotated

import typer

from models.device import choose_device
from models.precision import Precision
from models.predictions.smoothing import Smoothing
from training.endings import conclude, explain_errors
from training.evaluation.certification import FILE
from training.options import (
    DATA_FOLDER,
    CheckpointArgument,
    DeviceOption,
    JSONOption,
    QuietOption,
    TrainingDataOption,
)
from training.progress import be_quiet
from training.runs.certificates import certify_directory


def certify_command(
    checkpoint: CheckpointArgument,
    data: TrainingDataOption = DATA_FOLDER,
    device: DeviceOption = "auto",
    sigma: Annotated[
        float, typer.Option(min=0.001, max=10, help="Standard deviation of the noise, as a share of the pixels' range.")
    ] = 0.5,
    samples: Annotated[int, typer.Option(min=100, max=1_000_000, help="Noisy copies of each image.")] = 10_000,
    networks: Annotated[
        int, typer.Option(min=1, max=1000, help="Fresh networks whose mean answers for each noisy copy.")
    ] = 1,
    alpha: Annotated[float, typer.Option(min=1e-12, max=0.5, help="Probability that a certificate is wrong.")] = 0.001,
    images: Annotated[int, typer.Option(min=1, help="Number of test images, from the first on.")] = 500,
    precision: Annotated[Precision, typer.Option(help="Precision of the networks that answer.")] = "float32",
    quiet: QuietOption = False,
    as_json: JSONOption = False,
) -> None:
    """Certify a classifier's answers by randomised smoothing, and write certified accuracies to its model card.

    Results of other settings are kept.
    """
    file = checkpoint / FILE
    with explain_errors(), be_quiet(quiet):
        smoothing = Smoothing(sigma, samples, networks, alpha)
        found = certify_directory(checkpoint, data, choose_device(device), images, smoothing, precision)
    conclude(
        f"The average certified radius of {len(found.radii):,} images is {found.average_radius:.3f}. Wrote {file}, and "
        f"the table in {checkpoint / 'README.md'}.",
        file,
        as_json,
    )
