"""Who may do what: API keys, named, each with scopes, in a file that holds only their hashes.

The file is TOML, with a table for each key, as `hyperdraw-serve key NAME` prints it:

    [alice]
    sha256 = "2bb80d53…"
    scopes = ["predict", "weights"]

Keys are drawn here with 256 random bits, so a plain SHA-256 of them cannot be searched for, and checking one is fast.
"""

import hashlib
import hmac
import logging
import secrets
import tomllib
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Annotated, Literal

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from service.errors import ServiceError

logger = logging.getLogger(__name__)

Scope = Literal["predict", "weights", "admin"]
"""What a key is good for: predictions, downloads of weights, changes of what is served."""

_KEY_HINT = "Send a key as the header Authorization: Bearer KEY."


class KeyFileError(Exception):
    """A file of keys that cannot be used; the message says why."""


class Key(BaseModel):
    """An entry of the file, under its name."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    scopes: frozenset[Scope]


class KeyFile:
    """The keys of a file, read again when it changes."""

    def __init__(self, path: Path) -> None:
        """Reads the file.

        Raises:
            KeyFileError: if it cannot be read, or holds anything but keys.
        """
        self._path = path
        self._stamp = self._take_stamp()
        self._keys = read_keys(path)

    def find(self, presented: str) -> tuple[str, Key] | None:
        """The name and the entry of a key, in a time that tells nothing of how near a wrong one came."""
        self._read_changes()
        digest = hashlib.sha256(presented.encode()).hexdigest()
        found = None
        for name, key in self._keys.items():
            if hmac.compare_digest(key.sha256, digest):
                found = name, key
        return found

    def _read_changes(self) -> None:
        """Keeps the keys that it has if the file cannot be read, as it may be in the course of being written."""
        stamp = self._take_stamp()
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._keys = read_keys(self._path)
            logger.info("read %d keys from %s", len(self._keys), self._path)
        except KeyFileError as error:
            logger.error("%s; the keys that were read before are valid still", error)

    def _take_stamp(self) -> tuple[int, ...]:
        try:
            stat = self._path.stat()
        except OSError:
            return ()
        return stat.st_ino, stat.st_size, stat.st_mtime_ns


def read_keys(path: Path) -> Mapping[str, Key]:
    """The keys of a file by name.

    Raises:
        KeyFileError: if it cannot be read, or holds anything but keys.
    """
    try:
        return TypeAdapter(dict[str, Key]).validate_python(tomllib.loads(path.read_text()))
    except OSError as error:
        raise KeyFileError(f"the file of keys {path} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise KeyFileError(f"the file of keys {path} is not valid: {where}: {first['msg']}") from error
    except ValueError as error:  # also what is no UTF-8
        raise KeyFileError(f"the file of keys {path} is no TOML: {error}") from error


def create_key(name: str, scopes: list[Scope]) -> tuple[str, str]:
    """A fresh key, for its holder, and its entry, for the file."""
    key = secrets.token_urlsafe(32)
    listed = ", ".join(f'"{scope}"' for scope in scopes)
    return key, f'[{name}]\nsha256 = "{hashlib.sha256(key.encode()).hexdigest()}"\nscopes = [{listed}]\n'


_bearer = HTTPBearer(auto_error=False, description="An API key, where the service asks for one.")


def require(scope: Scope | None, *, unless: str | None = None) -> Callable[..., Awaitable[None]]:
    """A dependency that lets requests pass whose key has a scope, or, with None, any key; all of them where the service
    has no keys, or where the setting named `unless` is on."""

    async def check_key(
        request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)] = None
    ) -> None:
        keys: KeyFile | None = request.app.state.keys
        if keys is None or (unless is not None and getattr(request.app.state.settings, unless)):
            return
        if credentials is None:
            raise _unauthorized("This service wants a key.")
        if (found := keys.find(credentials.credentials)) is None:
            raise _unauthorized("The key is not known.")
        name, key = found
        request.scope["hyperdraw.key"] = name  # for the log
        if scope is not None and scope not in key.scopes:
            scopes = ", ".join(sorted(key.scopes)) or "nothing"
            message = f"The key {name!r} is good for {scopes}, not for {scope}."
            raise ServiceError(403, "missing_scope", message, f"Use a key with the scope {scope}.")

    return check_key


def _unauthorized(message: str) -> ServiceError:
    return ServiceError(401, "unauthorized", message, _KEY_HINT, {"WWW-Authenticate": "Bearer"})
