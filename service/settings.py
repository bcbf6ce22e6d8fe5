"""The service's settings: flags of `hyperdraw-serve`, environment variables beginning with HYPERDRAW_, or a file."""

import ipaddress
import json
import os
import re
import socket
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
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
from service.engine.streams import MOST_LIVE_ELEMENTS, MOST_LIVE_NETWORKS

SECRETS = ("feedback", "prediction_log", "quota_store")
"""Settings whose values may hold a password, if they are addresses."""

Broken = Literal["keep", "close"]
"""What happens to the keys while their file cannot be used."""

LogFormat = Literal["json", "console"]
LogLevel = Literal["debug", "info", "warning", "error"]

Count = Annotated[int, Field(gt=0)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


def _check_origin(origin: str) -> str:
    scheme, separator, host = origin.partition("://")
    if origin != "*" and (scheme not in ("http", "https") or not separator or not host or "/" in host):
        raise ValueError("an origin must be like https://example.org, without a path")
    return origin.lower()


def _check_root(path: str) -> str:
    if path and (not re.fullmatch(r"(/[A-Za-z0-9._~-]+)+/?", path) or "/." in path):
        raise ValueError("a path must be like /ml/hyperdraw")
    return path.removesuffix("/")


def _check_host(host: str) -> str:
    if not host or any(character in host for character in "/:@ ") or host != host.strip():
        raise ValueError("a host must be like example.org, without scheme and port, or * for any")
    return host.lower()


def _check_network(network: str) -> str:
    try:
        return str(ipaddress.ip_network(network))
    except ValueError as error:
        raise ValueError(f"a proxy must be an address or a network like 10.0.0.0/8: {error}") from error


def _check_destination(destination: SecretStr) -> SecretStr:
    address = destination.get_secret_value()
    scheme, separator, rest = address.partition("://")
    if separator and (scheme not in ("http", "https") or not urlsplit(address).hostname or " " in rest):
        raise ValueError("it must be a folder, or an address like https://example.org/events")
    return destination


def _split(value: Any) -> Any:
    """Splits text into a list: JSON, or elements between commas. Flags, variables and files may all use both forms."""
    if isinstance(value, list | tuple):  # a flag may be repeated
        return [part for element in value for part in (_split(element) if isinstance(element, str) else [element])]
    if not isinstance(value, str):
        return value
    return json.loads(value) if value.lstrip().startswith("[") else [part.strip() for part in value.split(",")]


Origins = Annotated[list[Annotated[str, AfterValidator(_check_origin)]], NoDecode, BeforeValidator(_split)]
Hosts = Annotated[list[Annotated[str, AfterValidator(_check_host)]], NoDecode, BeforeValidator(_split)]
Networks = Annotated[list[Annotated[str, AfterValidator(_check_network)]], NoDecode, BeforeValidator(_split)]


class _Environment(EnvSettingsSource):
    """The environment, without the ports that Kubernetes sets for Services named hyperdraw and hyperdraw-grpc."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        value, key, is_complex = super().get_field_value(field, field_name)
        if field_name in ("port", "grpc_port") and str(value).startswith(("tcp://", "udp://", "sctp://")):
            value = None
        return value, key, is_complex


class Settings(BaseSettings):
    """Settings for the operator. `hyperdraw-serve --help` shows the descriptions."""

    model_config = SettingsConfigDict(
        env_prefix="HYPERDRAW_",
        env_ignore_empty=True,  # compose files pass unset variables as empty
        frozen=True,
    )

    config: Path | None = Field(default=None, description="A TOML file with settings.")

    checkpoints: Path = Field(
        default=Path("checkpoints"), description="A model, or a directory with one in each subdirectory."
    )
    default_model: str | None = Field(
        default=None, description="The model to list first; by default the first one in alphabetical order."
    )
    watch: Seconds | None = Field(
        default=None,
        description="Seconds between two checks of the checkpoints for changes. New and changed ones are loaded, and "
        "removed ones are no longer served. Without it, models are reloaded only on request.",
    )
    max_model_bytes: Count = Field(default=MODEL_BYTES, description="Most memory for all models together, in bytes.")
    device: str = Field(default="auto", description="cpu, cuda, cuda:N, or auto: cuda if available, otherwise cpu.")
    threads: Count | None = Field(
        default=None,
        description="Threads that compute together on the CPU; by default as many as PyTorch would use, but no more "
        "than the processors that the process may run on, and than its container's share of their time.",
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        default="auto",
        description="Precision of the networks that answer for images, and of their products; auto: bfloat16 if the "
        "device multiplies it, otherwise float32. All else is in float32. Every answer names its precision.",
    )
    freshness: Policy = Field(
        default="batch",
        description="How long networks answer requests without a seed: for one request, for a batch of requests that "
        "run together, or for an interval. Every answer names its seed.",
    )
    freshness_seconds: Seconds = Field(default=60.0, description="Length of an interval.")
    freshness_predictions: Count = Field(
        default=10_000, description="Number of inputs after which an interval ends early."
    )

    host: str = Field(
        default="127.0.0.1",
        description="Address to listen on. One that other machines can reach needs --keys or --allow-anonymous.",
    )
    port: int = Field(default=8000, ge=0, le=65535, description="Port to listen on; 0 for any free one.")
    socket: Path | None = Field(
        default=None,
        description="Unix socket to listen on, instead of --host and --port. Every program that may open it is trusted "
        "as a proxy is.",
    )
    grpc_port: Annotated[int, Field(ge=0, le=65535)] | None = Field(
        default=None, description="Port on --host for the Open Inference Protocol over gRPC; 0 for any free one."
    )
    root_path: Annotated[str, AfterValidator(_check_root)] = Field(
        default="",
        description="Path at which a proxy serves the service, such as /ml/hyperdraw. It must remove it.",
    )
    published_host: str | None = Field(
        default=None,
        description="Address at which clients reach the service, if it differs from --host, as in a container. It "
        "decides whether keys are required.",
    )
    keys: Path | None = Field(default=None, description="A file with hashes of API keys. Without it, none is required.")
    keys_broken: Broken = Field(
        default="keep",
        description="What happens while the key file is missing or invalid. keep: the last valid keys still count. "
        "close: every request is refused.",
    )
    quota_store: SecretStr | None = Field(
        default=None,
        description="URL of a server of Redis or Valkey where several services count what keys have used, such as "
        "redis://host:6379. Without it, each counts for itself.",
    )
    allow_anonymous: bool = Field(default=False, description="Serve other machines without keys.")
    open_health: bool = Field(default=True, description="Answer /healthz and /readyz without a key.")
    open_metrics: bool = Field(default=False, description="Answer /metrics without a key.")
    cors_origins: Origins = Field(
        default=[], description="Origins whose pages may use the API from a browser, such as https://example.org."
    )
    hosts: Hosts = Field(
        default=[],
        description="Names by which clients may call a service without keys, besides addresses and this machine's own "
        "names; * for any name.",
    )
    trusted_proxies: Networks = Field(
        default=[],
        description="Addresses and networks of proxies whose X-Forwarded-For names the client.",
    )

    max_connections: Count = Field(default=4096, description="Most open connections.")
    header_timeout: Seconds = Field(default=10.0, description="Seconds within which a request's headers must arrive.")
    keep_alive: Annotated[int, Field(gt=0)] = Field(
        default=75, description="Most seconds that a connection may be idle between two requests."
    )
    max_body_bytes: Count = Field(default=32 * 2**20, description="Largest request body, in bytes.")
    max_held_bytes: Count = Field(default=2**29, description="Most bytes of request bodies in memory at once.")
    body_timeout: Seconds = Field(default=30.0, description="Seconds within which a request body must arrive.")
    max_decompressed_bytes: Count = Field(
        default=64 * 2**20, description="Largest request body after decompression, in bytes."
    )
    max_inputs: Count = Field(default=256, description="Most inputs in a request.")
    max_image_pixels: Count = Field(
        default=25_000_000,
        description="Most pixels of an image. A JPEG may have twice as many, WebP and AVIF three quarters of them, and "
        "an image with 16 bits per channel half of them.",
    )
    max_request_pixels: Count = Field(
        default=256_000_000, description="Most pixels of all images in a request; a JPEG's count half."
    )
    max_queue_pixels: Count = Field(
        default=1_024_000_000,
        description="Most pixels that may wait to be decoded. Excess requests get 429 with Retry-After.",
    )
    decoders: Count = Field(default=2, description="Number of processes that decode images.")
    image_timeout: Seconds = Field(default=5.0, description="Most seconds to decode an image.")
    default_ensemble_size: Literal["full", "auto"] = Field(
        default="full",
        description="Networks that answer if a request names no number. full: as many as the model was evaluated with. "
        "auto: as many of those as each input needs, if the model was calibrated for that.",
    )
    max_ensemble_size: Count = Field(default=1000, description="Most networks in an ensemble or a download.")
    max_queue: Count = Field(
        default=QUEUE_COST,
        description="Most inputs × networks that may wait. Excess requests get 429 with Retry-After.",
    )
    max_live_networks: Count = Field(
        default=MOST_LIVE_NETWORKS,
        description="Most sequences × networks that a model writes or scores at a time. Excess requests get 429 with "
        "Retry-After.",
    )
    max_live_symbols: Count = Field(
        default=MOST_LIVE_ELEMENTS,
        description="Most characters × networks that are still to be written or scored. Excess requests get 429 with "
        "Retry-After.",
    )
    request_timeout: Seconds = Field(
        default=60.0, description="Most seconds for a prediction. A request may ask for fewer."
    )
    max_weights_bytes: Count = Field(default=16 * 2**30, description="Largest download of weights, in bytes.")
    max_streams: Count = Field(default=16, description="Most downloads of weights at a time.")
    stall_timeout: Seconds = Field(
        default=60.0, description="Most seconds for a client to accept a part of a download."
    )

    drain_delay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
        default=0.0,
        description="Seconds after SIGTERM during which the service still answers but is not ready, so that load "
        "balancers remove it.",
    )
    drain_timeout: Count = Field(
        default=30, description="Seconds after the drain delay within which open requests must be answered."
    )

    drift_level: Annotated[float, Field(gt=0, lt=1)] = Field(
        default=0.01,
        description="Probability that an alarm of drift is ever raised while a model's inputs do not change, for each "
        "model and flag.",
    )
    monitor_folder: Path | None = Field(
        default=None,
        description="A directory where what is known of each model's inputs survives a restart. It is made if it does "
        "not exist. Without it, each start begins anew.",
    )
    feedback: SecretStr | None = Field(
        default=None,
        description="Where to keep answers until their labels arrive: a file for SQLite, or the URL of a PostgreSQL "
        "database, which several services may share, such as postgresql://user@host/database. Inputs are not kept. "
        "Without it, nothing is kept.",
    )
    max_feedback_answers: Count = Field(
        default=100_000,
        description="Most answers that are kept for feedback. The oldest without a label are dropped first.",
    )
    feedback_days: Annotated[float, Field(gt=0, le=36_500)] = Field(
        default=90.0, description="Days that an answer waits for its label, and is kept after that."
    )

    log_format: LogFormat | None = Field(
        default=None,
        description="json, one line per event, or console. The default is console on a terminal, otherwise json.",
    )
    log_level: LogLevel = Field(default="info", description="Lowest level of events to log.")
    prediction_log: Annotated[SecretStr, AfterValidator(_check_destination)] | None = Field(
        default=None,
        description="Where to log each predicted input: a folder for files of JSON lines, or an address that gets "
        "CloudEvents. Without it, predictions are not logged.",
    )
    prediction_log_bytes: Annotated[int, Field(ge=2**20)] = Field(
        default=2**30, description="Most bytes of the files in the folder, at least 1 MiB; the oldest are removed."
    )
    log_inputs: bool = Field(
        default=False, description="Log also the inputs, at the size that the model takes. They may be personal data."
    )
    otlp_endpoint: str | None = Field(
        default=None,
        description="Trace collector for OTLP over HTTP, such as http://127.0.0.1:4318. The default is "
        "OTEL_EXPORTER_OTLP_ENDPOINT. Without either, no traces are sent.",
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
        """The sources in order of precedence, flags first."""
        return init_settings, _Environment(settings_cls), TomlConfigSettingsSource(settings_cls)

    def check_exposure(self) -> None:
        """Checks that other machines can reach a service without keys only if the operator allows it.

        Raises:
            ConfigurationError: if they can, and the operator does not allow it.
        """
        host = self.published_host or ("localhost" if self.socket and self.grpc_port is None else self.host)
        if self.keys is None and not self.allow_anonymous and not _is_loopback(host):
            raise ConfigurationError(
                f"other machines can reach {host}, but there are no keys: name a key file with --keys "
                "(hyperdraw-serve key makes entries), or serve everybody with --allow-anonymous"
            )

    def describe(self) -> str:
        """All settings, as a file for `--config`. Addresses, which may hold a password, are left out."""
        values = {
            name: value.get_secret_value() if isinstance((value := getattr(self, name)), SecretStr) else shown
            for name, shown in self.model_dump(mode="json", exclude={"config"}).items()
        }
        return "\n".join(_describe(name, value) for name, value in values.items())


def _describe(name: str, value: Any) -> str:
    if value is None:
        return f"# {name} is not set"
    if name in SECRETS and "://" in value:
        return f"# {name} is set, but not shown, as it may hold a password"
    return f"{name} = {json.dumps(value)}"


def read_settings(flags: Mapping[str, Any]) -> Settings:
    """Reads settings from flags, the environment and the file that one of them names. Empty flags count as unset.

    Raises:
        ConfigurationError: if the file cannot be read.
        ValidationError: if a setting is not valid.
    """
    given: dict[str, Any] = {
        name: value for name, value in flags.items() if isinstance(value, bool) or (value and any(value))
    }
    path = given.get("config") or os.environ.get("HYPERDRAW_CONFIG") or None
    if path is not None:
        try:
            tomllib.loads(Path(path).read_text())
        except OSError as error:
            raise ConfigurationError(f"the settings file {path} cannot be read: {error.strerror}") from error
        except ValueError as error:
            raise ConfigurationError(f"the settings file {path} is not valid TOML: {error}") from error

    class ConfiguredSettings(Settings):
        model_config = SettingsConfigDict(toml_file=path)

    try:
        return ConfiguredSettings(**given)
    except SettingsError as error:
        raise ConfigurationError(f"invalid settings: {error}") from error


def _is_loopback(host: str) -> bool:
    """Whether a name or address leads only to this machine."""
    try:
        found = socket.getaddrinfo(host, None)
    except OSError:
        return False
    return all(ipaddress.ip_address(str(address[0]).partition("%")[0]).is_loopback for *_, address in found)
