"""The HTTP host of the engine: `create_app(settings)`."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from functools import partial
from importlib.metadata import version
from typing import Any

from anyio import to_thread
from fastapi import FastAPI, Response
from fastapi.middleware.cors import CORSMiddleware
from fastapi.staticfiles import StaticFiles
from fastapi_offline import FastAPIOffline
from starlette.datastructures import Headers

from models.device import choose_device
from models.precision import choose_precision
from service.admission import Admission, weigh_equally
from service.api import (
    certificates,
    explorations,
    feedback,
    health,
    models,
    monitor,
    page,
    predictions,
    sequences,
    versions,
    weights,
)
from service.api.description import describe, name_operation
from service.catalog import Catalog, ConfigurationError
from service.decoding.pool import Decoder
from service.destinations import make_monitor_folder, open_feedback, open_sink, open_traces
from service.engine.engine import Engine
from service.engine.ensembles import Freshness
from service.engine.streams import StreamLimits
from service.errors import add_error_handlers
from service.monitoring.monitor import SAVE_SECONDS, Monitor
from service.open_inference import routes as open_inference
from service.openai import routes as openai
from service.operation.access import KeyFile
from service.operation.gate import Gate
from service.operation.headers import SecurityHeaders
from service.operation.metrics import ServiceMetrics
from service.operation.middleware import Accounting, Follow
from service.operation.quotas import Quotas
from service.parts import Parts
from service.recording.log import PredictionLog
from service.settings import Settings
from service.shadow import Shadow

logger = logging.getLogger(__name__)


def create_app(settings: Settings) -> FastAPI:
    """Loads and warms up every model, and builds the app around them. An app that exists is thus ready.

    Raises:
        ConfigurationError: if no checkpoint can be served, feedback cannot be kept where the settings say, the settings
            contradict each other, or the monitor's folder cannot be made.
        DecoderError: if the processes that decode images do not start.
        DeviceError: if this machine lacks the device.
        KeyFileError: if the key file cannot be used.
    """
    settings.check_exposure()
    sink = open_sink(settings)
    keys = KeyFile(settings.keys, settings.keys_broken) if settings.keys else None
    freshness = Freshness(settings.freshness, settings.freshness_seconds, settings.freshness_predictions)
    traces = open_traces(settings)
    metrics = ServiceMetrics(traces.add_stage if traces else None)
    watches = Monitor(settings.drift_level, make_monitor_folder(settings))
    limits = StreamLimits(settings.max_live_networks, settings.max_live_symbols)
    device = choose_device(settings.device)
    precision = choose_precision(device) if settings.precision == "auto" else settings.precision
    observers = metrics, watches
    weigh = keys.weigh if keys else weigh_equally
    if settings.quota_store and keys is None:
        raise ConfigurationError("--quota-store counts what keys use; name a key file with --keys")
    quotas = Quotas(settings.quota_store.get_secret_value() if settings.quota_store else None)
    engine = Engine(
        device, freshness, settings.max_queue, observers, stream_limits=limits, precision=precision, weigh=weigh
    )
    decoder = Decoder(settings.decoders, settings.max_image_pixels, settings.max_queue_pixels, settings.image_timeout)
    collected = None
    try:
        collected = open_feedback(settings)  # before the models, which take longer to load
        catalog = Catalog(settings.checkpoints, engine, settings.default_model, settings.max_model_bytes)
        decoder.warm_up()
    except BaseException:
        engine.close()
        decoder.close()
        if collected:
            collected.close()
        raise
    log = PredictionLog(sink, metrics.count_logged) if sink else None
    bodies = Admission(settings.max_held_bytes)
    watches.resume(catalog.predictors)
    metrics.watch_quotas(quotas)
    metrics.watch(engine, catalog, watches, decoder.admission, bodies, keys)
    metrics.watch_feedback(catalog, collected)
    shadow = Shadow(engine)
    metrics.watch_versions(catalog, shadow)

    @asynccontextmanager
    async def run(app: FastAPI) -> AsyncIterator[None]:
        await quotas.check()
        tasks = [asyncio.create_task(_keep(watches, catalog))]
        if settings.watch:
            tasks.append(asyncio.create_task(_watch(catalog, settings.watch)))
        yield
        for task in tasks:
            task.cancel()
        catalog.close()
        await to_thread.run_sync(engine.close)
        await to_thread.run_sync(watches.save, catalog.predictors)
        await to_thread.run_sync(decoder.close)
        if log:
            await to_thread.run_sync(log.close)
        if collected:
            await to_thread.run_sync(collected.close)
        if traces:
            await to_thread.run_sync(traces.close)
        await quotas.close()

    app = FastAPIOffline(
        title="hyperdraw",
        version=version("hyperdraw-server"),
        summary="Samples neural networks on demand, and returns predictions with their uncertainty.",
        lifespan=run,
        redoc_url=None,
        generate_unique_id_function=name_operation,
    )
    app.state = Parts(  # type: ignore[assignment]
        settings, keys, quotas, engine, decoder, metrics, catalog, watches, shadow, log, collected
    )
    add_error_handlers(app)
    app.add_middleware(SecurityHeaders)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "HEAD", "POST"],
            allow_headers=["Authorization", "Content-Type", "Range", "X-Request-ID", "X-Request-Timeout"],
            expose_headers=[
                "Content-Location",
                "Content-Range",
                "ETag",
                "Retry-After",
                "X-Hyperdraw-Seed",
                "X-Request-ID",
            ],
        )
    app.add_middleware(Gate, settings=settings)
    follow: Follow = traces.follow if traces else lambda _: nullcontext()
    app.add_middleware(Accounting, metrics=metrics, catalog=catalog, follow=follow, bodies=bodies)  # the outermost
    own = (
        page,
        health,
        models,
        versions,
        monitor,
        predictions,
        feedback,
        explorations,
        certificates,
        weights,
        sequences,
    )
    for routes in (*own, open_inference, openai):
        app.include_router(routes.router)
    app.openapi = partial(describe, app)  # type: ignore[method-assign]
    app.mount("/static", _RevalidatedFiles(directory=page.STATIC))
    return app


async def _keep(watches: Monitor, catalog: Catalog) -> None:
    """Keeps what is known of the models' inputs, periodically."""
    while True:
        await asyncio.sleep(SAVE_SECONDS)
        await to_thread.run_sync(watches.save, catalog.predictors)


async def _watch(catalog: Catalog, seconds: float) -> None:
    """Looks for changes of the checkpoints periodically."""
    while True:
        await asyncio.sleep(seconds)
        try:
            await asyncio.wrap_future(catalog.request_refresh())
        except Exception:
            logger.exception("the checkpoints could not be checked for changes")


class _RevalidatedFiles(StaticFiles):
    """Files that browsers revalidate before each use, so that the parts of a page always match."""

    def is_not_modified(self, response_headers: Headers, request_headers: Headers) -> bool:
        any_will_do = request_headers.get("if-none-match", "").strip() == "*"
        return any_will_do or super().is_not_modified(response_headers, request_headers)

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        response = super().file_response(*args, **kwargs)
        response.headers["Cache-Control"] = "no-cache"
        return response
