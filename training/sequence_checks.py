"""The commands that measure and show a model for sequences."""

from pathlib import Path
from typing import Annotated

import torch
import typer

from models.checkpoint_files import dump_json, write_file
from models.device import choose_device
from models.sequences.checkpoint import SequenceConfig, load_sequence_checkpoint
from models.sequences.text import TextSpec
from training.data.dataset import DatasetError
from training.data.strokes import load_training_drawings
from training.data.text import load_training_text
from training.endings import conclude, explain_errors
from training.options import DATA_FOLDER, CheckpointArgument, DeviceOption, JSONOption, QuietOption, TrainingDataOption
from training.progress import be_quiet
from training.sequences.changes import describe_changes, draw_changes, study_changes
from training.sequences.drawings import DrawingsProblem
from training.sequences.foreign import compare_with_foreign_texts, describe_foreign
from training.sequences.problem import SequenceProblem
from training.sequences.samples import render_samples
from training.sequences.session import calibrate_sequences, evaluate_sequences
from training.sequences.text import TextProblem


def calibrate_sequence_directory(directory: Path, data: Path, device: torch.device) -> None:
    """Measures a sequence model's thresholds again.

    Raises:
        DatasetError: if the data is missing or not what it was, or if the model can raise no flags.
    """
    config = load_sequence_checkpoint(directory, device).config
    if not calibrate_sequences(directory, _load_again(config, data, device), device):
        raise DatasetError("models that draw raise no flags, so there is nothing to calibrate")


def evaluate_sequence_directory(directory: Path, data: Path, device: torch.device) -> None:
    """Measures a sequence model on the test split again.

    Raises:
        DatasetError: if the data is missing or not what it was.
    """
    config = load_sequence_checkpoint(directory, device).config
    evaluate_sequences(directory, _load_again(config, data, device), device)


def _load_again(config: SequenceConfig, data: Path, device: torch.device) -> SequenceProblem:
    if isinstance(config.input, TextSpec):
        return TextProblem(load_training_text(config, data), device)
    return DrawingsProblem(load_training_drawings(config, data), device)


def foreign_command(
    checkpoint: CheckpointArgument,
    data: TrainingDataOption = DATA_FOLDER,
    text: Annotated[
        list[str] | None,
        typer.Option(help="A foreign text to compare with, as NAME=FILE. Can be repeated.", metavar="NAME=FILE"),
    ] = None,
    networks: Annotated[
        int | None, typer.Option(min=1, max=1_000, help="Size of the ensemble.", show_default="the number of modes")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Seed of the networks.")] = 0,
    device: DeviceOption = "auto",
    quiet: QuietOption = False,
    as_json: JSONOption = False,
) -> None:
    """Measure how well a text model tells foreign passages of 100 characters from those of its own test split.

    Shuffled versions of the test split are foreign texts, too. Writes `foreign.json`.
    """
    named = {}
    for each in text or ():
        name, sign, file = each.partition("=")
        if not (name and sign and file):
            raise typer.BadParameter(f"{each!r} is not NAME=FILE")
        named[name] = Path(file)
    out = checkpoint / "foreign.json"
    with explain_errors(), be_quiet(quiet):
        loaded = load_sequence_checkpoint(checkpoint, choose_device(device))
        size = networks or loaded.config.sampler.modes
        report = compare_with_foreign_texts(loaded, load_training_text(loaded.config, data), named, seed, size)
        write_file(out, dump_json(report))
    conclude(describe_foreign(report), out, as_json)


def changes_command(
    checkpoint: CheckpointArgument,
    data: TrainingDataOption = DATA_FOLDER,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Seed of the network.")] = 0,
    device: DeviceOption = "auto",
    quiet: QuietOption = False,
    as_json: JSONOption = False,
) -> None:
    """Measure at which characters the weights of a text model change, and draw a passage as the paper does.

    Writes `changes.json` and `figures/changes.svg`.
    """
    out = checkpoint / "changes.json"
    with explain_errors(), be_quiet(quiet):
        loaded = load_sequence_checkpoint(checkpoint, choose_device(device))
        text = load_training_text(loaded.config, data)
        report = study_changes(loaded, text, seed)
        (checkpoint / "figures").mkdir(exist_ok=True)
        write_file(checkpoint / "figures" / "changes.svg", draw_changes(loaded, text, seed).encode())
        write_file(out, dump_json(report))
    conclude(describe_changes(report), out, as_json)


def samples_command(
    checkpoint: CheckpointArgument,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Seed of the network and the drawings.")] = 0,
    device: DeviceOption = "auto",
) -> None:
    """Draw a figure of what a model for drawings makes up at four temperatures, `figures/samples.svg`."""
    out = checkpoint / "figures" / "samples.svg"
    with explain_errors():
        content = render_samples(load_sequence_checkpoint(checkpoint, choose_device(device)), seed)
        out.parent.mkdir(exist_ok=True)
        write_file(out, content.encode())
    typer.echo(f"Wrote {out}.")


def add_sequence_checks(app: typer.Typer) -> None:
    """Adds the commands of this file that have names of their own."""
    app.command("foreign-text", rich_help_panel="Checkpoints")(foreign_command)
    app.command("weight-changes", rich_help_panel="Checkpoints")(changes_command)
    app.command("drawing-samples", rich_help_panel="Checkpoints")(samples_command)
