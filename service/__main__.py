"""The command line of the service: `hyperdraw-serve`, also `python -m service`."""

import errno
import inspect
import json
import logging
import socket
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, get_args

import typer
from pydantic import ValidationError

from models.device import DeviceError
from models.memory import keep_freed_memory
from models.processors import choose_threads
from service.app import create_app
from service.catalog import ConfigurationError
from service.decoding.pool import DecoderError
from service.operation.access import KeyFileError, KeyScope, create_key
from service.operation.logs import configure_logs
from service.operation.server import Server
from service.settings import SECRETS, Settings, read_settings

FAULT = 70
"""Exit status after the device stopped responding: an internal error, by sysexits.h."""

OTHER_DESCRIPTORS = 256
"""Number of open files besides connections: checkpoints being loaded, pipes of decoders, logs, traces."""

SCOPES = ", ".join(get_args(KeyScope))

logger = logging.getLogger(__name__)


app = typer.Typer(
    name="hyperdraw-serve",
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help=(
        "Serve samplers of neural networks over HTTP.\n\n"
        "Each flag can also be an environment variable, `--port` as `HYPERDRAW_PORT`, or a line of the TOML file that "
        "`--config` names, `port = 8080`. Flags override environment variables, which override the file.\n\n"
        "A first try: `hyperdraw-serve`, then open <http://127.0.0.1:8000> for the page, and `/docs` there for the API."
    ),
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"hyperdraw-serve {version('hyperdraw-server')}")
        raise typer.Exit


def _take_settings(command: Callable[..., None]) -> Callable[..., None]:
    """Replaces a command's `**flags` by a flag for each setting.

    The command gets flags as text, so that they are validated like variables and files.
    """
    own = inspect.signature(command)
    schemas = Settings.model_json_schema()["properties"]
    flags = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=_make_flag(name, schema))
        for name, schema in schemas.items()
    ]
    kept = [parameter for parameter in own.parameters.values() if parameter.kind is not inspect.Parameter.VAR_KEYWORD]
    vars(command)["__signature__"] = own.replace(parameters=[*kept, *flags])
    command.__annotations__ |= {flag.name: flag.annotation for flag in flags}
    return command


def _make_flag(name: str, schema: dict[str, Any]) -> Any:
    """The annotation of a setting's flag."""
    kind: dict[str, Any] = schema.get("anyOf", [schema])[0]  # the others are null
    names = [f"--{name.replace('_', '-')}"]
    default = schema["default"]
    shown = False if default in (None, []) else default if isinstance(default, str) else json.dumps(default)
    if kind["type"] == "boolean":
        names = [f"{names[0]}/--no-{names[0][2:]}"]
        return Annotated[bool | None, typer.Option(*names, help=schema["description"], show_default=shown)]
    metavar = "|".join(kind["enum"]) if "enum" in kind else kind.get("format", kind["type"]).upper()
    metavar = "FILE|URL" if metavar == "PASSWORD" else metavar  # a place that may hold one
    option = typer.Option(*names, help=schema["description"], show_default=shown, metavar=metavar)
    return Annotated[list[str] | None, option] if kind["type"] == "array" else Annotated[str | None, option]


@app.callback(invoke_without_command=True)
@_take_settings
def serve_command(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
    **flags: Any,
) -> None:
    """Serves until it is stopped."""
    if context.invoked_subcommand is None:
        serve(read_settings(flags))
    elif any(value not in (None, []) for value in flags.values()):
        raise typer.BadParameter(f"write the flags after {context.invoked_subcommand}")


@app.command("check")
@_take_settings
def check_command(**flags: Any) -> None:
    """Print all settings as a file for `--config`, and load the models once to see if they can be served."""
    check(read_settings(flags))


@app.command("key")
def key_command(
    name: Annotated[str, typer.Argument(help="Holder of the key: letters, digits, - and _.")],
    scopes: Annotated[
        list[str] | None,
        typer.Option(metavar="SCOPE…", help=f"What the key allows: {SCOPES}.", show_default="predict weights"),
    ] = None,
    more_scopes: Annotated[list[str] | None, typer.Argument(metavar="SCOPE", hidden=True)] = None,
) -> None:
    """Generate an API key. Prints the key on standard error, and its entry for the key file on standard output."""
    if not name.replace("-", "").replace("_", "").isalnum() or not name.isascii():
        raise typer.BadParameter(f"a name may have only letters, digits, - and _, unlike {name!r}")
    asked = [*(scopes or ()), *(more_scopes or ())] or ["predict", "weights"]
    if unknown := set(asked) - set(get_args(KeyScope)):
        raise typer.BadParameter(f"a scope is one of {SCOPES}, not {', '.join(sorted(unknown))}")
    key, entry = create_key(name, [scope for scope in get_args(KeyScope) if scope in asked])
    typer.echo(entry)
    typer.echo(f"The key of {name}, which is stored nowhere: {key}", err=True)


