"""The command that trains on a user's own table."""

import shlex
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import torch
import typer

from models.checkpoint import load_checkpoint
from models.checkpoint_files import dump_json, write_file
from training.data.table import Table, load_table
from training.data.vectors import INPUTS, LABELS, load_vectors
from training.endings import conclude, conclude_with_report, explain_errors
from training.options import (
    DeviceOption,
    FoldsOption,
    JSONOption,
    MinutesOption,
    OutOption,
    QuietOption,
    ResumeOption,
    SeedOption,
    check_length,
)
from training.progress import announce, be_quiet
from training.recipes.own_table import own_table, own_vectors
from training.report.own_images import FILE
from training.report.own_table import TableReport, describe_table, describe_table_report, make_table_report
from training.runs.output import check_output
from training.runs.ranks import join_ranks
from training.runs.session import Session, train
from training.studies.divisions import FILE as DIVISIONS_FILE
from training.studies.divisions import describe_divisions, study_divisions


class TaskChoice(StrEnum):
    """Kinds of targets."""

    CLASSIFICATION = "classification"
    REGRESSION = "regression"


def table_command(
    file: Annotated[Path, typer.Argument(help="CSV, TSV or Parquet file with the columns' names.", metavar="FILE")],
    target: Annotated[str, typer.Option(help="Name of the column to predict.")],
    out: OutOption,
    task: Annotated[
        TaskChoice | None,
        typer.Option(
            help="Whether the target is a class or a number.",
            show_default="classes for text and for up to 10 different whole numbers",
        ),
    ] = None,
    ignore: Annotated[list[str] | None, typer.Option(help="A column to leave out. Can be repeated.")] = None,
    categories: Annotated[
        list[str] | None, typer.Option(help="A column whose numbers are codes of categories. Can be repeated.")
    ] = None,
    folds: FoldsOption = None,
    device: DeviceOption = "auto",
    seed: SeedOption = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Number of training steps.", show_default="by the number of rows")
    ] = None,
    minutes: MinutesOption = None,
    resume: ResumeOption = False,
    quiet: QuietOption = False,
    as_json: JSONOption = False,
) -> None:
    """Train on your own table, and report how good the model is beside simpler ones; a minute on 2 cores.

    Numbers, dates (ISO 8601) and categories are found by their values, and values may be missing. The rows are divided:
    60 % train, 10 % choose the temperature, 15 % calibrate flags and intervals, and 15 % test. With `--folds`, all but
    the last train.
    """
    check_length(steps, minutes, resume)
    torch.set_num_threads(1)  # more threads would wait for one another, as the networks are small
    with explain_errors(), be_quiet(quiet):
        ranks, chosen = join_ranks(device)
        check_output(out, resume)
        table = load_table(file, target, task.value if task else None, ignore or (), categories or ())
        table = replace(table, dataset=table.dataset.in_folds(folds))
        announce(describe_table(table))
        recipe = own_table(table)
        options = f" --task {task}" if task else ""
        options += "".join(f" --ignore {shlex.quote(name)}" for name in ignore or ())
        options += "".join(f" --categories {shlex.quote(name)}" for name in categories or ())
        options += f" --folds {folds}" if folds else ""
        recipe = replace(recipe, options=recipe.options + options)
        session = Session(recipe, out, file, chosen, seed, steps, minutes, resume, ranks)
        report = _train(table, session)
    conclude_with_report(report, out, describe_table_report, as_json)


def vectors_command(
    file: Annotated[
        Path, typer.Argument(help="npz file of NumPy with an array of vectors and an array of labels.", metavar="FILE")
    ],
    out: OutOption,
    inputs: Annotated[str, typer.Option(help="Name of the array of vectors, a vector in each row.")] = INPUTS,
    labels: Annotated[str, typer.Option(help="Name of the array of labels.")] = LABELS,
    task: Annotated[
        TaskChoice | None,
        typer.Option(help="Whether labels are classes or numbers.", show_default="classes for integers and for text"),
    ] = None,
    folds: FoldsOption = None,
    device: DeviceOption = "auto",
    seed: SeedOption = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Number of training steps.", show_default="by the number of vectors")
    ] = None,
    minutes: MinutesOption = None,
    resume: ResumeOption = False,
    quiet: QuietOption = False,
    as_json: JSONOption = False,
) -> None:
    """Train on vectors with labels, such as embeddings, and report how good the model is beside simpler ones.

    60 % of the vectors train, 10 % choose the temperature, 15 % calibrate flags and intervals, and 15 % test. With
    `--folds`, all but the last train.
    """
    check_length(steps, minutes, resume)
    torch.set_num_threads(1)
    with explain_errors(), be_quiet(quiet):
        ranks, chosen = join_ranks(device)
        check_output(out, resume)
        table = load_vectors(file, inputs, labels, task.value if task else None)
        table = replace(table, dataset=table.dataset.in_folds(folds))
        announce(describe_table(table))
        recipe = own_vectors(table)
        options = (f" --task {task}" if task else "") + (f" --folds {folds}" if folds else "")
        recipe = replace(recipe, options=recipe.options + options)
        report = _train(table, Session(recipe, out, file, chosen, seed, steps, minutes, resume, ranks))
    conclude_with_report(report, out, describe_table_report, as_json)


def _train(table: Table, session: Session) -> TableReport | None:
    """Trains, and writes the report, unless the training is interrupted."""
    if not train(session, table.dataset):
        return None
    report = make_table_report(session.out, table, load_checkpoint(session.out, session.device))
    write_file(session.out / FILE, dump_json(report))
    return report


def divisions_command(
    file: Annotated[Path, typer.Argument(help="CSV, TSV or Parquet file with the columns' names.", metavar="FILE")],
    target: Annotated[str, typer.Option(help="Name of the column to predict.")],
    out: Annotated[Path, typer.Option(help="Directory for the table, and for what each division gave.")],
    task: Annotated[TaskChoice | None, typer.Option(help="Whether the target is a class or a number.")] = None,
    divisions: Annotated[int, typer.Option(min=1, max=1_000, help="Number of random divisions.")] = 20,
    folds: FoldsOption = None,
    quiet: QuietOption = False,
    as_json: JSONOption = False,
) -> None:
    """Compare with simpler models on many random divisions of a table.

    Finished divisions are kept, so the same command continues after an interrupt.
    """
    torch.set_num_threads(1)
    with explain_errors(), be_quiet(quiet):
        study = study_divisions(file, target, task.value if task else None, out, divisions, folds)
    conclude(describe_divisions(study), out / DIVISIONS_FILE, as_json)
