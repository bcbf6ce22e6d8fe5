"""The command line of the service: `hyperdraw-serve`, also `python -m service`."""

import errno
import socket
import sys
from argparse import ArgumentParser
from typing import get_args

from pydantic import ValidationError

from models.device import DeviceError, choose_device
from models.memory import keep_freed_memory
from service.access import KeyFileError, Scope, create_key
from service.app import create_app
from service.catalog import ConfigurationError
from service.logs import configure_logs
from service.server import Server
from service.settings import Settings, read_settings

FAULT = 70
"""The exit status when the device computes no more: an internal error, by sysexits.h."""


def main() -> None:
    """Serves until it is stopped, or does what its first argument says."""
    arguments = sys.argv[1:]
    try:
        match arguments:
            case ["check", *flags]:
                check(read_settings(flags))
            case ["key", *flags]:
                make_key(flags)
            case _:
                serve(read_settings(arguments))
    except ValidationError as error:
        sys.exit(f"hyperdraw-serve: invalid settings: {error}")
    except (ConfigurationError, DeviceError, KeyFileError) as error:
        sys.exit(f"hyperdraw-serve: {error}")


def serve(settings: Settings) -> None:
    """Loads the models, and serves until it is stopped, or until the device computes no more.

    Raises:
        ConfigurationError, DeviceError, KeyFileError: if it cannot.
    """
    check_address(settings.host, settings.port)
    keep_freed_memory()
    configure_logs(settings.log_format, settings.log_level)
    app = create_app(settings)
    Server(app, settings).run()
    if app.state.engine.fault:
        sys.exit(FAULT)


def check_address(host: str, port: int) -> None:
    """Whether one can listen there, which is better known before models are loaded.

    Raises:
        ConfigurationError: if not.
    """
    try:
        for family, kind, protocol, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
            with socket.socket(family, kind, protocol) as listener:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listener.bind(address)
    except OSError as error:
        hint = "Stop what does, or choose another --port." if error.errno == errno.EADDRINUSE else "Choose another."
        raise ConfigurationError(f"cannot listen on {host}, port {port}: {error.strerror}. {hint}") from error


def check(settings: Settings) -> None:
    """Prints all settings as a file for `--config`, and tries whether they can be served with, which loads the models.

    Raises:
        ConfigurationError, DeviceError, KeyFileError: if not.
    """
    print(settings.describe(), flush=True)
    app = create_app(settings)
    app.state.engine.close()
    names = ", ".join(checkpoint.name for checkpoint in app.state.catalog)
    print(f"# device {choose_device(settings.device)}, models {names}")
    for name, reason in app.state.catalog.refused.items():
        print(f"# {name} is refused: {reason}")


def make_key(arguments: list[str]) -> None:
    """Prints a fresh key on the standard error, for its holder, and its entry on the standard output, for the file."""
    parser = ArgumentParser("hyperdraw-serve key", description="Draws an API key.")
    parser.add_argument("name", help="whose key it is; letters, digits, - and _")
    parser.add_argument("--scopes", nargs="+", choices=get_args(Scope), default=["predict", "weights"])
    chosen = parser.parse_args(arguments)
    if not chosen.name.replace("-", "").replace("_", "").isalnum() or not chosen.name.isascii():
        parser.error(f"{chosen.name!r} is no name of letters, digits, - and _")
    key, entry = create_key(chosen.name, chosen.scopes)
    print(entry)
    print(f"The key of {chosen.name}, which is stored nowhere: {key}", file=sys.stderr)


if __name__ == "__main__":
    main()
