"""The HTTP host of the engine: `create_app(settings)`."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Response
from fastapi.staticfiles import StaticFiles
from fastapi_offline import FastAPIOffline

from models.device import choose_device
from service import open_inference, routes
from service.catalog import load_catalog
from service.engine import Engine
from service.ensembles import Freshness
from service.errors import add_error_handlers
from service.settings import Settings
from service.statistics import Statistics


def create_app(settings: Settings) -> FastAPI:
    """Loads and warms every model, so that an app that exists is ready, and builds the app around them.

    Raises:
        ConfigurationError: if the device or the checkpoints cannot be had.
    """
    freshness = Freshness(settings.freshness, settings.freshness_seconds, settings.freshness_predictions)
    engine = Engine(choose_device(settings.device), freshness, settings.max_queue)

    @asynccontextmanager
    async def close_engine(app: FastAPI) -> AsyncIterator[None]:
        yield
        engine.close()

    app = FastAPIOffline(
        title="hyperdraw",
        summary="Samples neural networks on demand, and answers predictions with their uncertainty.",
        lifespan=close_engine,
        redoc_url=None,
    )
    app.state.settings = settings
    app.state.engine = engine
    app.state.catalog = load_catalog(settings.checkpoints, settings.default_model, engine)
    app.state.statistics = Statistics()
    add_error_handlers(app)
    app.include_router(routes.router)
    app.include_router(open_inference.router)
    app.mount("/static", _RevalidatedFiles(directory=routes.STATIC))
    return app


class _RevalidatedFiles(StaticFiles):
    """Files that browsers check before each use, so that the parts of a page always fit together."""

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        response = super().file_response(*args, **kwargs)
        response.headers["Cache-Control"] = "no-cache"
        return response
