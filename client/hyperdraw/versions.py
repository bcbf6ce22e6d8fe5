"""The calls about a model's versions: which are served, to whom, and which is promoted."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hyperdraw.answers import explain_answers, read_fields
from hyperdraw.asking import ask, ask_model, find_path, set_limit
from hyperdraw.attempts import Attempts
from hyperdraw.transfer import Connection, RequestSpec


@dataclass(frozen=True)
class Version:
    """A version of a model."""

    folder: str
    """Its folder in the model's folder; . is that itself."""
    version: str | None
    """SHA-256 of the checkpoint; None if it is not loaded."""
    reason: str | None = None
    """Why it could not be loaded, if that was tried."""


@dataclass(frozen=True)
class Comparison:
    """How a candidate's answers differ from those of the stable version, on the service that was asked."""

    stable: str
    """Version of the stable model."""
    candidate: str
    """Version of the candidate."""
    inputs: int
    """Inputs that both have answered."""
    disagreements: Mapping[str, int]
    """Those of them for which another class is the most probable, as `label`; and by the flag, those for which only one
    of the two raises it."""
    dropped: int
    """Requests of which the candidate was not asked, because too much waited already."""
    failed: int
    """Requests that the candidate could not answer."""


@dataclass(frozen=True)
class Traffic:
    """The versions of a model, and how requests are divided among them."""

    name: str
    versions: Mapping[str, Version]
    """Versions by their names: `stable`, `candidate` and `previous`."""
    share: float
    """Share of the clients to whom the candidate answers."""
    shadow: bool
    """Whether the candidate is asked, in idle time, what the stable version has answered."""
    comparison: Comparison | None
    """What shadowing has found about the loaded candidate beside the stable version."""


def traffic(client: Connection, model: str | None = None, *, timeout: float | None = None) -> Attempts[Traffic]:
    """Tells which versions of a model, or of the default model, are served, and to whom.

    Raises:
        NotFound: if the service has no model of that name.
    """
    limit = set_limit(client, timeout)
    _, content = yield from ask_model(
        client, model, limit, lambda name: ask(client, RequestSpec("GET", f"{find_path(name)}/traffic"), limit)
    )
    return read_traffic(content)


def change_traffic(
    client: Connection,
    model: str,
    *,
    candidate: str | None = None,
    share: float | None = None,
    shadow: bool | None = None,
    timeout: float | None = None,
) -> Attempts[Traffic]:
    """Names a candidate, and the share of the clients to whom it answers. What is not given, or None, stays as it is.

    Args:
        client: the client that asks.
        model: name of the model.
        candidate: folder of the candidate in the model's folder, or "" for no candidate. A new candidate
            begins without requests.
        share: share of the clients: of the keys, or without keys of the requests, by their X-Request-ID. Requests that
            name a version or a seed are not divided.
        shadow: whether the candidate is also asked, in idle time, what the stable version has answered.
        timeout: seconds that the call may take, retries included.

    Raises:
        Unauthorized: if the API key does not allow it.
        NotFound: if the service has no model of that name.
        InvalidRequest: if the model cannot be divided like that.
        ServiceError: if the candidate cannot be loaded, or the service cannot write into the model's folder.
    """
    changes: dict[str, Any] = {"candidate": candidate, "share": share, "shadow": shadow}
    body = {
        name: value or None if name == "candidate" else value for name, value in changes.items() if value is not None
    }
    content, path = json.dumps(body).encode(), f"{find_path(model)}/traffic"
    request = RequestSpec("PATCH", path, content=content, content_type="application/json")
    return read_traffic((yield from ask(client, request, set_limit(client, timeout))))


def promote(client: Connection, model: str, *, timeout: float | None = None) -> Attempts[Traffic]:
    """Lets a model's candidate take the place of its stable version.

    Raises:
        Unauthorized: if the API key does not allow it.
        NotFound: if the service has no model of that name.
        ServiceError: if there is no candidate, or the service cannot write into the model's folder.
    """
    request = RequestSpec("POST", f"{find_path(model)}:promote", repeatable=False)
    return read_traffic((yield from ask(client, request, set_limit(client, timeout))))


def roll_back(client: Connection, model: str, *, timeout: float | None = None) -> Attempts[Traffic]:
    """Takes back the last promotion. The version that was promoted becomes a candidate without requests.

    Raises:
        Unauthorized: if the API key does not allow it.
        NotFound: if the service has no model of that name.
        ServiceError: if nothing was promoted, or the service cannot write into the model's folder.
    """
    request = RequestSpec("POST", f"{find_path(model)}:rollback", repeatable=False)
    return read_traffic((yield from ask(client, request, set_limit(client, timeout))))


def read_traffic(content: bytes) -> Traffic:
    """Reads a model's versions from the service's JSON."""
    with explain_answers():
        answer = json.loads(content)
        comparison = answer["comparison"]
        known = {
            "versions": {name: read_fields(Version, own) for name, own in answer["versions"].items()},
            "comparison": None if comparison is None else read_fields(Comparison, comparison),
        }
        return read_fields(Traffic, answer | known)
