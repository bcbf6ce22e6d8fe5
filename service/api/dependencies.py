"""What routes ask for, and what they have in common."""

from typing import Annotated, Any

from fastapi import Depends, Header, Request

from models.model import Model
from service.api.asking import Asking
from service.engine.engine import Engine
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
        description="Seconds within which the answer is of use, if fewer than usual; then the work is dropped.",
    ),
]


async def _resolve_model(model: str, parts: PartsDependency, _: Annotated[None, ANY_KEY]) -> Model:
    """A key comes before any word about models."""
    return parts.catalog.resolve(model)


ModelDependency = Annotated[Model, Depends(_resolve_model)]


async def _ask(
    request: Request, parts: PartsDependency, model: ModelDependency, timeout: TimeoutHeader = None
) -> Asking:
    return Asking(request, parts, model, timeout)


AskingDependency = Annotated[Asking, Depends(_ask)]


def describe_errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The OpenAPI description of answers other than success; the first two, which the gate gives, are everywhere."""
    return {status: {"model": ErrorResponse} for status in sorted({400, 403, *statuses})}


def check_health(engine: Engine) -> None:
    """Whether the process can answer.

    Raises:
        ServiceError: 503 if only a new one can.
    """
    if engine.fault:
        raise ServiceError(503, "device_fault", f"The service is broken: {engine.fault}.", "Restart the service.")


def check_readiness(parts: Parts) -> None:
    """Whether requests are to be sent here.

    Raises:
        ServiceError: 503 if not.
    """
    check_health(parts.engine)
    if stall := parts.engine.stall:
        raise ServiceError(503, "stalled", f"Nothing is computed: {stall}.", "Ask another instance, or wait.")
    if parts.draining:
        raise ServiceError(503, "draining", "The service is about to shut down.", "Ask another instance.")
    if parts.keys is not None:
        check_keys(parts.keys)


def list_warnings(parts: Parts) -> list[str] | None:
    """What should be fixed though requests are answered, if there is anything. It names no path."""
    if parts.keys is None or parts.keys.fault is None:
        return None
    return ["The key file cannot be used. The keys that were read before are still valid."]
