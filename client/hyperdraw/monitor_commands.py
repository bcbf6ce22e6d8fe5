"""The command that tells whether a model's inputs have changed."""

import dataclasses
from typing import Annotated

import typer

from hyperdraw.client import TIMEOUT
from hyperdraw.commands import (
    LOCAL,
    DefaultModelArgument,
    JSONOption,
    KeyOption,
    TimeoutOption,
    UrlOption,
    make_console,
    open_client,
    show_json,
)
from hyperdraw.monitor_terminal import show_monitor


def monitor_command(
    model: DefaultModelArgument = None,
    reset: Annotated[bool, typer.Option("--reset", help="Begin the watch anew, and forget its alarms.")] = False,
    url: UrlOption = LOCAL,
    api_key: KeyOption = None,
    timeout: TimeoutOption = TIMEOUT,
    as_json: JSONOption = False,
) -> None:
    """Tell whether the inputs of a model have changed, how many are flagged, and which classes are predicted."""
    if reset and model is None:
        raise typer.BadParameter("--reset needs the name of a model")
    with open_client(url, api_key, timeout) as client:
        known = client.reset_monitor(model) if reset and model else client.monitor(model)
    if as_json:
        show_json(dataclasses.asdict(known))
    else:
        show_monitor(make_console(), known)
