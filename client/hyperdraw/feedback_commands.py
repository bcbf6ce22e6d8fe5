"""The command of feedback: it sends labels, or shows what they say."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from hyperdraw.client import TIMEOUT
from hyperdraw.commands import (
    LOCAL,
    JSONOption,
    KeyOption,
    ModelOption,
    TimeoutOption,
    UrlOption,
    make_console,
    open_client,
    show_error,
    show_json,
)
from hyperdraw.feedback import Feedback, Label, LabelledShare
from hyperdraw.sources import read_table
from hyperdraw.terminal import printable

COLUMNS = ("request_id", "request_index", "truth")
"""Columns of a table that `hyperdraw predict --out` wrote, with the labels."""

REVIEWED = ("request_id", "index", "label")
"""All columns of a table that the page of `hyperdraw review` saved."""

MOST_SHOWN = 5
"""Most refusals that are shown."""


def feedback_command(
    tables: Annotated[
        list[str] | None,
        typer.Argument(
            help="CSV files such as `hyperdraw predict --out` writes, with a further column `truth`, or such as the "
            "page of `hyperdraw review` saves. Rows without a truth are left out.",
            metavar="TABLE…",
            show_default=False,
        ),
    ] = None,
    truth: Annotated[
        list[str] | None,
        typer.Option(metavar="ID:INDEX=LABEL", help="The label of one input of a request. May be repeated."),
    ] = None,
    numbers: Annotated[
        bool, typer.Option("--numbers", help="Labels are numbers, such as 1.5, or several, such as 1.5,-2.")
    ] = False,
    url: UrlOption = LOCAL,
    api_key: KeyOption = None,
    model: ModelOption = None,
    as_json: JSONOption = False,
    timeout: TimeoutOption = TIMEOUT,
) -> None:
    """Tell the service what was right, however late. Without labels, show how right a model's answers were."""
    with open_client(url, api_key, timeout) as client:
        if not tables and not truth:
            measures = client.feedback(model)
            show_json(dataclasses.asdict(measures)) if as_json else show_feedback(make_console(), measures)
            return
        given = [*map(_read_truth, truth or ()), *(each for path in tables or () for each in _read_rows(path))]
        labels = [_read_numbers(label) if numbers else label for _, label in given]
        found = client.label([name for name, _ in given], labels)
    if as_json:
        show_json(dataclasses.asdict(found))
    else:
        again = f", {found.repeated} known already" if found.repeated else ""
        typer.echo(f"{found.recorded} labels recorded{again}.")
    if found.refused:
        for refusal in found.refused[:MOST_SHOWN]:
            request_id, index = given[refusal.number][0]
            show_error(f"{request_id}, input {index}: {refusal.message}")
        show_error(f"{len(found.refused)} of {len(given)} labels were refused.")
        raise typer.Exit(1)


def show_feedback(console: Console, measures: Feedback) -> None:
    """Shows running measures."""
    model = measures.model
    console.print(Text(printable(f"{model.name} at version {model.version[:12]}"), "bold"))
    console.print(f"{measures.answers} answers are kept, {measures.labels} of them with a label")
    if measures.accuracy is not None:
        console.print(f"accuracy {_write_share(measures.accuracy)}")
    if measures.negative_log_likelihood is not None:
        unit = "" if measures.root_mean_square_error else " nats"
        console.print(f"negative log-likelihood {measures.negative_log_likelihood:.4g}{unit}")
    if measures.expected_calibration_error is not None:
        bins = measures.calibration_bins
        console.print(f"expected calibration error {measures.expected_calibration_error:.4f}, in {bins} bins")
    for name, error in (measures.root_mean_square_error or {}).items():
        console.print(Text(printable(f"root mean square error of {name} {error:.4g}")))
    if measures.coverage:
        table = Table("promised", "coverage", "", box=None, pad_edge=False, header_style="dim")
        for each in measures.coverage:
            alarm = Text("has fallen below its promise", "bold red") if each.alarm else Text("")
            table.add_row(f"{each.promised:.1%}", _write_share(each), alarm)
        console.print(table)
    if measures.estimated_accuracy is not None:
        estimate = f"{measures.estimated_accuracy:.2%}, if the probabilities are right for these inputs"
        console.print(f"accuracy of all answers, estimated from their confidence: {estimate}")
    chance = f"{1 - measures.error_probability:.0%}"
    console.print(Text(f"intervals hold at all times with a probability of {chance}", "dim"))


def _write_share(share: LabelledShare) -> str:
    return f"{share.share:.2%} ({share.lower:.2%} to {share.upper:.2%})"


def _read_truth(text: str) -> tuple[tuple[str, int], str]:
    name, found, label = text.partition("=")
    request_id, _, index = name.rpartition(":")
    if not found or not request_id or not index.isdecimal():
        raise typer.BadParameter(f"{text} is not like ID:INDEX=LABEL")
    return (request_id, int(index)), label


def _read_rows(path: str) -> Iterator[tuple[tuple[str, int], str]]:
    for line, row in read_table(path):
        yield from _read_row(path, line, row)


def _read_row(path: str, line: int, row: Mapping[str, str]) -> Iterator[tuple[tuple[str, int], str]]:
    columns = REVIEWED if tuple(row) == REVIEWED else COLUMNS
    if missing := [column for column in columns if column not in row]:
        raise ValueError(f"{path} has no column {missing[0]}; a table in CSV must have {', '.join(columns)}")
    request_id, index, label = (row[column] for column in columns)
    if not label:
        return
    if not request_id or not index.isdecimal():
        raise ValueError(f"line {line} of {path} has no {columns[0]} and {columns[1]}")
    yield (request_id, int(index)), label


def _read_numbers(text: str) -> Label:
    try:
        return [float(number) for number in text.split(",")]
    except ValueError as error:
        raise typer.BadParameter(f"{text} is neither a number nor a row of numbers such as 1.5,-2") from error
