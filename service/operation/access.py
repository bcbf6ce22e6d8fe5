"""Access by API keys. Each key has a name and scopes, and the key file holds only its hash.

The file is TOML, with a table for each key, as `hyperdraw-serve key NAME` prints it:

    [alice]
    sha256 = "2bb80d53…"
    scopes = ["predict", "weights"]

An entry may also limit what the key's holder may ask:

    requests = "10/second; 5000/day"
    networks = "1000000/hour"
    concurrent = 4
    weight = 2.0
    expires = 2027-06-30T00:00:00Z
    note = "the shop's team"

Keys have 256 random bits, so they cannot be found from a plain SHA-256, and checking one is fast.
"""

import hashlib
import hmac
import logging
import math
import secrets
import stat
import threading
import time
import tomllib
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from limits import RateLimitItem, parse_many
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    InstanceOf,
    TypeAdapter,
    ValidationError,
)

from models.foreign_files import Stamp, is_settled, may_pass, read_file, take_stamp
from service.errors import ServiceError
from service.operation.quotas import Quotas
from service.settings import Broken

logger = logging.getLogger(__name__)

KeyScope = Literal["predict", "weights", "admin"]
"""What a key allows: predictions, downloads of weights, changes of the served models."""

KEY = "key "
"""Begins the name of a client that has a key."""

MOST_BYTES = 2**18
"""Largest key file, in bytes: about 2,000 keys."""

MOST_CHARACTERS = 1000
"""Longest line. The memory of Python's reader grows with the square of the number of parts in a dotted key."""

RETRY_SECONDS = 2.0
"""Seconds until a file that looks unchanged is read again, because it has just changed or had a temporary error."""

_KEY_HINT = "Send a key as the header Authorization: Bearer KEY."


class KeyFileError(Exception):
    """A key file that cannot be used; the message says why."""


def _read_windows(text: Any) -> tuple[RateLimitItem, ...]:
    expected = 'it must be text such as "10/second; 5000/day": amounts by second, minute, hour, day, month or year'
    if not isinstance(text, str):
        raise ValueError(expected)
    try:
        windows = parse_many(text)
    except ValueError:
        raise ValueError(expected) from None
    if not all(window.amount > 0 for window in windows):
        raise ValueError("an amount must be positive")
    return tuple(windows)


def _check_time(value: Any) -> Any:
    if not isinstance(value, datetime) or value.tzinfo is None:
        raise ValueError("it must be a time with its zone, such as 2027-06-30T00:00:00Z")
    return value


Windows = Annotated[tuple[InstanceOf[RateLimitItem], ...], BeforeValidator(_read_windows)]
"""Amounts by time, all of which hold."""


