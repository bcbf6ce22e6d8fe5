"""Dependencies of routes, and their shared checks."""

from typing import Annotated, Any

from fastapi import Depends, Header, Query, Request
from pydantic import BaseModel

from models.model import Model
from models.sequences.model import SequenceModel
from service.api.asking import Asking
from service.api.description import describe_schema
from service.api.schemas import Version
from service.engine.engine import Engine, ServedModel
from service.errors import ErrorResponse, ServiceError
from service.operation.access import check_keys, require
from service.parts import Parts, find_parts

PartsDependency = Annotated[Parts, Depends(find_parts)]

ANY_KEY = Depends(require(None))
HEALTH = Depends(require(None, unless="open_health"))
METRICS = Depends(require(None, unless="open_metrics"))

TimeoutHeader = Annotated[
    float | None,
    Header(
        alias="X-Request-Timeout",
        gt=0,
        le=86400,
        allow_inf_nan=False,
        description="Time limit of the answer in seconds, if lower than the service's. After it, the work is dropped.",
    ),
]


VersionQuery = Annotated[Version, Query()]


async def _resolve_model(
    model: str, parts: PartsDependency, _: Annotated[None, ANY_KEY], version: VersionQuery = None
) -> Model:
    """Finds a version of a model. The key is checked before anything about models."""
    return parts.catalog.resolve(model, version)


ModelDependency = Annotated[Model, Depends(_resolve_model)]


async def _find_model(
    model: str, parts: PartsDependency, _: Annotated[None, ANY_KEY], version: VersionQuery = None
) -> ServedModel:
    return parts.catalog.find(model, version)


ServedModelDependency = Annotated[ServedModel, Depends(_find_model)]
"""A model of any kind."""


async def _resolve_sequences(
    model: str, parts: PartsDependency, _: Annotated[None, ANY_KEY], version: VersionQuery = None
) -> SequenceModel:
    return parts.catalog.resolve_sequences(model, version)


SequenceModelDependency = Annotated[SequenceModel, Depends(_resolve_sequences)]


async def _ask(
    request: Request, parts: PartsDependency, model: ModelDependency, timeout: TimeoutHeader = None
) -> Asking:
    return Asking(request, parts, model, timeout)


AskingDependency = Annotated[Asking, Depends(_ask)]


def describe_errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The OpenAPI description of errors, including 400 and 403, with which the gate may refuse any request."""
    return {status: {"model": ErrorResponse} for status in sorted({400, 403, *statuses})}


def describe_foreign_errors(model: type[BaseModel], *statuses: int) -> dict[int | str, dict[str, Any]]:
    """The OpenAPI description of errors in another protocol's shape."""
    other = {"model": model, "description": "Any other error in the request"}
    return {**{status: {"model": model} for status in statuses}, "4XX": other}


def describe_body(*schemas: type[BaseModel], required: bool = True, **others: Any) -> dict[str, Any]:
    """The OpenAPI description of a body that routes parse themselves.

    Args:
        schemas: schemas, one of which describes the body.
        required: whether there must be a body.
        others: examples, and other parts of the description.
    """
    first, *more = map(describe_schema, schemas)
    content = {"application/json": {"schema": {"anyOf": [first, *more]} if more else first, **others}}
    return {"required": required, "content": content}


def check_health(engine: Engine) -> None:
    """Checks that the process can answer.

    Raises:
        ServiceError: 503 if only a new process can.
    """
    if engine.fault:
        raise ServiceError(503, "device_fault", f"The service is broken: {engine.fault}.", "Restart the service.")


def check_readiness(parts: Parts) -> None:
    """Checks that the service is ready for requests.

    Raises:
        ServiceError: 503 if not.
    """
    check_health(parts.engine)
    if stall := parts.engine.stall:
        raise ServiceError(503, "stalled", f"The service is stalled: {stall}.", "Ask another instance, or wait.")
    if parts.draining:
        raise ServiceError(503, "draining", "The service is about to shut down.", "Ask another instance.")
    if parts.keys is not None:
        check_keys(parts.keys)


def list_warnings(parts: Parts) -> list[str] | None:
    """Problems to fix although requests are answered, if there are any. They name no paths."""
    warnings = []
    if parts.keys is not None and parts.keys.fault is not None:
        warnings.append("The key file cannot be used. The keys that were read before are still valid.")
    if parts.feedback is not None and parts.feedback.fault is not None:
        warnings.append("The feedback store cannot be used. Answers are not kept.")
    if parts.quotas.fault is not None:
        warnings.append("The store of quotas cannot be used. This service counts for itself.")
    if parts.catalog.refused:
        warnings.append("Some models or versions are refused. GET /v1/models names them and the reasons.")
    return warnings or None
