"""The routes of the service's own API, and the page for people."""

import asyncio
import base64
from pathlib import Path
from typing import Annotated, Any

import torch
from anyio import to_thread
from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import FileResponse
from torch import Tensor

from models.checkpoint import Checkpoint
from models.inputs.spec import ImageSpec
from models.predictions.path import follow_paths
from models.predictions.perturbation import perturb
from models.tasks.task import Classification
from service.api.answers import (
    answer_attack,
    answer_prediction,
    answer_walk,
    describe_model,
    identify,
    list_models,
    pack_prediction,
)
from service.api.asking import (
    FEW_INPUTS,
    Deadline,
    check_calibration,
    check_count,
    check_members,
    check_room,
    choose_ensemble_size,
    compute,
    decode_images,
    infer,
    set_deadline,
)
from service.api.dependencies import (
    ANY_KEY,
    HEALTH,
    METRICS,
    CatalogDependency,
    CheckpointDependency,
    EngineDependency,
    MetricsDependency,
    SettingsDependency,
    TimeoutHeader,
    check_health,
    check_readiness,
    describe_errors,
    list_warnings,
)
from service.api.downloads import Download
from service.api.schemas import (
    MOST_ATTACKED,
    AttackAnswer,
    AttackParameters,
    HealthAnswer,
    ModelDescription,
    ModelsAnswer,
    PredictAnswer,
    PredictParameters,
    ReloadAnswer,
    WalkAnswer,
    WalkParameters,
    WeightsParameters,
)
from service.api.uploads import ImagesBody, VectorsBody, read_images, read_vectors
from service.api.weights_file import WeightsFile, is_named, parse_range
from service.engine.engine import Engine
from service.engine.ensembles import choose_seed
from service.errors import ServiceError
from service.names import write_disposition, write_location
from service.operation.access import require
from service.operation.metrics import Metrics
from service.settings import Settings

STATIC = Path(__file__).parents[1] / "static"
EXAMPLE_IMAGE = STATIC / "examples" / "seven.png"

BINARY = "application/octet-stream"
"""Safetensors files have no type of their own."""
BINARY_SCHEMA = {"schema": {"type": "string", "format": "binary"}}

_METRICS_CONTENT = {kind: {"schema": {"type": "string"}} for kind in ("text/plain", "application/openmetrics-text")}

GRADIENT_COST = 3
"""Of a pass forward and back, in passes forward."""

_PAGE_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
}

router = APIRouter()


def _describe_upload() -> dict[str, Any]:
    """The OpenAPI description of the bodies that `_read_inputs` understands."""
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


@router.get(
    "/healthz",
    tags=["health"],
    responses=describe_errors(401, 503),
    dependencies=[HEALTH],
    response_model_exclude_none=True,
)
async def check_live(engine: EngineDependency) -> HealthAnswer:
    """Whether the process can answer; if not, only a new one can help."""
    check_health(engine)
    return HealthAnswer(status="live")


@router.get(
    "/readyz",
    tags=["health"],
    responses=describe_errors(401, 503),
    dependencies=[HEALTH],
    response_model_exclude_none=True,
)
async def check_ready(request: Request, engine: EngineDependency) -> HealthAnswer:
    """Whether models are loaded, each warmed by a real forward pass, and the service is not about to end."""
    check_readiness(request, engine)
    return HealthAnswer(status="ready", warnings=list_warnings(request))


@router.get(
    "/metrics",
    tags=["health"],
    response_class=Response,
    responses=describe_errors(401) | {200: {"content": _METRICS_CONTENT}},
    dependencies=[METRICS],
)
def get_metrics(request: Request, metrics: MetricsDependency) -> Response:
    """What the service has done and does, for Prometheus."""
    content, media_type = metrics.write(request.headers.get("accept"))
    return Response(content, headers={"Content-Type": media_type})


@router.get("/v1/models", tags=["models"], responses=describe_errors(401), dependencies=[ANY_KEY])
async def get_models(catalog: CatalogDependency) -> ModelsAnswer:
    """The models here, the default first."""
    return list_models(catalog)


@router.get("/v1/models/{model}", tags=["models"], responses=describe_errors(401, 404, 503), dependencies=[ANY_KEY])
async def get_model(checkpoint: CheckpointDependency) -> ModelDescription:
    """What a model is: input, classes, target network, training, thresholds and measured figures."""
    return describe_model(checkpoint)


