"""What the commands have in common: their options, the client that they ask, and how they end."""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, BinaryIO, TextIO

import numpy as np
import typer
from rich.console import Console
from rich.text import Text

from hyperdraw.asking import SEED_LIMIT
from hyperdraw.client import Client
from hyperdraw.errors import HyperdrawError
from hyperdraw.terminal import printable

UrlOption = Annotated[str, typer.Option(envvar="HYPERDRAW_URL", help="Address of the service.")]
KeyOption = Annotated[
    str | None, typer.Option(envvar="HYPERDRAW_API_KEY", help="API key, if the service requires one.")
]
ModelArgument = Annotated[str, typer.Argument(help="Name of the model.")]
DefaultModelArgument = Annotated[
    str | None, typer.Argument(help="Name of the model.", show_default="the service's default")
]
TimeoutOption = Annotated[float, typer.Option(min=0.001, help="Seconds that the command may take, retries included.")]
ModelOption = Annotated[str | None, typer.Option(help="Name of the model.", show_default="the service's default")]
VersionOption = Annotated[
    str | None,
    typer.Option(help="Version of the model: stable, candidate, previous, or a digest.", show_default="stable"),
]
SeedOption = Annotated[
    int | None, typer.Option(min=0, max=SEED_LIMIT - 1, help="Seed of the networks.", show_default="a fresh one")
]
DrawSeedOption = Annotated[
    int | None,
    typer.Option(min=0, max=SEED_LIMIT - 1, help="Seed of networks and draws.", show_default="a fresh one"),
]
JSONOption = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
LOCAL = "http://127.0.0.1:8000"
_WIDEST = 1_000_000
"""Columns of an output that is not a terminal."""


@contextmanager
def open_client(url: str, api_key: str | None, timeout: float) -> Iterator[Client]:
    """A client. Failures that a user can fix end the command with only their message."""
    try:
        with Client(url, api_key=api_key, timeout=timeout) as client:
            yield client
    except ValueError as error:  # arguments that are wrong for any service
        raise typer.BadParameter(str(error)) from error
    except BrokenPipeError as error:  # nobody reads the output any longer
        abandon_output()
        raise typer.Exit(1) from error
    except (HyperdrawError, OSError) as error:
        show_error(str(error))
        raise typer.Exit(1) from error


def open_stream(stream: TextIO | None) -> BinaryIO:
    """The stream that - stands for."""
    if stream is None:
        raise typer.BadParameter("the stream that - stands for is closed")
    return stream.buffer


def is_stdout(path: str) -> bool:
    """Whether a file is the standard output, so that messages would mix with it."""
    with suppress(OSError, AttributeError):  # a closed standard output is None
        return os.path.samestat(Path(path).stat(), os.fstat(sys.stdout.fileno()))
    return False


def show_error(text: str) -> None:
    """Says what went wrong, on standard error."""
    Console(stderr=True).print(Text(printable(f"Error: {text}"), "red"), soft_wrap=True)


def warn(text: str) -> None:
    """Says something that does not end the command, on standard error."""
    Console(stderr=True).print(Text(printable(f"Warning: {text}"), "yellow"), soft_wrap=True)


def show_json(content: Any, err: bool = False) -> None:
    """Prints one JSON document, on standard output or on standard error."""
    typer.echo(json.dumps(content, default=_simplify), err=err)


def _simplify(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, datetime):
        return value.isoformat()
    return str(value) if isinstance(value, Path) else list(value)  # a range


def make_console() -> Console:
    """Standard output. Unless it is a terminal, lines are never broken."""
    return Console(highlight=False, width=None if sys.stdout and sys.stdout.isatty() else _WIDEST)


def abandon_output() -> None:
    """Drops what could not be written, so that the end of the process does not try again."""
    if sys.stdout is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
