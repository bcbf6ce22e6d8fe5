"""The HTTP host of the engine: `create_app(settings)`."""

import asyncio
import base64
import math
from collections.abc import AsyncIterator
from concurrent.futures import Future
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, TypeVar

import torch
from anyio import to_thread
from fastapi import APIRouter, Depends, FastAPI, Header, Query, Request, Response
from fastapi.responses import FileResponse, StreamingResponse
from fastapi.staticfiles import StaticFiles
from fastapi_offline import FastAPIOffline
from torch import Tensor

from models.checkpoint import Checkpoint
from models.device import choose_device
from models.images import ImageError, decode_image
from models.input import ImageSpec
from models.noise import MEMBER_LIMIT
from models.uncertainty import NotFiniteError
from service.answers import answer_prediction, describe_model, list_models, pack_prediction
from service.catalog import Catalog, load_catalog
from service.engine import DEFAULT_ENSEMBLE_SIZE, Engine, OverloadedError
from service.ensembles import Freshness, choose_seed
from service.errors import ErrorResponse, ServiceError, add_error_handlers
from service.schemas import (
    HealthAnswer,
    ModelDescription,
    ModelsAnswer,
    PredictAnswer,
    PredictParameters,
    WeightsParameters,
)
from service.settings import Settings
from service.uploads import ImagesBody, VectorsBody, read_images, read_vectors
from service.weights import WeightsFile, parse_range

STATIC = Path(__file__).parent / "static"
EXAMPLE_IMAGE = STATIC / "examples" / "seven.png"

BINARY = "application/octet-stream"
"""Safetensors files have no type of their own."""
BINARY_SCHEMA = {"schema": {"type": "string", "format": "binary"}}

FEW_INPUTS = 8
"""Whose answer is written faster than handed to a thread."""

_PAGE_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
}

_IMAGE_ERRORS = {
    "too_large": (413, "image_too_large"),
    "unsupported": (422, "unsupported_image"),
    "invalid": (422, "invalid_image"),
}

Result = TypeVar("Result")

router = APIRouter()


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
    add_error_handlers(app)
    app.include_router(router)
    app.mount("/static", _RevalidatedFiles(directory=STATIC))
    return app


class _RevalidatedFiles(StaticFiles):
    """Files that browsers check before each use, so that the parts of a page always fit together."""

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        response = super().file_response(*args, **kwargs)
        response.headers["Cache-Control"] = "no-cache"
        return response


async def _settings(request: Request) -> Settings:
    settings: Settings = request.app.state.settings
    return settings


async def _engine(request: Request) -> Engine:
    engine: Engine = request.app.state.engine
    return engine


def _catalog(request: Request) -> Catalog:
    catalog: Catalog = request.app.state.catalog
    return catalog


async def _checkpoint(model: str, request: Request) -> Checkpoint:
    return _catalog(request).find(model)


SettingsDependency = Annotated[Settings, Depends(_settings)]
EngineDependency = Annotated[Engine, Depends(_engine)]
CheckpointDependency = Annotated[Checkpoint, Depends(_checkpoint)]


TimeoutHeader = Annotated[
    float | None,
    Header(
        alias="X-Request-Timeout",
        gt=0,
        le=86400,
        allow_inf_nan=False,
        description="Seconds within which the answer is of use; then the work is dropped.",
    ),
]


def _errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": ErrorResponse} for status in statuses}


def _describe_upload() -> dict[str, Any]:
    """The OpenAPI description of the bodies that `read_images` and `read_vectors` understand."""
    example = base64.b64encode(EXAMPLE_IMAGE.read_bytes()).decode()
    file = {"type": "string", "format": "binary"}
    images = {"type": "object", "required": ["images"], "properties": {"images": {"type": "array", "items": file}}}
    content: dict[str, Any] = {
        "application/json": {
            "schema": {"oneOf": [ImagesBody.model_json_schema(), VectorsBody.model_json_schema()]},
            "examples": {
                "images": {"summary": "For a model of images", "value": {"images": [example]}},
                "vectors": {"summary": "For a model of vectors", "value": {"inputs": [[-1.5], [3]]}},
            },
        },
        "multipart/form-data": {"schema": images},
    }
    content |= {f"image/{kind}": {"schema": file} for kind in ("png", "jpeg", "webp")}
    return {"requestBody": {"required": True, "content": content}}


@router.get("/", include_in_schema=False)
def show_page() -> FileResponse:
    """The page for people."""
    return FileResponse(STATIC / "index.html", headers=_PAGE_HEADERS)


