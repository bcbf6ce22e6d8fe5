"""The service's settings: flags of `hyperdraw-serve`, environment variables that begin with HYPERDRAW_, or a file."""

import ipaddress
import json
import os
import socket
import tomllib
from argparse import ArgumentParser
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    CliApp,
    EnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from service.catalog import MODEL_BYTES, ConfigurationError
from service.engine.engine import QUEUE_COST
from service.engine.ensembles import Policy
from service.operation.access import Broken
from service.operation.logs import LogFormat, LogLevel

Count = Annotated[int, Field(gt=0)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


def _check_origin(origin: str) -> str:
    scheme, separator, host = origin.partition("://")
    if origin != "*" and (scheme not in ("http", "https") or not separator or not host or "/" in host):
        raise ValueError("an origin is like https://example.org, without a path")
    return origin.lower()


def _check_host(host: str) -> str:
    if not host or any(character in host for character in "/:@ ") or host != host.strip():
        raise ValueError("a host is like example.org, without scheme and port, or * for any")
    return host.lower()


def _check_network(network: str) -> str:
    try:
        return str(ipaddress.ip_network(network))
    except ValueError as error:
        raise ValueError(f"a proxy is an address or a network like 10.0.0.0/8: {error}") from error


def _split(value: Any) -> Any:
    """A list from text: JSON, or elements between commas; flags, variables and files may all give it so."""
    if not isinstance(value, str):
        return value
    return json.loads(value) if value.lstrip().startswith("[") else [part.strip() for part in value.split(",")]


Origins = Annotated[list[Annotated[str, AfterValidator(_check_origin)]], NoDecode, BeforeValidator(_split)]
Hosts = Annotated[list[Annotated[str, AfterValidator(_check_host)]], NoDecode, BeforeValidator(_split)]
Networks = Annotated[list[Annotated[str, AfterValidator(_check_network)]], NoDecode, BeforeValidator(_split)]


class _Environment(EnvSettingsSource):
    """The environment, without the HYPERDRAW_PORT that Kubernetes sets beside a Service named hyperdraw, an address."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        value, key, is_complex = super().get_field_value(field, field_name)
        if field_name == "port" and str(value).startswith(("tcp://", "udp://", "sctp://")):
            value = None
        return value, key, is_complex


class Settings(BaseSettings):
    """Serve samplers of neural networks over HTTP.

    Each flag can be given as an environment variable instead, --port as HYPERDRAW_PORT and so on, or in a TOML file
    that --config names, there as port. A flag goes before a variable, a variable before the file. For example:

      hyperdraw-serve --checkpoints checkpoints --port 8080
      HYPERDRAW_PORT=8080 hyperdraw-serve
      hyperdraw-serve check --config hyperdraw.toml            prints all settings, and whether they can be served with
      hyperdraw-serve key alice --scopes predict weights       draws a key, and prints its entry for the file of keys

    Then open http://127.0.0.1:8080 for a page to try it, and /docs for the API.
    """

    model_config = SettingsConfigDict(
        env_prefix="HYPERDRAW_",
        env_ignore_empty=True,  # as compose files pass what is not set
        cli_prog_name="hyperdraw-serve",
        cli_kebab_case=True,
        cli_hide_none_type=True,
        cli_implicit_flags=True,
        frozen=True,
    )

    config: Path | None = Field(default=None, description="A TOML file with settings.")

    checkpoints: Path = Field(
        default=Path("checkpoints"), description="A checkpoint, or a directory with one in each subdirectory."
    )
    default_model: str | None = Field(
        default=None, description="The model listed first; without it, the first one in alphabetical order."
    )
    watch: Seconds | None = Field(
        default=None,
        description="Seconds between two looks at the checkpoints: what is new or changed is loaded, what is gone is "
        "served no more. Without it, models are reloaded only when asked.",
    )
    max_model_bytes: Count = Field(default=MODEL_BYTES, description="Memory that all models together may take.")
    device: str = Field(default="auto", description="cpu, cuda, cuda:N, or auto: cuda where there is one, else cpu.")
    freshness: Policy = Field(
        default="batch",
        description="Whether networks are drawn for each request without a seed, for those that run together in a "
        "batch, or for all of an interval; the answer names its seed in any case.",
    )
    freshness_seconds: Seconds = Field(default=60.0, description="Length of an interval.")
    freshness_predictions: Count = Field(
        default=10_000, description="Images, or vectors, after which an interval ends early."
    )

    host: str = Field(
        default="127.0.0.1",
        description="Address to listen on. One that other machines reach wants --keys, or --allow-anonymous.",
    )
    port: int = Field(default=8000, ge=0, le=65535, description="Port to listen on; 0 for any free one.")
    published_host: str | None = Field(
        default=None,
        description="Address that clients reach, where that is not --host, as in a container: it decides whether keys "
        "are wanted.",
    )
    keys: Path | None = Field(default=None, description="A file of API keys' hashes; without it, none are asked for.")
    keys_broken: Broken = Field(
        default="keep",
        description="While the file of keys is gone or cannot be used: keep, the keys that were read before are valid, "
        "or close, none is.",
    )
    allow_anonymous: bool = Field(default=False, description="Serve other machines without keys.")
    open_health: bool = Field(default=True, description="Answer /healthz and /readyz without a key.")
    open_metrics: bool = Field(default=False, description="Answer /metrics without a key.")
    cors_origins: Origins = Field(
        default=[], description="Origins whose pages may use the API from a browser, like https://example.org; none."
    )
    hosts: Hosts = Field(
        default=[],
        description="Names by which clients may call a service without keys, besides those of this machine and "
        "addresses; * for any name.",
    )
    trusted_proxies: Networks = Field(
        default=[],
        description="Addresses and networks of proxies, whose X-Forwarded-For says who the client is; none.",
    )

    max_connections: Count = Field(default=4096, description="Most clients that are connected.")
    header_timeout: Seconds = Field(default=10.0, description="Seconds within which a request's headers must arrive.")
    keep_alive: Annotated[int, Field(gt=0)] = Field(
        default=75, description="Seconds that a connection may be idle between two requests."
    )
    max_body_bytes: Count = Field(default=32 * 2**20, description="Largest request body.")
    max_held_bytes: Count = Field(default=2**29, description="Bytes of bodies that all requests together may hold.")
    body_timeout: Seconds = Field(default=30.0, description="Seconds within which a request body must arrive.")
    max_decompressed_bytes: Count = Field(
        default=64 * 2**20, description="Largest request body after decompression, where bodies may be compressed."
    )
    max_inputs: Count = Field(default=256, description="Most images, or vectors, in a request.")
    max_image_pixels: Count = Field(default=16_000_000, description="Most pixels of an image, by its header.")
    max_request_pixels: Count = Field(
        default=256_000_000, description="Most pixels of all images of a request together."
    )
    max_queue_pixels: Count = Field(
        default=1_024_000_000,
        description="Most pixels that may wait to be decoded; what comes on top is told when to come again.",
    )
    decoders: Count = Field(default=2, description="Processes that decode images.")
    image_timeout: Seconds = Field(default=5.0, description="Seconds that decoding an image may take.")
    max_ensemble_size: Count = Field(default=1000, description="Most networks in an ensemble or a download.")
    max_queue: Count = Field(
        default=QUEUE_COST,
        description="Most images × networks that may wait; what comes on top is told when to come again.",
    )
    request_timeout: Seconds = Field(
        default=60.0, description="Seconds that a prediction may take; a request may ask for fewer."
    )
    max_weights_bytes: Count = Field(default=16 * 2**30, description="Largest download of weights.")
    max_streams: Count = Field(default=16, description="Most downloads of weights at a time.")
    stall_timeout: Seconds = Field(
        default=60.0, description="Seconds that a client may take to accept a part of a download."
    )

    drain_delay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
        default=0.0,
        description="Seconds, after SIGTERM, of not being ready but serving on, for load balancers to take note.",
    )
    drain_timeout: Count = Field(
        default=30, description="Seconds, after that, within which requests in flight must be answered."
    )

    log_format: LogFormat | None = Field(
        default=None, description="json, a line for each event, or console; if not given, console on a terminal."
    )
    log_level: LogLevel = Field(default="info", description="The least that is logged.")
    otlp_endpoint: str | None = Field(
        default=None,
        description="Collector that traces go to by OTLP over HTTP, such as http://127.0.0.1:4318; without it, "
        "the one in OTEL_EXPORTER_OTLP_ENDPOINT, or nowhere.",
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """What goes before what, apart from flags, which go before all."""
        return init_settings, _Environment(settings_cls), TomlConfigSettingsSource(settings_cls)

    def check_exposure(self) -> None:
        """Whether the service may be reached by whoever will reach it.

        Raises:
            ConfigurationError: if other machines would be served without keys, and nobody has said so.
        """
        host = self.published_host or self.host
        if self.keys is None and not self.allow_anonymous and not _is_loopback(host):
            raise ConfigurationError(
                f"{host} can be reached by other machines, and there are no keys: name a file of them with --keys "
                "(hyperdraw-serve key makes them), or serve everybody with --allow-anonymous"
            )

    def describe(self) -> str:
        """All settings, as a file for `--config`."""
        values = self.model_dump(mode="json", exclude={"config"})
        return "\n".join(
            f"# {name} is not set" if value is None else f"{name} = {json.dumps(value)}"
            for name, value in values.items()
        )


def read_settings(arguments: list[str]) -> Settings:
    """Settings from flags, the environment and the file that one of them names.

    Raises:
        ConfigurationError: if the file cannot be read.
        ValidationError: if a setting is not valid.
    """
    parser = ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config", type=Path, default=os.environ.get("HYPERDRAW_CONFIG") or None)
    path = parser.parse_known_args(arguments)[0].config
    if path is not None:
        try:
            tomllib.loads(Path(path).read_text())
        except OSError as error:
            raise ConfigurationError(f"the file of settings {path} cannot be read: {error.strerror}") from error
        except ValueError as error:
            raise ConfigurationError(f"the file of settings {path} is no TOML: {error}") from error

    class ConfiguredSettings(Settings):
        __doc__ = Settings.__doc__
        model_config = SettingsConfigDict(toml_file=path)

    try:
        return CliApp.run(ConfiguredSettings, cli_args=arguments)
    except SettingsError as error:
        raise ConfigurationError(f"invalid settings: {error}") from error


def _is_loopback(host: str) -> bool:
    """Whether a name or address leads to this machine alone."""
    try:
        found = socket.getaddrinfo(host, None)
    except OSError:
        return False
    return all(ipaddress.ip_address(str(address[0]).partition("%")[0]).is_loopback for *_, address in found)
