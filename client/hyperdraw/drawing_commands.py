"""The command for models that draw."""

import dataclasses
import sys
from collections.abc import Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from hyperdraw.braille import ASCII_CELL, CELL, rasterize, write_ascii, write_braille
from hyperdraw.client import TIMEOUT
from hyperdraw.commands import (
    LOCAL,
    DrawSeedOption,
    JSONOption,
    KeyOption,
    TimeoutOption,
    UrlOption,
    is_stdout,
    make_console,
    open_client,
    open_stream,
    show_json,
)
from hyperdraw.drawings import Drawing, DrawingImages, Drawings, Style
from hyperdraw.files import replace_file
from hyperdraw.terminal import printable
from hyperdraw.text_terminal import show_origin

_WIDTH = 80
"""Columns of an output that is not a terminal."""

_COLUMNS = 24
"""Columns of a drawing."""

_GAP = 2
"""Columns between two drawings."""


def draw_command(
    model: Annotated[str, typer.Argument(help="Name of a model that draws.", show_default=False)],
    out: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Write an SVG file instead. Several drawings get numbered files. A single - is standard output.",
        ),
    ] = None,
    drawings: Annotated[int, typer.Option(min=1, help="Number of drawings, at most 12.")] = 1,
    temperature: Annotated[float, typer.Option(min=0, help="Less than 1 is more careful.")] = 1.0,
    seed: DrawSeedOption = None,
    style: Annotated[
        Style | None,
        typer.Option(
            help="Of an SVG: smooth curves, or lines in mm for plotters.", show_default="smooth", show_choices=True
        ),
    ] = None,
    url: UrlOption = LOCAL,
    api_key: KeyOption = None,
    timeout: TimeoutOption = TIMEOUT,
    as_json: JSONOption = False,
) -> None:
    """Draw, and show the drawings in braille, side by side as far as there is room.

    Below each drawing stand the number of its points and its surprisal. A terminal whose encoding lacks braille shows
    dots and colons.
    """
    if style and out is None:
        raise typer.BadParameter("--style is for the file of --out")
    if out == "-" and drawings > 1:
        raise typer.BadParameter("standard output takes one drawing; give the name of a file for several")
    with open_client(url, api_key, timeout) as client:
        if out is not None:
            images = client.draw_svg(
                model, style=style or "smooth", drawings=drawings, temperature=temperature, seed=seed
            )
            _write_images(out, images, as_json)
            return
        answer = client.draw(model, drawings=drawings, temperature=temperature, seed=seed)
        if as_json:
            show_json(dataclasses.asdict(answer))
        else:
            show_drawings(make_console(), answer)


def show_drawings(console: Console, answer: Drawings) -> None:
    """Shows drawings, each with its points and its surprisal below it, and which networks drew."""
    width = console.width if console.is_terminal else _WIDTH
    columns = min(_COLUMNS, width)
    side_by_side = max(1, (width + _GAP) // (columns + _GAP))
    for first in range(0, len(answer.drawings), side_by_side):
        shown = answer.drawings[first : first + side_by_side]
        lines = zip(*(_write_drawing(drawing, columns, console.options.ascii_only) for drawing in shown), strict=True)
        for line in filter(None, map(_join, lines)):
            console.print(Text(line), soft_wrap=True)
        captions = (f"{len(drawing.whole)} points, {drawing.nats.sum():.1f} nats".ljust(columns) for drawing in shown)
        console.print(Text(_join(captions), "dim"), soft_wrap=True)
    show_origin(console, answer.model, answer.members, answer.seed)


def _write_drawing(drawing: Drawing, columns: int, ascii_only: bool) -> list[str]:
    """Lines of characters, half as many as columns, because characters are about twice as high as wide."""
    (high, wide), write = (ASCII_CELL, write_ascii) if ascii_only else (CELL, write_braille)
    return write(rasterize(drawing.list_strokes(), max(1, columns // 2) * high, columns * wide))


def _join(parts: Iterable[str]) -> str:
    return (" " * _GAP).join(parts).rstrip()


def _write_images(out: str, answer: DrawingImages, as_json: bool) -> None:
    """Writes the SVG of each drawing into a file of its own, and says so."""
    path, count = Path(out), len(answer.images)
    paths = [path] if count == 1 else [path.with_stem(f"{path.stem}-{k}") for k in range(1, count + 1)]
    mixed = out == "-" or is_stdout(out)
    for name, image in zip(paths, answer.images, strict=True):
        with nullcontext(open_stream(sys.stdout)) if out == "-" else replace_file(name) as file:
            file.write(image.encode())
    if as_json:
        show_json({"files": paths, "model": answer.model, "version": answer.version, "seed": answer.seed}, err=mixed)
        return
    place = "standard output" if out == "-" else f"{paths[0]} to {paths[-1]}" if count > 1 else out
    drawings = "1 drawing" if count == 1 else f"{count} drawings"
    typer.echo(
        printable(f"Wrote {place}: {drawings} of {answer.model} at version {answer.version}, seed {answer.seed}."),
        err=mixed,
    )
