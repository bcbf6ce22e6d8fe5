"""Routes for load balancers and Prometheus."""

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
    """Tell whether the process can answer. If not, it must be restarted."""
    check_health(parts.engine)
    return HealthAnswer(status="live")


@router.get("/readyz", responses=describe_errors(401, 503), dependencies=[HEALTH], response_model_exclude_none=True)
async def check_ready(parts: PartsDependency) -> HealthAnswer:
    """Tell whether all models are loaded and warmed up, and the service is not shutting down."""
    check_readiness(parts)
    return HealthAnswer(status="ready", warnings=list_warnings(parts))


@router.get(
    "/metrics",
    response_class=Response,
    responses=describe_errors(401) | {200: {"content": _METRICS_CONTENT}},
    dependencies=[METRICS],
)
def get_metrics(request: Request, parts: PartsDependency) -> Response:
    """Show metrics for Prometheus."""
    content, media_type = parts.metrics.write(request.headers.get("accept"))
    return Response(content, headers={"Content-Type": media_type})