def main() -> None:
    """Runs the command line, and exits the process."""
    try:
        app(prog_name="hyperdraw-serve")
    except ValidationError as error:
        sys.exit("\n".join(f"hyperdraw-serve: invalid settings: {problem}" for problem in _describe(error)))
    except (ConfigurationError, DecoderError, DeviceError, KeyFileError) as error:
        sys.exit(f"hyperdraw-serve: {error}")


def serve(settings: Settings) -> None:
    """Loads the models, and serves until stopped, or until the device stops responding.

    Raises:
        ConfigurationError, DecoderError, DeviceError, KeyFileError: if it cannot serve with these settings.
    """
    if settings.socket is None:
        check_address(settings.host, settings.port)
    else:
        check_socket(settings.socket)
    server = Server
    if settings.grpc_port is not None:
        if settings.grpc_port == settings.port != 0 and settings.socket is None:
            raise ConfigurationError(f"--port and --grpc-port are both {settings.port}; choose another --grpc-port")
        check_address(settings.host, settings.grpc_port, "--grpc-port")
        try:
            from service.open_inference.rpcs import RpcServer as server  # noqa: N813
        except ModuleNotFoundError as error:
            raise ConfigurationError("gRPC is not installed: pip install 'hyperdraw-server[grpc]'") from error
    keep_freed_memory()
    choose_threads(settings.threads)
    configure_logs(settings.log_format, settings.log_level)
    settings = limit_connections(settings)
    app = create_app(settings)
    server(app, settings).run()
    if app.state.engine.fault:
        sys.exit(FAULT)


def _describe(error: ValidationError) -> Iterator[str]:
    for problem in error.errors(include_url=False):
        where = ".".join(map(str, problem["loc"]))
        given = "" if where in SECRETS else f" (got {str(problem['input'])[:100]!r})"
        yield f"{where}: {problem['msg'].removeprefix('Value error, ')}{given}"


def limit_connections(settings: Settings) -> Settings:
    """Limits the connections in the settings to the available file descriptors.

    The soft limit of `ulimit -n` is raised as far as necessary and allowed.

    Raises:
        ConfigurationError: if no file descriptor is left for connections.
    """
    if sys.platform == "win32":  # which has no such limit
        return settings
    import resource

    kinds = 1 if settings.grpc_port is None else 2
    wanted = kinds * settings.max_connections + OTHER_DESCRIPTORS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft >= wanted:
        return settings
    most = (soft - OTHER_DESCRIPTORS) // kinds
    if most < 1:
        raise ConfigurationError(f"a process may have only {soft} open files; raise ulimit -n to {wanted}")
    message = "only %d connections can be open, not %d, as a process may have %d open files; raise ulimit -n to %d"
    logger.warning(message, most, settings.max_connections, soft, wanted)
    return settings.model_copy(update={"max_connections": most})


def check_address(host: str, port: int, flag: str = "--port") -> None:
    """Checks that the service can listen on an address, before models are loaded.

    Raises:
        ConfigurationError: if it cannot.
    """
    try:
        for family, kind, protocol, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
            with socket.socket(family, kind, protocol) as listener:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listener.bind(address)
    except OSError as error:
        taken = error.errno == errno.EADDRINUSE
        hint = f"Stop the other program, or choose another {flag}." if taken else f"Choose another --host or {flag}."
        raise ConfigurationError(f"cannot listen on {host}, port {port}: {error.strerror}. {hint}") from error


def check_socket(path: Path) -> None:
    """Checks that the service can listen on a Unix socket, before models are loaded.

    Raises:
        ConfigurationError: if it cannot.
    """
    hint = "Stop the other program, or choose another --socket."
    with socket.socket(socket.AF_UNIX) as caller:
        try:
            caller.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError):  # nobody listens
            taken = path.exists() and not path.is_socket()
        except OSError as error:
            raise ConfigurationError(f"cannot listen on {path}: {error.strerror or error}") from error
        else:
            taken = True
    if taken:
        raise ConfigurationError(f"cannot listen on {path}: it is in use. {hint}")
    if not path.parent.is_dir():
        raise ConfigurationError(f"cannot listen on {path}: its folder does not exist")


def check(settings: Settings) -> None:
    """Prints all settings as a file for `--config`, and loads the models once.

    Raises:
        ConfigurationError, DecoderError, DeviceError, KeyFileError: if the service could not start.
    """
    print(settings.describe(), flush=True)
    app = create_app(settings)
    app.state.engine.close()
    app.state.decoder.close()
    if app.state.log:
        app.state.log.close()
    if app.state.feedback:
        app.state.feedback.close()
    names = ", ".join(model.name for model in app.state.catalog)
    print(f"# device {app.state.engine.device}, {app.state.engine.precision}, models {names}")
    for name, reason in app.state.catalog.refused.items():
        print(f"# {name} is refused: {reason}")


if __name__ == "__main__":
    main()