@router.get("/healthz", tags=["health"])
async def check_live() -> HealthAnswer:
    """Whether the process answers."""
    return HealthAnswer(status="live")


@router.get("/readyz", tags=["health"])
async def check_ready() -> HealthAnswer:
    """Whether models are loaded, each warmed by a real forward pass."""
    return HealthAnswer(status="ready")


@router.get("/v1/models", tags=["models"])
async def get_models(request: Request) -> ModelsAnswer:
    """The models here, the default first."""
    return list_models(_catalog(request))


@router.get("/v1/models/{model}", tags=["models"], responses=_errors(404, 503))
async def get_model(checkpoint: CheckpointDependency) -> ModelDescription:
    """What a model is: input, classes, target network, training, thresholds and measured figures."""
    return describe_model(checkpoint)


@router.post(
    "/v1/models/{model}/predict",
    tags=["prediction"],
    response_model=PredictAnswer,
    responses=_errors(404, 408, 413, 415, 422, 429, 500, 503, 504) | {200: {"content": {BINARY: BINARY_SCHEMA}}},
    openapi_extra=_describe_upload(),
)
async def predict(
    request: Request,
    checkpoint: CheckpointDependency,
    parameters: Annotated[PredictParameters, Query()],
    settings: SettingsDependency,
    engine: EngineDependency,
    timeout: TimeoutHeader = None,
) -> Response:
    """Predict with an ensemble of freshly sampled networks.

    A model of images takes PNG, JPEG and WebP, of any size, which is brought to the model's; a model of vectors takes
    rows of numbers as JSON.
    """
    ensemble_size = parameters.ensemble_size or checkpoint.sampler.limit_networks(DEFAULT_ENSEMBLE_SIZE)
    _check_count("ensemble_size", ensemble_size, settings.max_ensemble_size)
    _check_members(checkpoint, ensemble_size)
    _check_calibration(checkpoint, parameters)
    spec = checkpoint.config.input
    try:
        if isinstance(spec, ImageSpec):
            encoded = await read_images(request, settings)
            engine.check_room(checkpoint, len(encoded) * ensemble_size)
            inputs = await to_thread.run_sync(_decode_images, encoded, spec, settings)
        else:
            inputs = await read_vectors(request, settings, spec)
        future = engine.predict(checkpoint, inputs, parameters.seed, ensemble_size)
        answer = await _wait_for(future, request, timeout or settings.request_timeout)
    except OverloadedError as error:
        seconds = math.ceil(error.seconds)
        message, hint = "As much as may wait is waiting.", f"Ask again in {seconds} s, or for less."
        raise ServiceError(429, "overloaded", message, hint, {"Retry-After": str(seconds)}) from error
    except NotFiniteError as error:
        hint = "The model cannot judge one of these inputs. Leave it out, or try another seed."
        raise ServiceError(500, "not_finite", f"{checkpoint.name}: {error}.", hint) from error

    def encode() -> bytes:
        if parameters.format == "safetensors":
            return pack_prediction(checkpoint, answer, parameters)
        return answer_prediction(checkpoint, answer, parameters).model_dump_json(exclude_none=True).encode()

    few = len(inputs) <= FEW_INPUTS and not parameters.members
    content = encode() if few else await to_thread.run_sync(encode)
    return Response(content, media_type="application/json" if parameters.format == "json" else BINARY)


