"""The commands for models of text."""

import dataclasses
import io
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, BinaryIO

import typer

from hyperdraw.client import TIMEOUT
from hyperdraw.commands import (
    LOCAL,
    DrawSeedOption,
    JSONOption,
    KeyOption,
    SeedOption,
    UrlOption,
    make_console,
    open_client,
    open_stream,
    show_json,
    warn,
)
from hyperdraw.terminal import printable
from hyperdraw.text_streams import TextStream
from hyperdraw.text_terminal import TextPainter, find_surprises, show_origin, show_score
from hyperdraw.texts import MOST_CHARACTERS, TOKENS

_LARGEST_FILE = 2**24
"""Most bytes of a text's file."""

_UNCHANGING = "lstm"
"""Method of the models whose weights do not change."""

TextModelArgument = Annotated[str, typer.Argument(help="Name of a model of text.", show_default=False)]


def write_command(
    model: TextModelArgument,
    prompt: Annotated[str, typer.Option(help="The text to go on with.", show_default="none: a new text begins")] = "",
    tokens: Annotated[int, typer.Option(min=1, help="Most characters to write.")] = TOKENS,
    temperature: Annotated[
        float, typer.Option(min=0, help="Less than 1 is more careful, and 0 chooses the most probable character.")
    ] = 1.0,
    top_k: Annotated[
        int | None, typer.Option(min=1, help="Draw from this number of the most probable characters.")
    ] = None,
    top_p: Annotated[
        float | None,
        typer.Option(help="Draw from the most probable characters that together have at least this probability."),
    ] = None,
    seed: DrawSeedOption = None,
    stop: Annotated[list[str] | None, typer.Option(help="A string that ends the text. May be repeated.")] = None,
    plain: Annotated[bool, typer.Option("--plain", help="Print only the text, as in a pipe.")] = False,
    url: UrlOption = LOCAL,
    api_key: KeyOption = None,
    timeout: Annotated[
        float, typer.Option(min=0.001, help="Seconds that may pass without anything arriving.")
    ] = TIMEOUT,
) -> None:
    """Write a text, and print each character as it comes.

    On a terminal with colours, the prompt comes first. If the model's weights change, four rows of squares below each
    line show how much, at each character: those of the input gate (red), the forget gate (green), the output gate
    (blue) and the candidate (yellow).
    """
    console = make_console()
    painted = console.is_terminal and console.color_system is not None and not plain
    with open_client(url, api_key, timeout) as client:
        changes = painted and client.model(model).method != _UNCHANGING
        with client.generate(
            model,
            prompt,
            max_tokens=tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            seed=seed,
            stop=stop or (),
            changes=changes,
        ) as text:
            if text.unknown:
                named = ", ".join(f"{character!r} (U+{ord(character):04X})" for character in text.unknown)
                warn(f"the model does not know characters of the prompt: {named}")
            if not painted:
                _write_plainly(text, printed=console.is_terminal)
                return
            painter = TextPainter(console)
            try:
                painter.write(prompt, style="bold")
                for symbol in text:
                    painter.write(symbol.text, symbol.changes)
            finally:  # also after an interrupt
                painter.finish()
            show_origin(console, text.model, text.members, text.seed)


def _write_plainly(text: TextStream, printed: bool) -> None:
    """Writes a text as it is, but without the characters that could control a terminal if one shows it."""
    last = "\n"
    try:
        for symbol in text:
            last = symbol.text
            typer.echo(last if not printed or last in "\n\t" else printable(last), nl=False)
    finally:
        if printed and last != "\n":
            typer.echo()


def score_command(
    model: TextModelArgument,
    file: Annotated[
        str,
        typer.Argument(
            help="A text in UTF-8. A single - is standard input. Texts of more than "
            f"{MOST_CHARACTERS:,} characters are scored in parts.",
            show_default=False,
        ),
    ],
    seed: SeedOption = None,
    false_alarm_rate: Annotated[
        float | None,
        typer.Option(help="Share of usual passages that may be flagged as foreign.", show_default="the calibration's"),
    ] = None,
    url: UrlOption = LOCAL,
    api_key: KeyOption = None,
    timeout: Annotated[
        float,
        typer.Option(
            min=0.001,
            help="Seconds that the command may take, retries included. If it needs several requests, the time of each.",
        ),
    ] = TIMEOUT,
    as_json: JSONOption = False,
) -> None:
    """Say how surprising a text is to a model.

    On a terminal with colours, the text is shown, the redder, the more surprising.
    """
    with open_client(url, api_key, timeout) as client:
        answer = client.score(model, _read_text(file), seed=seed, false_alarm_rate=false_alarm_rate)
        if as_json:
            surprises = [dataclasses.asdict(excerpt) for excerpt in find_surprises(answer.tokens)]
            show_json({"file": file, **dataclasses.asdict(answer), "surprises": surprises})
        else:
            show_score(make_console(), file, answer)


def _read_text(path: str) -> str:
    """A text whose line ends are newlines.

    Raises:
        ValueError: if it is too large, empty or not in UTF-8.
        OSError: if it cannot be read.
    """
    source: BinaryIO
    with nullcontext(open_stream(sys.stdin)) if path == "-" else Path(path).open("rb") as source:
        content = source.read(_LARGEST_FILE + 1)
    if len(content) > _LARGEST_FILE:
        raise ValueError(f"{path} is larger than {_LARGEST_FILE >> 20} MiB, too large for a text to score")
    try:
        text = io.TextIOWrapper(io.BytesIO(content), "utf-8-sig").read()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not text in UTF-8: {error.reason} at byte {error.start}") from error
    if not text:
        raise ValueError(f"{path} is empty; a text to score has at least one character")
    return text