class Key(BaseModel):
    """A key's entry in the file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    scopes: frozenset[KeyScope]
    requests: Windows = ()
    """Requests that need a scope, by time."""
    networks: Windows = ()
    """Inputs × networks, by time."""
    concurrent: int | None = Field(default=None, gt=0)
    """Requests at the same time, of one service."""
    weight: float = Field(default=1.0, gt=0, le=1000)
    """The key's part of the device's time while others wait, in units of a usual one."""
    expires: Annotated[datetime, BeforeValidator(_check_time)] | None = None
    note: str = ""
    """Text for people."""


class KeyFile:
    """The keys of a file, which is read again when it changes.

    If the file disappears or becomes invalid, either the last valid keys still count, or none do.
    """

    def __init__(self, path: Path, broken: Broken = "keep") -> None:
        """Reads the file.

        Args:
            path: path of the file.
            broken: whether the last valid keys still count while the file cannot be used.

        Raises:
            KeyFileError: if the file cannot be used.
        """
        self._path = path
        self._broken = broken
        self._stamp: Stamp | None = None
        """Stamp of the file, taken before the last read, so that later changes are seen."""
        self._retry = math.inf
        """Time to read the file even if the stamp is the same."""
        self._reading = threading.Lock()
        self._fault: str | None = None
        self._keys = read_keys(path)

    @property
    def fault(self) -> str | None:
        """Reason why the current file cannot be used, if so."""
        self._read_changes()
        return self._fault

    @property
    def closed(self) -> bool:
        """Whether no key is valid because the file cannot be used."""
        return self.fault is not None and self._broken == "close"

    def weigh(self, client: str) -> float:
        """The weight of a client, by its name in queues."""
        key = self._keys.get(client.removeprefix(KEY)) if client.startswith(KEY) else None
        return key.weight if key else 1.0

    def find(self, presented: str) -> tuple[str, Key] | None:
        """Name and entry of a key. The time that this takes reveals nothing about valid keys."""
        self._read_changes()
        digest = hashlib.sha256(presented.encode()).hexdigest()
        found = None
        for name, key in self._keys.items():
            if hmac.compare_digest(key.sha256, digest):
                found = name, key
        return found

    def _read_changes(self) -> None:
        with self._reading:  # so that an older read does not replace a newer one
            self._read_if_changed()

    def _read_if_changed(self) -> None:
        stamp, now = take_stamp(self._path), time.monotonic()
        if stamp == self._stamp and now < self._retry:
            return
        self._stamp, self._retry = stamp, now + RETRY_SECONDS if not is_settled(stamp) else math.inf
        try:
            keys = read_keys(self._path)
        except KeyFileError as error:
            if may_pass(error.__cause__):
                self._retry = now + RETRY_SECONDS
            if str(error) != self._fault:
                valid = "the last valid keys still count" if self._broken == "keep" else "no key is valid now"
                logger.error("%s; %s", error, valid)
            self._fault = str(error)
            return
        if keys != self._keys or self._fault is not None:
            logger.info("read %d keys from %s", len(keys), self._path)
        self._keys, self._fault = keys, None


def read_keys(path: Path) -> Mapping[str, Key]:
    """Reads the keys of a file, by name.

    Raises:
        KeyFileError: if the file cannot be read, can be changed by everybody, or contains anything but keys.
    """
    try:
        content = read_file(path, MOST_BYTES, forbidden_mode=stat.S_IWOTH).decode()
        if max(map(len, content.splitlines()), default=0) > MOST_CHARACTERS:
            raise KeyFileError(f"the key file {path} is not valid: a line has more than {MOST_CHARACTERS} characters")
        return TypeAdapter(dict[str, Key]).validate_python(tomllib.loads(content))
    except OSError as error:
        raise KeyFileError(f"the key file {path} cannot be read: {error.strerror}") from error
    except RecursionError as error:
        raise KeyFileError(f"the key file {path} is not valid TOML: it is nested too deeply") from error
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        reason = first["msg"].removeprefix("Value error, ")
        if first["type"] == "extra_forbidden":
            reason = f"an entry may have {', '.join(Key.model_fields)}"
        raise KeyFileError(f"the key file {path} is not valid: {where}: {reason}") from error
    except ValueError as error:  # or the file is not UTF-8
        raise KeyFileError(f"the key file {path} is not valid TOML: {error}") from error


def create_key(name: str, scopes: list[KeyScope]) -> tuple[str, str]:
    """Draws a key, for its holder, and its entry, for the file."""
    key = secrets.token_urlsafe(32)
    listed = ", ".join(f'"{scope}"' for scope in scopes)
    return key, f'[{name}]\nsha256 = "{hashlib.sha256(key.encode()).hexdigest()}"\nscopes = [{listed}]\n'


_bearer = HTTPBearer(auto_error=False, description="An API key, if the service requires one.")


def check_keys(keys: KeyFile) -> None:
    """Checks that keys can be valid.

    Raises:
        ServiceError: 503 if the key file cannot be used, and no key is valid for that reason.
    """
    if keys.closed:
        hint = "The operator must fix the key file."
        raise ServiceError(503, "keys_unusable", "The key file cannot be used, so no key is valid.", hint)


def require(scope: KeyScope | None, *, unless: str | None = None) -> Callable[..., Awaitable[None]]:
    """A dependency that requires a key with a scope, or any key if the scope is None. It requires nothing if no keys
    are set, or if the setting named by `unless` is on."""

    async def check_key(
        request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)] = None
    ) -> None:
        keys: KeyFile | None = request.app.state.keys
        if keys is None or (unless is not None and getattr(request.app.state.settings, unless)):
            return
        check_keys(keys)
        if credentials is None:
            raise _unauthorized("An API key is required.")
        if (found := keys.find(credentials.credentials)) is None:
            raise _unauthorized("The API key is unknown.")
        name, key = found
        request.scope["hyperdraw.key"] = name  # for the log
        request.scope["hyperdraw.quotas"] = key
        if key.expires is not None and key.expires <= datetime.now(UTC):
            message = f"Key {name!r} expired at {key.expires:%Y-%m-%d %H:%M %Z}."
            raise _unauthorized(message, "Ask the operator for another one.")
        if scope is not None and scope not in key.scopes:
            scopes = ", ".join(sorted(key.scopes)) or "nothing"
            message = f"Key {name!r} has scope {scopes}; this needs {scope}."
            raise ServiceError(403, "missing_scope", message, f"Use a key with the scope {scope}.")
        if scope is not None:
            await _count_request(request, name, key)

    return check_key


async def _count_request(request: Request, name: str, key: Key) -> None:
    quotas: Quotas = request.app.state.quotas
    if key.concurrent is not None:
        quotas.begin(name, key.concurrent)
        request.scope["hyperdraw.exchange"].closing.callback(quotas.end, name)
    await quotas.take(name, "requests", key.requests)


async def charge(request: Request, cost: int) -> None:
    """Charges a request's key for work.

    Args:
        request: the request.
        cost: inputs × networks. A character or point that is read or written is an input.

    Raises:
        ServiceError: 429 if the key has used what it may, 422 if it never may use so much at once.
    """
    key: Key | None = request.scope.get("hyperdraw.quotas")
    if key is not None:
        quotas: Quotas = request.app.state.quotas
        await quotas.take(request.scope["hyperdraw.key"], "networks", key.networks, cost)


def _unauthorized(message: str, hint: str = _KEY_HINT) -> ServiceError:
    return ServiceError(401, "unauthorized", message, hint, {"WWW-Authenticate": "Bearer"})
