"""How commands of `hyperdraw-train` end: with a result on stdout, or with a message about what a user can fix."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import typer

from models.backbones.backbone import BackboneError
from models.checkpoint_files import CheckpointError, dump_json
from models.device import DeviceError
from models.feedback.labels import FeedbackError
from training.data.dataset import DatasetError
from training.imports.network import NetworkError
from training.progress import warn
from training.runs.ranks import let_first_speak
from training.runs.state import TrainingError

Report = TypeVar("Report")

INTERRUPTED = "the training was interrupted, so it was not evaluated on the test set. Continue with --resume."


def conclude(text: str, document: Path, as_json: bool) -> None:
    """Prints the result on stdout: the text, or the document that was written, or null if none was."""
    if as_json:
        typer.echo(document.read_text().rstrip() if document.exists() else "null")
    elif text:
        typer.echo(text)


def conclude_with_report(report: Report | None, out: Path, describe: Callable[[Report], str], as_json: bool) -> None:
    """Prints a report on stdout, as text or JSON. Without one, it warns that the training was interrupted.

    Args:
        report: the report, a dataclass.
        out: directory of the checkpoint.
        describe: writes the report as text.
        as_json: whether to print JSON, which is null without a report.
    """
    if report is None:
        warn(INTERRUPTED)
        typer.echo("null" if as_json else f"Wrote {out}. Serve it: hyperdraw-serve --checkpoints {out}")
    else:
        typer.echo(dump_json(report).decode().rstrip() if as_json else describe(report))


@contextmanager
def explain_errors() -> Iterator[None]:
    """Turns errors that a user can fix into a message and exit status 1."""
    try:
        yield
    except (
        DatasetError,
        NetworkError,
        TrainingError,
        CheckpointError,
        BackboneError,
        DeviceError,
        FeedbackError,
    ) as error:
        let_first_speak()
        typer.secho(f"Error: {error}", fg="red", err=True)
        raise typer.Exit(1) from error
