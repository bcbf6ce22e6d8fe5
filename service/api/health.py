"""Routes that load balancers and Prometheus ask."""

from fastapi import APIRouter, Request, Response

from service.api.dependencies import (
    HEALTH,
    METRICS,
    PartsDependency,
    check_health,
    check_readiness,
    describe_errors,
    list_warnings,
)
from service.api.schemas import HealthAnswer

_METRICS_CONTENT = {kind: {"schema": {"type": "string"}} for kind in ("text/plain", "application/openmetrics-text")}

router = APIRouter(tags=["health"])


@router.get("/healthz", responses=describe_errors(401, 503), dependencies=[HEALTH], response_model_exclude_none=True)
async def check_live(parts: PartsDependency) -> HealthAnswer:
    """Whether the process can answer; if not, only a new one can help."""
    check_health(parts.engine)
    return HealthAnswer(status="live")


@router.get("/readyz", responses=describe_errors(401, 503), dependencies=[HEALTH], response_model_exclude_none=True)
async def check_ready(parts: PartsDependency) -> HealthAnswer:
    """Whether models are loaded, each warmed by a real forward pass, and the service is not about to shut down."""
    check_readiness(parts)
    return HealthAnswer(status="ready", warnings=list_warnings(parts))


@router.get(
    "/metrics",
    response_class=Response,
    responses=describe_errors(401) | {200: {"content": _METRICS_CONTENT}},
    dependencies=[METRICS],
)
def get_metrics(request: Request, parts: PartsDependency) -> Response:
    """What the service has done and does, for Prometheus."""
    content, media_type = parts.metrics.write(request.headers.get("accept"))
    return Response(content, headers={"Content-Type": media_type})
