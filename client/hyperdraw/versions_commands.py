"""The commands about a model's versions."""

import dataclasses
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from hyperdraw.client import TIMEOUT
from hyperdraw.commands import (
    LOCAL,
    DefaultModelArgument,
    JSONOption,
    KeyOption,
    ModelArgument,
    TimeoutOption,
    UrlOption,
    make_console,
    open_client,
    show_json,
)
from hyperdraw.terminal import printable
from hyperdraw.versions import Traffic


def traffic_command(
    model: DefaultModelArgument = None,
    candidate: Annotated[
        str | None,
        typer.Option(metavar="FOLDER", help="Make the version in this folder of the model's folder the candidate."),
    ] = None,
    no_candidate: Annotated[bool, typer.Option("--no-candidate", help="Serve the candidate no longer.")] = False,
    share: Annotated[
        float | None, typer.Option(min=0, max=1, help="Share of the clients to whom the candidate answers.")
    ] = None,
    shadow: Annotated[
        bool | None,
        typer.Option(
            "--shadow/--no-shadow", help="Ask the candidate, in idle time, what the stable version has answered."
        ),
    ] = None,
    url: UrlOption = LOCAL,
    api_key: KeyOption = None,
    timeout: TimeoutOption = TIMEOUT,
    as_json: JSONOption = False,
) -> None:
    """Show the versions of a model and how requests are divided among them, or change that."""
    changes = no_candidate or (candidate, share, shadow) != (None, None, None)
    if changes and model is None:
        raise typer.BadParameter("name the model whose traffic shall change")
    if no_candidate and candidate is not None:
        raise typer.BadParameter("give either --candidate or --no-candidate")
    with open_client(url, api_key, timeout) as client:
        if model is None or not changes:
            found = client.traffic(model)
        else:
            named = "" if no_candidate else candidate
            found = client.change_traffic(model, candidate=named, share=share, shadow=shadow)
    _show(found, as_json)


def promote_command(
    model: ModelArgument,
    url: UrlOption = LOCAL,
    api_key: KeyOption = None,
    timeout: TimeoutOption = TIMEOUT,
    as_json: JSONOption = False,
) -> None:
    """Let a model's candidate take the place of its stable version."""
    with open_client(url, api_key, timeout) as client:
        found = client.promote(model)
    _show(found, as_json)


def rollback_command(
    model: ModelArgument,
    url: UrlOption = LOCAL,
    api_key: KeyOption = None,
    timeout: TimeoutOption = TIMEOUT,
    as_json: JSONOption = False,
) -> None:
    """Take back the last promotion of a model."""
    with open_client(url, api_key, timeout) as client:
        found = client.roll_back(model)
    _show(found, as_json)


def _show(traffic: Traffic, as_json: bool) -> None:
    if as_json:
        show_json(dataclasses.asdict(traffic))
    else:
        _show_traffic(make_console(), traffic)


def _show_traffic(console: Console, traffic: Traffic) -> None:
    table = Table(traffic.name, "folder", "version", box=None, pad_edge=False)
    for name, own in traffic.versions.items():
        cells = name, own.folder, "not loaded" if own.version is None else own.version[:12]
        table.add_row(*(Text(printable(cell)) for cell in cells))
    console.print(table)
    candidate = traffic.versions.get("candidate")
    if candidate is not None and candidate.version is None:
        reason = f": {candidate.reason}" if candidate.reason else "."
        text = f"The stable version answers all clients, because the candidate is not loaded{reason}"
        console.print(Text(printable(text)))
    elif candidate is not None:
        shadow = " It shadows the stable version." if traffic.shadow else ""
        console.print(f"The candidate answers {traffic.share:.1%} of the clients.{shadow}")
    if (found := traffic.comparison) is not None:
        lost = f"{found.dropped} requests were dropped, {found.failed} failed"
        text = f"{found.candidate[:12]} beside {found.stable[:12]}: {found.inputs} inputs compared; {lost}."
        console.print(Text(printable(text), "dim"))
        for about, count in found.disagreements.items():
            share = f" ({count / found.inputs:.1%})" if found.inputs else ""
            console.print(Text(printable(f"  another {about.replace('_', ' ')}: {count}{share}")))