@router.get(
    "/v1/models/{model}/weights",
    tags=["weights"],
    response_class=Response,
    responses=_errors(404, 416, 422, 503) | {200: {"content": {BINARY: BINARY_SCHEMA}}},
)
@router.head("/v1/models/{model}/weights", include_in_schema=False)
async def get_weights(
    request: Request,
    checkpoint: CheckpointDependency,
    parameters: Annotated[WeightsParameters, Query()],
    settings: SettingsDependency,
    engine: EngineDependency,
) -> Response:
    """Download sampled networks as a safetensors file.

    One network has exactly the target's `state_dict` keys; with `count`, that many are stacked on a leading axis.
    With a seed the answer can be cached, revalidated and resumed; without one, a fresh draw is sent and its seed named.
    """
    count = parameters.count or 1
    _check_count("count", count, settings.max_ensemble_size)
    _check_members(checkpoint, parameters.member + count)
    if parameters.version not in (None, checkpoint.version):
        hint = f"{checkpoint.name} is at version {checkpoint.version}."
        raise ServiceError(404, "unknown_version", f"Version {parameters.version} is not served.", hint)
    file = WeightsFile(
        checkpoint=checkpoint,
        seed=choose_seed() if parameters.seed is None else parameters.seed,
        members=range(parameters.member, parameters.member + count),
        stacked=parameters.count is not None,
        dtype=parameters.dtype,
    )
    seeded = parameters.seed is not None
    etag = file.etag(engine.device)
    headers = {
        "Content-Type": BINARY,
        "Content-Disposition": f'attachment; filename="{file.filename}"',
        "X-Content-Type-Options": "nosniff",
        "X-Hyperdraw-Seed": str(file.seed),
        "X-Hyperdraw-Version": checkpoint.version,
        "Cache-Control": "no-store",
    }
    if seeded:
        pinned = parameters.version is not None
        lifetime = "max-age=31536000, immutable" if pinned else "no-cache"  # a model may be replaced under its name
        headers |= {"Cache-Control": f"private, {lifetime}", "ETag": etag, "Accept-Ranges": "bytes"}
        if etag in [tag.strip() for tag in request.headers.get("if-none-match", "").split(",")]:
            return Response(status_code=304, headers=headers)
    else:
        fresh = request.url.include_query_params(seed=file.seed, version=checkpoint.version)
        headers["Content-Location"] = f"{fresh.path}?{fresh.query}"

    status, start, stop = 200, 0, file.size
    if seeded and request.headers.get("if-range", etag) == etag:
        try:
            asked = parse_range(request.headers.get("range"), file.size)
        except ValueError as error:
            length = {"Content-Range": f"bytes */{file.size}"}
            raise ServiceError(
                416, "range_not_satisfiable", f"{error}.", "Ask for bytes that exist.", length
            ) from error
        if asked is not None:
            status, (start, stop) = 206, asked
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{file.size}"
    headers["Content-Length"] = str(stop - start)
    if request.method == "HEAD":
        return Response(status_code=status, headers=headers)
    return StreamingResponse(file.stream(engine, start, stop), status, headers)


async def _wait_for(future: Future[Result], request: Request, seconds: float) -> Result:
    """The engine's result, unless it takes too long or the client leaves: then the engine drops the work."""
    result = asyncio.wrap_future(future)
    leaving = asyncio.create_task(_wait_for_leaving(request))
    try:
        awaited: list[asyncio.Future[Any]] = [result, leaving]
        await asyncio.wait(awaited, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if result.done():
            return result.result()
        if leaving.done():
            raise ServiceError(499, "client_left", "The client closed the connection.", "Nobody reads this.")
        hint = "Ask for less, ask later, or allow more with X-Request-Timeout."
        raise ServiceError(504, "deadline_exceeded", f"There was no answer within {seconds:g} s.", hint)
    finally:
        result.cancel()
        leaving.cancel()


async def _wait_for_leaving(request: Request) -> None:
    """Until the client closes the connection; the request has been read before."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _check_count(name: str, value: int, limit: int) -> None:
    if value > limit:
        raise ServiceError(422, "invalid_parameter", f"{name} is {value}.", f"It may be at most {limit}.")


def _check_members(checkpoint: Checkpoint, count: int) -> None:
    """Whether members 0 … count−1 exist."""
    limit = checkpoint.sampler.limit_networks(MEMBER_LIMIT)
    if count > limit:
        message = f"{checkpoint.name} has no member {count - 1}."
        raise ServiceError(422, "invalid_parameter", message, f"Its members are 0 to {limit - 1}.")


def _check_calibration(checkpoint: Checkpoint, parameters: PredictParameters) -> None:
    """Whether the rates that are asked for were calibrated."""
    calibration = checkpoint.calibration
    if calibration is None:
        if parameters.false_alarm_rate is not None or parameters.coverage is not None:
            message, hint = f"{checkpoint.name} has no calibration.", "Leave false_alarm_rate and coverage out."
            raise ServiceError(422, "invalid_parameter", message, hint)
        return
    try:
        if parameters.false_alarm_rate is not None:
            calibration.find_rate(parameters.false_alarm_rate)
        if parameters.coverage is not None:
            calibration.find_coverage(parameters.coverage)
    except ValueError as error:
        rates = ", ".join(f"{rate:g}" for rate in calibration.rates)
        hint = f"Calibrated are false-alarm rates, and 1 − coverage, of {rates}."
        raise ServiceError(422, "invalid_parameter", f"{checkpoint.name}: {error}.", hint) from error


def _decode_images(encoded: dict[str, bytes], spec: ImageSpec, settings: Settings) -> Tensor:
    limit = settings.max_image_pixels
    try:
        return torch.stack([decode_image(content, spec, limit, name) for name, content in encoded.items()])
    except ImageError as error:
        status, code = _IMAGE_ERRORS[error.kind]
        raise ServiceError(status, code, error.message, error.hint) from error
