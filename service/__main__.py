"""The command line of the service: `hyperdraw-serve`, also `python -m service`."""

import errno
import logging
import socket
import sys
from argparse import ArgumentParser
from collections.abc import Iterator
from typing import get_args

from pydantic import ValidationError

from models.device import DeviceError, choose_device
from models.memory import keep_freed_memory
from service.app import create_app
from service.catalog import ConfigurationError
from service.decoding.pool import DecoderError
from service.operation.access import KeyFileError, Scope, create_key
from service.operation.logs import configure_logs
from service.operation.server import Server
from service.settings import Settings, read_settings

FAULT = 70
"""The exit status when the device computes no more: an internal error, by sysexits.h."""

OTHER_DESCRIPTORS = 256
"""Open files beside clients' connections: checkpoints that are loaded, decoders' pipes, logs, traces."""

logger = logging.getLogger(__name__)


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
        sys.exit("\n".join(f"hyperdraw-serve: invalid settings: {problem}" for problem in _describe(error)))
    except (ConfigurationError, DecoderError, DeviceError, KeyFileError) as error:
        sys.exit(f"hyperdraw-serve: {error}")


def serve(settings: Settings) -> None:
    """Loads the models, and serves until it is stopped, or until the device computes no more.

    Raises:
        ConfigurationError, DecoderError, DeviceError, KeyFileError: if it cannot.
    """
    check_address(settings.host, settings.port)
    keep_freed_memory()
    configure_logs(settings.log_format, settings.log_level)
    settings = limit_connections(settings)
    app = create_app(settings)
    Server(app, settings).run()
    if app.state.engine.fault:
        sys.exit(FAULT)


def _describe(error: ValidationError) -> Iterator[str]:
    for problem in error.errors(include_url=False):
        where = ".".join(map(str, problem["loc"]))
        yield f"{where}: {problem['msg']} (got {str(problem['input'])[:100]!r})"


def limit_connections(settings: Settings) -> Settings:
    """Settings with no more connections than descriptors suffice for. The soft limit of `ulimit -n` is raised for them
    as far as it may be.

    Raises:
        ConfigurationError: if they suffice for none.
    """
    if sys.platform == "win32":  # which has no such limit
        return settings
    import resource

    wanted = settings.max_connections + OTHER_DESCRIPTORS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft >= wanted:
        return settings
    most = soft - OTHER_DESCRIPTORS
    if most < 1:
        raise ConfigurationError(f"a process may have {soft} open files, and needs {wanted}: raise ulimit -n")
    message = "at most %d clients can be connected, not %d, as a process may have %d open files: raise ulimit -n to %d"
    logger.warning(message, most, settings.max_connections, soft, wanted)
    return settings.model_copy(update={"max_connections": most})


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
        ConfigurationError, DecoderError, DeviceError, KeyFileError: if not.
    """
    print(settings.describe(), flush=True)
    app = create_app(settings)
    app.state.engine.close()
    app.state.decoder.close()
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
