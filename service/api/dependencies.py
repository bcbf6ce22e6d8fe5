"""What routes ask for: parts of the service, and what all requests may say.

All of it is asynchronous, as FastAPI hands what is not to a thread, at a price.
"""

from typing import Annotated, Any

from fastapi import Depends, Header, Request

from models.checkpoint import Checkpoint
from service.catalog import Catalog
from service.engine.engine import Engine
from service.errors import ErrorResponse, ServiceError
from service.open_inference.statistics import Statistics
from service.operation.access import KeyFile, check_keys, require
from service.operation.metrics import Metrics
from service.settings import Settings


async def _settings(request: Request) -> Settings:
    settings: Settings = request.app.state.settings
    return settings


async def _engine(request: Request) -> Engine:
    engine: Engine = request.app.state.engine
    return engine


async def _catalog(request: Request) -> Catalog:
    catalog: Catalog = request.app.state.catalog
    return catalog


async def _metrics(request: Request) -> Metrics:
    metrics: Metrics = request.app.state.metrics
    return metrics


async def _statistics(request: Request) -> Statistics:
    statistics: Statistics = request.app.state.statistics
    return statistics


SettingsDependency = Annotated[Settings, Depends(_settings)]
EngineDependency = Annotated[Engine, Depends(_engine)]
CatalogDependency = Annotated[Catalog, Depends(_catalog)]
MetricsDependency = Annotated[Metrics, Depends(_metrics)]
StatisticsDependency = Annotated[Statistics, Depends(_statistics)]


ANY_KEY = Depends(require(None))


async def _checkpoint(model: str, catalog: CatalogDependency, _: Annotated[None, ANY_KEY]) -> Checkpoint:
    """A key comes before any word about models."""
    return catalog.find(model)


CheckpointDependency = Annotated[Checkpoint, Depends(_checkpoint)]

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


def describe_errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The OpenAPI description of answers other than success; the first two, which the gate gives, are everywhere."""
    return {status: {"model": ErrorResponse} for status in sorted({400, 403, *statuses})}


def check_health(engine: Engine) -> None:
    """Whether the process can answer.

    Raises:
        ServiceError: 503 if only a new one can.
    """
    if engine.fault:
        raise ServiceError(503, "device_fault", f"Broken: {engine.fault}.", "Start the service anew.")


def check_readiness(request: Request, engine: Engine) -> None:
    """Whether requests are to be sent here.

    Raises:
        ServiceError: 503 if not.
    """
    check_health(engine)
    if engine.stall:
        raise ServiceError(503, "stalled", f"Nothing is computed: {engine.stall}.", "Ask another instance, or wait.")
    if request.app.state.draining:
        raise ServiceError(503, "draining", "The service is about to end.", "Ask another instance.")
    if (keys := request.app.state.keys) is not None:
        check_keys(keys)


def list_warnings(request: Request) -> list[str] | None:
    """What should be mended though requests are answered, if there is anything. No paths are told."""
    keys: KeyFile | None = request.app.state.keys
    if keys is None or keys.fault is None:
        return None
    return ["The file of keys cannot be used; the keys that were read before are valid."]
