"""How commands of `hyperdraw-train` end: with a result on stdout, or with a message about what a user can fix."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import typer

from models.backbones.backbone import BackboneError
from models.checkpoint import CheckpointError
from models.device import DeviceError
from training.data.dataset import DatasetError
from training.imports.network import NetworkError
from training.runs.run import TrainingError

INTERRUPTED = "the training was interrupted, so it was not evaluated on the test set. Continue with --resume."


def conclude(text: str, document: Path, as_json: bool) -> None:
    """Prints the result on stdout: the text, or the document that was written, or null if none was."""
    if as_json:
        typer.echo(document.read_text().rstrip() if document.exists() else "null")
    elif text:
        typer.echo(text)


@contextmanager
def explain_errors() -> Iterator[None]:
    """Turns errors that a user can fix into a message and exit status 1."""
    try:
        yield
    except (DatasetError, NetworkError, TrainingError, CheckpointError, BackboneError, DeviceError) as error:
        typer.secho(f"Error: {error}", fg="red", err=True)
        raise typer.Exit(1) from error
