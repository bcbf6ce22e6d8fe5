"""The command that says what to label next."""

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from hyperdraw.commands import JSONOption, make_console, show_error, show_json, warn
from hyperdraw.files import replace_file
from hyperdraw.logged import Log
from hyperdraw.review import Filters, Review, review
from hyperdraw.review_page import write_page
from hyperdraw.review_terminal import show_review
from hyperdraw.terminal import printable


def review_command(
    log: Annotated[
        str,
        typer.Argument(help="A folder of logged predictions, or one of its files.", metavar="LOG", show_default=False),
    ],
    count: Annotated[int, typer.Option(min=1, max=1000, help="Number of inputs to show.")] = 10,
    by: Annotated[
        str, typer.Option(help="What ranks the inputs: a quantity of the log, or the score of a flag.")
    ] = "mutual_information",
    model: Annotated[str | None, typer.Option(help="Only inputs of this model.", show_default="all")] = None,
    flag: Annotated[str | None, typer.Option(help="Only inputs with this flag.", show_default="all")] = None,
    label: Annotated[
        str | None, typer.Option(help="Only inputs for which this class was predicted.", show_default="all")
    ] = None,
    since: Annotated[
        datetime | None, typer.Option(help="Only inputs that were answered from this time on, in UTC.")
    ] = None,
    usual: Annotated[
        bool,
        typer.Option(
            "--usual", help="Only inputs that are no farther from the training examples than 95 % of usual inputs."
        ),
    ] = False,
    apart: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Leave out an image that differs from a shown one by less: the root mean square over pixels, as a "
            "share of their range.",
        ),
    ] = None,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a page on which the inputs can be labelled.")
    ] = None,
    as_json: JSONOption = False,
) -> None:
    """List the logged inputs about which the networks disagreed most: what to label next.

    `hyperdraw-serve --prediction-log FOLDER --log-inputs` writes the log. The page that `--html` writes needs no
    service; its button saves the labels as CSV.
    """
    since = since and (since if since.tzinfo else since.replace(tzinfo=UTC))
    with _explaining():
        lines = Log(log)
        found = review(lines, count, by, Filters(model, flag, label, since, usual), apart)
    if lines.lines == lines.damaged:
        show_error(f"{log} has no record of this version among its {lines.lines} lines")
        raise typer.Exit(1)
    if html is not None:
        with _explaining(), replace_file(html) as file:
            file.write(write_page(found).encode(errors="replace"))
    if lines.damaged:
        warn(f"{lines.damaged} of {lines.lines} lines are not records of this version, and were left out.")
    if not found.considered:
        warn(_explain_nothing(found))
    if as_json:
        show_json({"lines": lines.lines, "damaged": lines.damaged, **_list_records(found)})
    elif html is not None:
        typer.echo(printable(f"Wrote {html}: {_count(found)}."))
    else:
        console = make_console()
        show_review(console, found)
        console.print(f"{_count(found)}.", style="dim")


@contextmanager
def _explaining() -> Iterator[None]:
    """Ends the command with only the message of a failure that a user can fix."""
    try:
        yield
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    except OSError as error:
        show_error(str(error))
        raise typer.Exit(1) from error


def _count(found: Review) -> str:
    return f"{len(found.records)} of {found.considered} inputs, the largest {found.by.replace('_', ' ')} first"


def _explain_nothing(found: Review) -> str:
    """What a log has whose records pass no filter."""
    models = ", ".join(sorted({model for model, _ in found.classes})) or "none of classes"
    return printable(f"No record passes the filters. Models: {models}. Scores: {', '.join(sorted(found.quantities))}.")


def _list_records(found: Review) -> dict[str, Any]:
    """The review without images, for a document of JSON."""
    records = [{**dataclasses.asdict(record), "time": record.time.isoformat()} for record in found.records]
    for record in records:
        del record["image"]
    return {"by": found.by, "considered": found.considered, "records": records}