@router.post(
    "/v1/models/{model}:reload",
    tags=["models"],
    responses=describe_errors(401, 403, 404, 409, 503),
    dependencies=[Depends(require("admin"))],
)
async def reload_model(model: str, catalog: CatalogDependency) -> ReloadAnswer:
    """Load a model again from its files, or one that is new there.

    It is loaded beside the version that is served, verified and warmed, and then takes its place. Requests that have
    begun are answered by the version that they began with. If it cannot be loaded, nothing changes.
    """
    checkpoint, changed = await asyncio.wrap_future(catalog.request_reload(model))
    return ReloadAnswer(model=identify(checkpoint), changed=changed)


@router.post(
    "/v1/models/{model}/predict",
    tags=["prediction"],
    response_model=PredictAnswer,
    responses=describe_errors(401, 403, 404, 408, 413, 415, 422, 429, 500, 503, 504)
    | {200: {"content": {BINARY: BINARY_SCHEMA}}},
    openapi_extra=_describe_upload(),
    dependencies=[Depends(require("predict"))],
)
async def predict(
    request: Request,
    checkpoint: CheckpointDependency,
    parameters: Annotated[PredictParameters, Query()],
    settings: SettingsDependency,
    engine: EngineDependency,
    metrics: MetricsDependency,
    timeout: TimeoutHeader = None,
) -> Response:
    """Predict with an ensemble of freshly sampled networks.

    A model of images takes PNG, JPEG and WebP, of any size, which is brought to the model's; a model of vectors takes
    rows of numbers as JSON.
    """
    ensemble_size = choose_ensemble_size(checkpoint, parameters.ensemble_size, settings)
    check_calibration(checkpoint, parameters.false_alarm_rate, parameters.coverage)
    deadline = set_deadline(request, timeout, settings)
    inputs = await _read_inputs(request, checkpoint, settings, engine, metrics, ensemble_size, deadline)
    answer = await infer(request, engine, checkpoint, inputs, parameters.seed, ensemble_size, deadline)

    def encode() -> bytes:
        if parameters.format == "safetensors":
            return pack_prediction(checkpoint, answer, parameters)
        return answer_prediction(checkpoint, answer, parameters).model_dump_json(exclude_none=True).encode()

    few = len(inputs) <= FEW_INPUTS and not parameters.members
    with metrics.time("serialise", checkpoint.name):
        content = encode() if few else await to_thread.run_sync(encode)
    return Response(content, media_type="application/json" if parameters.format == "json" else BINARY)


async def _read_inputs(
    request: Request,
    checkpoint: Checkpoint,
    settings: Settings,
    engine: Engine,
    metrics: Metrics,
    networks: int,
    deadline: Deadline,
) -> Tensor:
    """The inputs of a request, [B, …], as its model takes them, if there is room for so many networks to see them.

    Raises:
        ServiceError, OverloadedError: as `read_images`, `read_vectors`, `check_room` and `decode_images` do.
    """
    spec = checkpoint.config.input
    if not isinstance(spec, ImageSpec):
        return await read_vectors(request, settings, spec, deadline)
    encoded = await read_images(request, settings, deadline)
    check_room(request, engine, checkpoint, len(encoded) * networks)
    with metrics.time("decode", checkpoint.name):
        return await decode_images(request, encoded, spec, deadline)


@router.post(
    "/v1/models/{model}/attack",
    tags=["exploration"],
    response_model_exclude_none=True,
    responses=describe_errors(401, 403, 404, 408, 413, 415, 422, 429, 500, 503, 504),
    openapi_extra=_describe_upload(),
    dependencies=[Depends(require("predict"))],
)
async def attack(
    request: Request,
    checkpoint: CheckpointDependency,
    parameters: Annotated[AttackParameters, Query()],
    settings: SettingsDependency,
    engine: EngineDependency,
    metrics: MetricsDependency,
    timeout: TimeoutHeader = None,
) -> AttackAnswer:
    """Perturb one image so that networks change their answer, by projected gradient descent on its pixels.

    The networks of the seed are attacked, as by somebody who knows them; they answer before and after. How other
    networks answer, predict tells. That so simple an attack fails does not mean that a stronger one would.
    """
    spec = checkpoint.config.input
    if not isinstance(spec, ImageSpec) or not isinstance(checkpoint.config.task, Classification):
        message, hint = f"{checkpoint.name} is no classifier of images.", "Only such models can be attacked here."
        raise ServiceError(422, "not_attackable", message, hint)
    size = min(choose_ensemble_size(checkpoint, parameters.ensemble_size, settings), MOST_ATTACKED)
    check_calibration(checkpoint, parameters.false_alarm_rate, parameters.coverage)
    seed = choose_seed() if parameters.seed is None else parameters.seed
    cost = GRADIENT_COST * parameters.steps * size
    single = settings.model_copy(update={"max_inputs": 1})
    deadline = set_deadline(request, timeout, settings)
    pixels = await _read_inputs(request, checkpoint, single, engine, metrics, cost, deadline)
    steps = perturb(checkpoint.sampler, spec, pixels, seed, size, parameters.epsilon, parameters.steps)
    found = await compute(request, engine, checkpoint, steps, cost, deadline)
    both = torch.cat([pixels, found])
    answer = await infer(request, engine, checkpoint, both, seed, size, deadline)
    return answer_attack(checkpoint, answer, both, parameters)


