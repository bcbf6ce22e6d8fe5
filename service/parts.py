"""The parts of a running service, which routes, middleware and the server share."""

import asyncio
from dataclasses import dataclass, field

from fastapi import Request

from models.model import Model
from service.catalog import Catalog
from service.decoding.pool import Decoder
from service.engine.engine import Engine, ServedModel
from service.feedback import Feedback
from service.monitoring.monitor import Monitor
from service.operation.access import KeyFile
from service.operation.metrics import ServiceMetrics
from service.operation.quotas import Quotas
from service.operation.statistics import Statistics
from service.recording.log import PredictionLog
from service.settings import Settings
from service.shadow import Shadow


@dataclass
class Parts:
    """The content of `app.state`."""

    settings: Settings
    keys: KeyFile | None
    quotas: Quotas
    engine: Engine
    decoder: Decoder
    metrics: ServiceMetrics
    catalog: Catalog
    monitor: Monitor
    shadow: Shadow
    log: PredictionLog | None = None
    """Where answers are logged, if they are."""
    feedback: Feedback | None = None
    """Keeps answers until their labels arrive, if the operator wants that."""
    statistics: Statistics = field(default_factory=Statistics)
    draining: bool = False
    """Whether the service is shutting down."""
    streams: int = 0
    """Number of open downloads."""

    async def reload(self, name: str) -> tuple[ServedModel, bool]:
        """Loads a model from its files, as `Catalog.reload` does, and begins the watch over its inputs anew."""
        loaded, changed = await asyncio.wrap_future(self.catalog.request_reload(name))
        if isinstance(loaded, Model):
            self.monitor.reset(loaded)
        return loaded, changed


async def find_parts(request: Request) -> Parts:
    """The parts of a request's service. It is async, because FastAPI runs other dependencies in threads."""
    parts: Parts = request.app.state
    return parts
