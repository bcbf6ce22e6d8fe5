"""The command line of the client: `hyperdraw`, also `python -m hyperdraw`."""

import dataclasses
import io
import signal
import sys
from importlib.metadata import version
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from hyperdraw.answers import Classification, Prediction
from hyperdraw.certify_command import certify_command
from hyperdraw.client import TIMEOUT, Client
from hyperdraw.commands import (
    LOCAL,
    JSONOption,
    KeyOption,
    ModelArgument,
    ModelOption,
    SeedOption,
    TimeoutOption,
    UrlOption,
    VersionOption,
    abandon_output,
    is_stdout,
    make_console,
    open_client,
    open_stream,
    show_error,
    show_json,
)
from hyperdraw.drawing_commands import draw_command
from hyperdraw.feedback_commands import feedback_command
from hyperdraw.monitor_commands import monitor_command
from hyperdraw.review_commands import review_command
from hyperdraw.runs import predict_to_file
from hyperdraw.sources import Source, find_inputs
from hyperdraw.tables import check_format
from hyperdraw.tensors import DType
from hyperdraw.terminal import printable, show_models, show_prediction, show_provenance
from hyperdraw.text_commands import score_command, write_command
from hyperdraw.versions_commands import promote_command, rollback_command, traffic_command


class CommandLine(typer.Typer):
    """Commands that end like those of other programs."""

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """Runs a command, and ends the process.

        A terminated command cleans up, as an interrupted one does. If nobody reads the output any longer, the command
        ends silently. If the output cannot be written for another reason, it says so.
        """
        for name in ("SIGTERM", "SIGHUP"):
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) == signal.SIG_DFL:  # nohup, for example, ignores it
                signal.signal(number, lambda number, _: sys.exit(128 + number))
        try:
            return super().__call__(*arguments, **options)
        except OSError as error:  # only of the output, because commands explain all others
            abandon_output()
            show_error(f"The output cannot be written: {error.strerror or error}")
            sys.exit(1)


app = CommandLine(
    name="hyperdraw",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    help=(
        "Ask a hyperdraw service for predictions with their uncertainty, for texts, for drawings, and for sampled "
        "networks.\n\n"
        "A first try, while `hyperdraw-serve` runs: `hyperdraw predict IMAGE`, and then\n"
        "`hyperdraw predict FOLDER --out answers.csv`"
    ),
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"hyperdraw {version('hyperdraw')}")
        raise typer.Exit


@app.callback()
def write_to_any_terminal(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Replaces characters that the terminal's encoding lacks by question marks, before each command."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


def _read_size(text: str) -> int | str:
    if text == "auto":
        return text
    try:
        size = int(text)
    except ValueError:
        size = 0
    if size < 1:
        raise typer.BadParameter(f"{text} is neither a number of networks, from 1 on, nor auto")
    return size


@app.command("predict")
def predict_command(
    paths: Annotated[
        list[str] | None,
        typer.Argument(
            help="PNG, JPEG, WebP, GIF, BMP, TIFF or AVIF files, folders of them, or tables: CSV files whose first "
            "line names the columns. A single - is a picture from standard input.",
            metavar="INPUT…",
            show_default=False,
        ),
    ] = None,
    numbers: Annotated[
        list[str] | None, typer.Option(help="A row of numbers, such as 1.5,-2, instead of a file. May be repeated.")
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Write a table of the answers, a row for each input: .csv, .jsonl or .parquet. An input that is "
            "refused has a row that says why. If the command is interrupted, the same command goes on.",
        ),
    ] = None,
    url: UrlOption = LOCAL,
    api_key: KeyOption = None,
    model: ModelOption = None,
    version: VersionOption = None,
    seed: SeedOption = None,
    ensemble_size: Annotated[
        str | None,
        typer.Option(
            metavar="NUMBER|auto",
            parser=_read_size,
            help="Number of networks that answer; with auto, as many as each input needs.",
            show_default="as many as the model was evaluated with",
        ),
    ] = None,
    false_alarm_rate: Annotated[
        float | None,
        typer.Option(help="Share of usual inputs for which each flag may be raised.", show_default="0.05"),
    ] = None,
    coverage: Annotated[
        float | None,
        typer.Option(help="Also answer with a set of classes that contains the true one for this share of inputs."),
    ] = None,
    as_json: JSONOption = False,
    timeout: Annotated[
        float,
        typer.Option(
            min=0.001,
            help="Seconds that the command may take, retries included. If it needs several requests, the time of each.",
        ),
    ] = TIMEOUT,
) -> None:
    """Predict from pictures or rows, and show how uncertain the networks are."""
    if bool(paths) == bool(numbers):
        raise typer.BadParameter("give either files or --numbers")
    asked: dict[str, Any] = {
        "model": model,
        "version": version,
        "seed": seed,
        "ensemble_size": ensemble_size,
        "false_alarm_rate": false_alarm_rate,
        "coverage": coverage,
    }
    with open_client(url, api_key, timeout) as client:
        sources: list[tuple[str, Source]] = [(text, _read_row(text)) for text in numbers or []]
        for path in paths or []:
            sources += [("-", open_stream(sys.stdin))] if path == "-" else find_inputs(path)
        if out is not None:
            _write_predictions(client, out, sources, asked, as_json)
            return
        inputs: Any = [source for _, source in sources]
        answer = client.predict(inputs, members=not as_json and ensemble_size != "auto", **asked)
    names = [name for name, _ in sources]
    if as_json:
        content = {"inputs": names, **dataclasses.asdict(answer)}
        if isinstance(answer, Classification):
            content |= {"labels": answer.labels, "class_indices": answer.class_indices}
        show_json(content)
        return
    console = make_console()
    parts: list[Prediction] = list(answer)
    for name, part in zip(names, parts, strict=True):
        show_prediction(console, name, part)
    show_provenance(console, answer)


