"""What the calls of the service have in common."""

import json
import secrets
from collections.abc import Callable, Mapping
from typing import Any, TypeVar
from urllib.parse import quote

from hyperdraw.answers import ModelDescription, ModelList, read_model, read_model_list
from hyperdraw.attempts import Attempts
from hyperdraw.errors import ServiceError
from hyperdraw.transfer import Connection, RequestSpec, TimeLimit, Transfer

T = TypeVar("T")

SEED_LIMIT = 2**63
"""Seeds are at least 0 and less than this."""

ORIGIN = ("X-Hyperdraw-Seed", "X-Hyperdraw-Version")
"""Headers of an answer that does not name its networks itself."""


class Text:
    """An answer that is read as a whole."""

    def start(self, size: int | None) -> None:
        self.content = bytearray()

    def write(self, content: bytes) -> None:
        self.content += content

    def finish(self) -> None:
        pass


def choose_seed(seed: int | None) -> int:
    """The seed, or a fresh one, for calls that need several requests."""
    return secrets.randbelow(SEED_LIMIT) if seed is None else seed


def set_limit(client: Connection, timeout: float | None) -> TimeLimit:
    """The time that a call may take."""
    return TimeLimit(client.timeout if timeout is None else timeout)


def find_path(model: str) -> str:
    """The path of a model's routes."""
    return f"/v1/models/{quote(model, safe='')}"


def make_request(model: str, call: str, content: Mapping[str, Any], expected: tuple[str, ...] = ()) -> RequestSpec:
    """A request to a model of sequences. Its body lacks the values that are None."""
    body = {name: value for name, value in content.items() if value is not None}
    return RequestSpec(
        "POST",
        f"{find_path(model)}/{call}",
        content=json.dumps(body, ensure_ascii=False).encode(),
        content_type="application/json",
        expected=expected,
    )


def ask(client: Connection, request: RequestSpec, limit: TimeLimit) -> Attempts[bytes]:
    """Sends a request and returns the whole answer."""
    text = Text()
    yield from Transfer(request, text, client, limit).attempts()
    return bytes(text.content)


def list_models(client: Connection, limit: TimeLimit) -> Attempts[ModelList]:
    """Lists the models. The client keeps the name of the default and the limits of a request."""
    listed = read_model_list((yield from ask(client, RequestSpec("GET", "/v1/models"), limit)))
    client.default_model, client.limits = listed.default, listed.limits
    return listed


def describe_model(
    client: Connection, name: str, limit: TimeLimit, version: str | None = None
) -> Attempts[ModelDescription]:
    """Describes a model."""
    return read_model((yield from ask(client, RequestSpec("GET", find_path(name), {"version": version}), limit)))


def ask_model(
    client: Connection, name: str | None, limit: TimeLimit, ask: Callable[[str], Attempts[T]]
) -> Attempts[tuple[str, T]]:
    """Asks about a model, or about the default model, which is looked up again if it is no longer served.

    Returns:
        The model's name, and the answer.
    """
    if name:
        return name, (yield from ask(name))
    known = client.default_model
    name = known or (yield from list_models(client, limit)).default
    try:
        return name, (yield from ask(name))
    except ServiceError as error:
        if error.code not in ("unknown_model", "model_refused"):
            raise
        client.default_model = None
        if known is None:  # it was looked up just now
            raise
    name = (yield from list_models(client, limit)).default
    return name, (yield from ask(name))