@router.post(
    "/v1/models/{model}/walk",
    tags=["exploration"],
    responses=describe_errors(401, 403, 404, 408, 413, 415, 422, 429, 500, 503, 504),
    openapi_extra=_describe_upload(),
    dependencies=[Depends(require("predict"))],
)
async def walk(
    request: Request,
    checkpoint: CheckpointDependency,
    parameters: Annotated[WalkParameters, Query()],
    settings: SettingsDependency,
    engine: EngineDependency,
    metrics: MetricsDependency,
    timeout: TimeoutHeader = None,
) -> WalkAnswer:
    """Predict one input with the networks on the way from one sampled network to another."""
    ends = parameters.first, parameters.last
    check_members(checkpoint, max(ends) + 1)
    seed = choose_seed() if parameters.seed is None else parameters.seed
    config, cost = checkpoint.config, 2 * parameters.points
    single = settings.model_copy(update={"max_inputs": 1})
    deadline = set_deadline(request, timeout, settings)
    inputs = await _read_inputs(request, checkpoint, single, engine, metrics, cost, deadline)
    steps = follow_paths(checkpoint.sampler, config.input, config.task, inputs, seed, ends, parameters.points)
    paths = await compute(request, engine, checkpoint, steps, cost, deadline)
    return answer_walk(checkpoint, seed, ends, paths)


@router.get(
    "/v1/models/{model}/weights",
    tags=["weights"],
    response_class=Response,
    responses=describe_errors(401, 403, 404, 416, 422, 429, 503) | {200: {"content": {BINARY: BINARY_SCHEMA}}},
    dependencies=[Depends(require("weights"))],
)
async def get_weights(
    request: Request,
    checkpoint: CheckpointDependency,
    parameters: Annotated[WeightsParameters, Query()],
    settings: SettingsDependency,
    engine: EngineDependency,
    metrics: MetricsDependency,
    timeout: TimeoutHeader = None,
) -> Response:
    """Download sampled networks as a safetensors file.

    One network has exactly the target's `state_dict` keys; with `count`, that many are stacked on a leading axis.
    With a seed the answer can be cached, revalidated and resumed; without one, a fresh draw is sent and its seed named.
    """
    check_health(engine)  # as an answer that has begun cannot say so
    count = parameters.count or 1
    check_count("count", count, settings.max_ensemble_size)
    check_members(checkpoint, parameters.member + count)
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
    if file.size > settings.max_weights_bytes:
        message, hint = f"The file would have {file.size} bytes.", f"Ask for at most {settings.max_weights_bytes}."
        raise ServiceError(422, "weights_too_large", message, hint)
    seeded = parameters.seed is not None
    etag = file.etag(engine.device)
    headers = {
        "Content-Type": BINARY,
        "Content-Disposition": write_disposition(file.filename),
        "X-Hyperdraw-Seed": str(file.seed),
        "X-Hyperdraw-Version": checkpoint.version,
        "Cache-Control": "no-store",
    }
    if seeded:
        pinned = parameters.version is not None
        lifetime = "max-age=31536000, immutable" if pinned else "no-cache"  # a model may be replaced under its name
        headers |= {"Cache-Control": f"private, {lifetime}", "ETag": etag, "Accept-Ranges": "bytes"}
        if is_named(etag, request.headers.get("if-none-match")):
            return Response(status_code=304, headers=headers)
    else:
        fresh = request.url.include_query_params(seed=file.seed, version=checkpoint.version)
        headers["Content-Location"] = write_location(request.scope["path"], fresh.query)

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
    chunks = metrics.follow_download(checkpoint.name, file.stream(engine, start, stop))
    return Download(chunks, status, headers, request.app.state, settings.max_streams, timeout)
