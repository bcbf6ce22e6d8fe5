"""The HTTP host of the engine: `create_app(settings)`."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from anyio import to_thread
from fastapi import FastAPI, Response
from fastapi.staticfiles import StaticFiles
from fastapi_offline import FastAPIOffline

from models.device import choose_device
from service import routes
from service.catalog import load_catalog
from service.engine import Engine
from service.ensembles import Freshness
from service.errors import add_error_handlers
from service.metrics import Metrics
from service.middleware import Accounting, Follow
from service.settings import Settings

if TYPE_CHECKING:
    from service.traces import Traces


def create_app(settings: Settings) -> FastAPI:
    """Loads and warms every model, so that an app that exists is ready, and builds the app around them.

    Raises:
        ConfigurationError: if the device or the checkpoints cannot be had.
    """
    freshness = Freshness(settings.freshness, settings.freshness_seconds, settings.freshness_predictions)
    traces = _open_traces(settings)
    metrics = Metrics(traces.add_stage if traces else None)
    engine = Engine(choose_device(settings.device), freshness, settings.max_queue, metrics)

    @asynccontextmanager
    async def close(app: FastAPI) -> AsyncIterator[None]:
        yield
        engine.close()
        if traces:
            await to_thread.run_sync(traces.close)

    app = FastAPIOffline(
        title="hyperdraw",
        summary="Samples neural networks on demand, and answers predictions with their uncertainty.",
        lifespan=close,
        redoc_url=None,
    )
    app.state.settings = settings
    app.state.engine = engine
    app.state.metrics = metrics
    app.state.catalog = catalog = load_catalog(settings.checkpoints, settings.default_model, engine)
    metrics.watch(engine, catalog)
    add_error_handlers(app)
    follow: Follow = traces.follow if traces else lambda _: nullcontext()
    app.add_middleware(Accounting, metrics=metrics, catalog=catalog, follow=follow)  # last, so that it is the outermost
    app.include_router(routes.router)
    app.mount("/static", _RevalidatedFiles(directory=routes.STATIC))
    return app


def _open_traces(settings: Settings) -> "Traces | None":
    """Traces, if there is somewhere to send them; others need not have OpenTelemetry's SDK in memory."""
    variables = "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"
    if settings.otlp_endpoint is None and not any(map(os.environ.get, variables)):
        return None
    from service.traces import Traces

    return Traces(settings.otlp_endpoint)


class _RevalidatedFiles(StaticFiles):
    """Files that browsers check before each use, so that the parts of a page always fit together."""

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        response = super().file_response(*args, **kwargs)
        response.headers["Cache-Control"] = "no-cache"
        return response
