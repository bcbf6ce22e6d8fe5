"""Routes about the versions of a model: which are served, to whom, and which is promoted."""

import asyncio

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from models.model import Model
from service.api.asking import set_deadline
from service.api.dependencies import ANY_KEY, PartsDependency, describe_body, describe_errors
from service.api.uploads import read_json
from service.catalog import Change
from service.errors import ServiceError
from service.operation.access import require
from service.parts import Parts
from service.versions import NAMING, Role, Served, Share, VersionFolder, Versions

HINT = 'Send application/json such as {"candidate": "v2", "share": 0.1, "shadow": true}.'


class TrafficBody(BaseModel):
    """What changes. What is left out stays as it is."""

    model_config = ConfigDict(extra="forbid", strict=True)

    candidate: VersionFolder | None = Field(
        None,
        description="Folder of the candidate in the model's folder; null for no candidate. A new candidate begins "
        "without requests.",
    )
    share: Share = Field(
        0.0,
        description="Share of the clients to whom the candidate answers: of the keys, or without keys of the requests, "
        "by their X-Request-ID. Requests that name a version or a seed are not divided.",
    )
    shadow: bool = Field(
        False, description="Whether the candidate is also asked, in idle time, what the stable version has answered."
    )


class VersionAnswer(BaseModel):
    """A version of a model."""

    folder: str = Field(description="Its folder in the model's folder; . is that itself.")
    version: str | None = Field(description="SHA-256 of the checkpoint; null if it is not loaded.")
    reason: str | None = Field(description="Why it could not be loaded, if that was tried.")


class ComparisonAnswer(BaseModel):
    """How a candidate's answers differ from those of the stable version."""

    stable: str = Field(description="Version of the stable model.")
    candidate: str = Field(description="Version of the candidate.")
    inputs: int = Field(description="Inputs that both have answered.")
    disagreements: dict[str, int] = Field(
        description="Those of them for which another class is the most probable, as `label`; and by the flag, those "
        "for which only one of the two raises it."
    )
    dropped: int = Field(description="Requests of which the candidate was not asked, because too much waited already.")
    failed: int = Field(description="Requests that the candidate could not answer.")


class TrafficAnswer(BaseModel):
    """The versions of a model, and how requests are divided among them."""

    name: str
    versions: dict[Role, VersionAnswer] = Field(description="Versions by their names.")
    share: float
    shadow: bool
    comparison: ComparisonAnswer | None = Field(
        description="What shadowing found, on this service, about the loaded candidate beside the stable version."
    )


router = APIRouter(prefix="/v1/models", tags=["models"])
ADMIN = [Depends(require("admin"))]


@router.get("/{model}/traffic", responses=describe_errors(401, 404, 503), dependencies=[ANY_KEY])
async def get_traffic(model: str, parts: PartsDependency) -> TrafficAnswer:
    """Show the versions of a model, and how requests are divided among them."""
    return _describe(model, parts, parts.catalog.find_versions(model))


@router.patch(
    "/{model}/traffic",
    responses=describe_errors(401, 403, 404, 408, 409, 413, 415, 422, 503, 504),
    openapi_extra={"requestBody": describe_body(TrafficBody, example={"candidate": "v2", "share": 0.1})},
    dependencies=ADMIN,
)
async def change_traffic(request: Request, model: str, parts: PartsDependency) -> TrafficAnswer:
    """Name a candidate, and the share of the clients to whom it answers.

    The candidate is loaded, verified and warmed up before anything changes.
    """
    deadline = set_deadline(request, None, parts)
    body = await read_json(request, parts.settings, deadline, TrafficBody, "traffic is described", HINT)
    changes = body.model_dump(exclude_unset=True)
    if (body.share or body.shadow) and not isinstance(parts.catalog.find(model), Model):
        message = f"Requests to {model}, a model of sequences, are not divided or shadowed."
        raise ServiceError(422, "wrong_kind", message, "Leave out share and shadow. A request may name the candidate.")

    def change(before: Versions) -> Versions:
        kept = before.model_dump()
        if changes.get("candidate", before.candidate) != before.candidate:
            kept |= {"share": 0.0, "shadow": False}
        if changes.get("candidate") == before.previous:
            kept |= {"previous": None}
        try:
            return Versions.model_validate(kept | changes)
        except ValidationError as error:
            reason = error.errors()[0]["msg"].removeprefix("Value error, ")
            raise ServiceError(422, "invalid_parameter", f"{reason[:1].upper()}{reason[1:]}.", NAMING) from error

    return await _change(model, parts, change)


@router.post("/{model}:promote", responses=describe_errors(401, 403, 404, 409, 503), dependencies=ADMIN)
async def promote(model: str, parts: PartsDependency) -> TrafficAnswer:
    """Let the candidate take the place of the stable version.

    Requests that have begun are answered by the version that they began with. The version that was stable stays loaded
    as the previous one, unless a new candidate takes its room.
    """
    return await _change(model, parts, Versions.promote)


@router.post("/{model}:rollback", responses=describe_errors(401, 403, 404, 409, 503), dependencies=ADMIN)
async def roll_back(model: str, parts: PartsDependency) -> TrafficAnswer:
    """Take back the last promotion.

    The version that was promoted becomes the candidate again, and gets no requests unless they name it.
    """
    return await _change(model, parts, Versions.roll_back)


async def _change(model: str, parts: Parts, change: Change) -> TrafficAnswer:
    return _describe(model, parts, await asyncio.wrap_future(parts.catalog.request_change(model, change)))


def _describe(name: str, parts: Parts, served: Served) -> TrafficAnswer:
    def describe(folder: str) -> VersionAnswer:
        if (model := served.models.get(folder)) is not None:
            return VersionAnswer(folder=folder, version=model.version, reason=None)
        return VersionAnswer(folder=folder, version=None, reason=parts.catalog.refused.get(f"{name}/{folder}"))

    comparison, candidate = parts.shadow.read().get(name), served.candidate
    if comparison and (candidate is None or not comparison.is_of(served.stable, candidate)):
        comparison = None  # of versions that were served before
    return TrafficAnswer(
        name=name,
        versions={role: describe(folder) for role, folder in served.versions.list_roles().items()},
        share=served.versions.share,
        shadow=served.versions.shadow,
        comparison=ComparisonAnswer(**vars(comparison)) if comparison else None,
    )