def _write_predictions(
    client: Client, out: str, sources: list[tuple[str, Source]], asked: dict[str, Any], as_json: bool
) -> None:
    """Predicts inputs into a file. Ends the command with 1 if some are refused."""
    check_format(out)
    console = Console(stderr=True)
    columns = BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("", total=None)
        run = predict_to_file(
            client,
            out,
            sources,
            progress=lambda done, total: progress.update(bar, completed=done, total=total),
            interrupted=lambda kept: typer.echo(f"{printable(kept)} The same command goes on from there.", err=True),
            **asked,
        )
    if as_json:
        show_json(dataclasses.asdict(run))
    else:
        answers = "1 answer" if run.answered == 1 else f"{run.answered} answers"
        typer.echo(printable(f"Wrote {out}: {answers} of {run.model} at version {run.version}, seed {run.seed}."))
    if run.refused:
        show_error(f"{run.refused} of {len(sources)} inputs have no answer; the column error in {out} says why.")
        raise typer.Exit(1)


@app.command("sample")
def sample_command(
    out: Annotated[
        str, typer.Option(metavar="FILE", help="The safetensors file to write. A single - is standard output.")
    ],
    url: UrlOption = LOCAL,
    api_key: KeyOption = None,
    model: ModelOption = None,
    version: VersionOption = None,
    seed: SeedOption = None,
    member: Annotated[
        int, typer.Option(min=0, help="Number of the network, or of the first one, among those of the seed.")
    ] = 0,
    count: Annotated[
        int | None,
        typer.Option(min=1, help="Number of networks, stacked on a leading axis.", show_default="one, not stacked"),
    ] = None,
    dtype: Annotated[DType, typer.Option(help="Type of the weights.")] = "float32",
    timeout: Annotated[
        float, typer.Option(min=0.001, help="Seconds that may pass without anything arriving.")
    ] = TIMEOUT,
    as_json: JSONOption = False,
) -> None:
    """Download sampled networks as a file that PyTorch loads without hyperdraw."""
    columns, console = (BarColumn(), DownloadColumn(), TransferSpeedColumn()), Console(stderr=True)
    mixed = out == "-" or is_stdout(out)
    with (
        open_client(url, api_key, timeout) as client,
        Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress,
    ):
        bar = progress.add_task("", total=None)
        file = client.download(
            open_stream(sys.stdout) if out == "-" else out,
            model,
            version=version,
            seed=seed,
            member=member,
            count=count,
            dtype=dtype,
            progress=lambda arrived, size: progress.update(bar, completed=arrived, total=size),
        )
    if as_json:
        show_json(dataclasses.asdict(file), err=mixed)
        return
    first, last = file.members[0], file.members[-1]
    networks = f"member {first}" if first == last else f"members {first} to {last}"
    place = "standard output" if out == "-" else out
    text = f"Wrote {place}: {networks} of seed {file.seed}, {file.model} at version {file.version}."
    typer.echo(printable(text), err=mixed)


app.command("certify")(certify_command)
app.command("write")(write_command)
app.command("score")(score_command)
app.command("draw")(draw_command)
app.command("review")(review_command)
app.command("monitor")(monitor_command)
app.command("feedback")(feedback_command)
app.command("traffic")(traffic_command)
app.command("promote")(promote_command)
app.command("rollback")(rollback_command)


@app.command("models")
def models_command(
    url: UrlOption = LOCAL, api_key: KeyOption = None, timeout: TimeoutOption = TIMEOUT, as_json: JSONOption = False
) -> None:
    """List the models of the service."""
    with open_client(url, api_key, timeout) as client:
        answer = client.models()
    if as_json:
        show_json(dataclasses.asdict(answer))
    else:
        show_models(make_console(), answer)


@app.command("reload")
def reload_command(
    model: ModelArgument,
    url: UrlOption = LOCAL,
    api_key: KeyOption = None,
    timeout: TimeoutOption = TIMEOUT,
    as_json: JSONOption = False,
) -> None:
    """Make the service load a model's checkpoint again and replace the one that it serves."""
    with open_client(url, api_key, timeout) as client:
        answer = client.reload(model)
    if as_json:
        show_json(dataclasses.asdict(answer))
        return
    state = "is now" if answer.changed else "is still"
    typer.echo(printable(f"{answer.model.name} {state} at version {answer.model.version}."))


def _read_row(text: str) -> list[float]:
    try:
        return [float(number) for number in text.split(",")]
    except ValueError as error:
        raise typer.BadParameter(f"{text} is not a row of numbers such as 1.5,-2") from error


if __name__ == "__main__":
    app()
