"""Routes of the Open Inference Protocol v2 (REST), as Triton's and KServe's clients use them.

Sources: KServe's "Open Inference Protocol (V2 Inference Protocol)", and Triton's "HTTP/REST and GRPC Protocol" with its
extensions.
"""

import base64
import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import version as distribution_version
from typing import Annotated, Any, TypeVar

from anyio import to_thread
from fastapi import APIRouter, Depends, Header, Path, Request, Response

from models.inputs.spec import InputSpec
from models.model import Model
from service.api.answers import list_versions
from service.api.asking import FEW_INPUTS, Asking, set_deadline
from service.api.dependencies import (
    ANY_KEY,
    HEALTH,
    PartsDependency,
    check_health,
    check_readiness,
    describe_body,
    describe_foreign_errors,
)
from service.api.division import Question, divide, shadow
from service.api.downloads import BINARY, BINARY_SCHEMA
from service.api.findings import Findings, apply_calibration
from service.api.records import log_answer
from service.api.uploads import (
    EXAMPLE_IMAGE,
    OTHER_VALUES,
    SMALL_BODY,
    decompress,
    read_body,
    read_encoding,
    validate_json,
)
from service.engine.batches import Answer
from service.errors import InferenceErrorResponse
from service.open_inference.messages import (
    HEADER_LENGTH,
    DurationStatistics,
    InferenceAnswer,
    InferenceRequest,
    InferenceStatistics,
    ModelConfig,
    ModelMetadata,
    ModelReady,
    ModelStatistics,
    RepositoryIndexRequest,
    RepositoryModel,
    RequestedOutput,
    ServerLive,
    ServerMetadata,
    ServerReady,
    StatisticsAnswer,
    TensorConfig,
    TensorMetadata,
    read_request,
    write_answer,
)
from service.open_inference.signatures import (
    choose_outputs,
    collect_output,
    convert_input,
    describe_inputs,
    describe_outputs,
    read_input,
    read_raw,
)
from service.open_inference.tensors import Array
from service.operation.access import require
from service.operation.statistics import Counts
from service.settings import Settings

PLATFORM = "hyperdraw_safetensors"

EXTENSIONS = [
    "binary_tensor_data",
    "classification",
    "model_configuration",
    "model_repository",
    "parameters",
    "statistics",
]
"""Triton's names for the supported extensions. Statistics and the repository are supported in part."""


_describe_errors = partial(describe_foreign_errors, InferenceErrorResponse)


async def _resolve(request: Request, model: str, parts: PartsDependency, _: Annotated[None, ANY_KEY]) -> Model:
    return parts.catalog.resolve(model, request.path_params.get("version"))


async def _describe_version(
    version: Annotated[str, Path(description="A digest, or stable, candidate or previous.")],
) -> None:
    """Describes the parameter; `_resolve` reads it."""


ModelDependency = Annotated[Model, Depends(_resolve)]

router = APIRouter(prefix="/v2", tags=["open inference protocol"])
Handler = TypeVar("Handler", bound=Callable[..., Any])


def _on_model(method: str, path: str, key: Any, **details: Any) -> Callable[[Handler], Handler]:
    """Adds a route to a model's path, with and without a version. The key is checked before anything about models."""

    def add(handler: Handler) -> Handler:
        router.add_api_route(f"/models/{{model}}{path}", handler, methods=[method], dependencies=[key], **details)
        dependencies = [key, Depends(_describe_version)]
        with_version = f"/models/{{model}}/versions/{{version}}{path}"
        name = f"{handler.__name__}_of_version"
        router.add_api_route(with_version, handler, methods=[method], dependencies=dependencies, name=name, **details)
        return handler

    return add


@router.get("/", include_in_schema=False)
@router.get("")
async def get_server() -> ServerMetadata:
    """Show the server and its extensions of the protocol."""
    return ServerMetadata(name="hyperdraw", version=distribution_version("hyperdraw-server"), extensions=EXTENSIONS)


@router.get("/health/live", responses=_describe_errors(401, 503), dependencies=[HEALTH])
async def get_live(parts: PartsDependency) -> ServerLive:
    """Tell whether the process can answer."""
    check_health(parts.engine)
    return ServerLive(live=True)


@router.get("/health/ready", responses=_describe_errors(401, 503), dependencies=[HEALTH])
async def get_ready(parts: PartsDependency) -> ServerReady:
    """Tell whether all models are loaded and warmed up, and the service is not shutting down."""
    check_readiness(parts)
    return ServerReady(ready=True)


@router.get("/models/stats", responses=_describe_errors(401), dependencies=[ANY_KEY])
async def get_all_statistics(parts: PartsDependency) -> StatisticsAnswer:
    """Show statistics of all models."""
    return StatisticsAnswer(
        model_stats=[_report(model, parts.statistics.find(model)) for model in parts.catalog.predictors]
    )


@router.post(
    "/repository/index",
    responses=_describe_errors(400, 401, 408, 413),
    response_model_exclude_none=True,
    openapi_extra={"requestBody": describe_body(RepositoryIndexRequest, required=False)},
    dependencies=[ANY_KEY],
)
async def get_index(request: Request, parts: PartsDependency) -> list[RepositoryModel]:
    """List the models, including those that could not be loaded."""
    body = await read_body(request, parts.settings, set_deadline(request, None, parts))
    hint = 'Send nothing, or {"ready": true} to list only models that are ready.'
    asked = validate_json(body, RepositoryIndexRequest, hint, OTHER_VALUES) if body else RepositoryIndexRequest()
    ready = [
        RepositoryModel(name=model.name, version=version, state="READY")
        for model in parts.catalog.predictors
        for version in list_versions(parts.catalog.served[model.name]).values()
    ]
    refused = [
        RepositoryModel(name=name, state="UNAVAILABLE", reason=reason) for name, reason in parts.catalog.refused.items()
    ]
    return ready if asked.ready else ready + refused


@router.post(
    "/repository/models/{model}/load",
    responses=_describe_errors(401, 403, 404, 409, 503),
    dependencies=[Depends(require("admin"))],
)
async def load_model(model: str, parts: PartsDependency) -> dict[str, str]:
    """Reload a model from its files, or load a new one. Parameters of Triton's client have no effect."""
    await parts.reload(model)
    return {}


@_on_model("GET", "", ANY_KEY, responses=_describe_errors(401, 404, 503))
async def get_metadata(model: ModelDependency, parts: PartsDependency) -> ModelMetadata:
    """Show a model's versions, and the input and output tensors of one of them."""
    return ModelMetadata(
        name=model.name,
        versions=list(list_versions(parts.catalog.find_versions(model.name)).values()),
        platform=PLATFORM,
        inputs=describe_inputs(model.input),
        outputs=describe_outputs(model),
    )


@_on_model("GET", "/ready", ANY_KEY, responses=_describe_errors(401, 404, 503))
async def get_model_ready(model: ModelDependency, parts: PartsDependency) -> ModelReady:
    """Tell whether a model is loaded and warmed up, and the service is not shutting down."""
    check_readiness(parts)
    return ModelReady(name=model.name, ready=True)


@_on_model("GET", "/config", ANY_KEY, responses=_describe_errors(401, 404, 503), response_model_exclude_none=True)
async def get_config(model: ModelDependency, parts: PartsDependency) -> ModelConfig:
    """Show a model's tensors in the form of Triton's model configuration."""
    inputs = describe_inputs(model.input)
    return ModelConfig(
        name=model.name,
        platform=PLATFORM,
        max_batch_size=parts.settings.max_inputs,
        input=[_configure(tensor, optional=len(inputs) > 1 or None) for tensor in inputs],
        output=[_configure(tensor) for tensor in describe_outputs(model)],
    )


def _configure(tensor: TensorMetadata, optional: bool | None = None) -> TensorConfig:
    name = "STRING" if tensor.datatype == "BYTES" else tensor.datatype
    return TensorConfig(name=tensor.name, data_type=f"TYPE_{name}", dims=tensor.shape[1:], optional=optional)


@_on_model("GET", "/stats", ANY_KEY, responses=_describe_errors(401, 404, 503))
async def get_statistics(model: ModelDependency, parts: PartsDependency) -> StatisticsAnswer:
    """Show statistics of a model."""
    return StatisticsAnswer(model_stats=[_report(model, parts.statistics.find(model))])


def _report(model: Model, counts: Counts) -> ModelStatistics:
    return ModelStatistics(
        name=model.name,
        version=model.version,
        last_inference=counts.last_success,
        inference_count=counts.inputs,
        inference_stats=InferenceStatistics(
            success=DurationStatistics(count=counts.successes, ns=counts.success_nanoseconds),
            fail=DurationStatistics(count=counts.failures, ns=counts.failure_nanoseconds),
        ),
    )


def _describe_inference() -> dict[str, Any]:
    """The OpenAPI description of the bodies that `infer_tensors` accepts."""
    example = base64.b64encode(EXAMPLE_IMAGE.read_bytes()).decode()
    image = {"name": "encoded_images", "shape": [1], "datatype": "BYTES", "data": [example]}
    vectors = {"name": "inputs", "shape": [2, 1], "datatype": "FP32", "data": [-1.5, 3]}
    examples = {
        "images": {"summary": "For a model of images", "value": {"inputs": [image], "parameters": {"seed": 7}}},
        "vectors": {"summary": "For a model of vectors", "value": {"inputs": [vectors], "parameters": {"seed": 7}}},
    }
    body = describe_body(InferenceRequest, required=True, examples=examples)
    body["content"][BINARY] = BINARY_SCHEMA
    return body


@_on_model(
    "POST",
    "/infer",
    Depends(require("predict")),
    response_model=InferenceAnswer,
    responses={
        200: {"content": {BINARY: BINARY_SCHEMA}},
        **_describe_errors(400, 401, 403, 404, 408, 413, 415, 429, 500, 503, 504),
    },
    openapi_extra={"requestBody": _describe_inference()},
)
async def infer_tensors(
    request: Request,
    parts: PartsDependency,
    model: ModelDependency,
    header_length: Annotated[
        int | None,
        Header(alias=HEADER_LENGTH, ge=0, description="Length of the JSON before binary tensors; 0 if there is none."),
    ] = None,
) -> Response:
    """Predict with an ensemble of sampled networks.

    A model of images takes `images` at its own size, or `encoded_images`: image files of any usual format and size,
    as base64 in JSON. A model of vectors takes `inputs`. The body may be compressed, with `Content-Encoding` gzip or
    deflate.

    If `Inference-Header-Content-Length` is 0, the body is the tensor of one input: an encoded image or a vector.
    """
    asking, settings = Asking(request, parts, model), parts.settings
    start, answered = time.perf_counter_ns(), 0
    try:
        body, encoding = await read_body(request, settings, asking.deadline), read_encoding(request)
        read = partial(_read, body, encoding, header_length, model.input, settings)
        small = len(body) <= SMALL_BODY and encoding == "identity"
        message, array = read() if small else await to_thread.run_sync(read)
        asked = message.parameters
        asking.limit_time(asked.timeout / 1e6 if asked.timeout else None)
        members = any(output.name == "members" for output in message.outputs)
        question = Question(asked.ensemble_size, asked.false_alarm_rate, asked.coverage, members)
        if "version" not in request.path_params and asked.seed is None:
            asking = divide(asking, question)
        answering = asking.model
        size, rule = question.choose_ensemble(asking)
        outputs = choose_outputs(message.outputs, answering, asked.coverage, grows=rule is not None)
        asking.check_room(len(array) * size)
        with parts.metrics.time("decode", model.name):
            inputs = await convert_input(asking, array)
        answer = await asking.predict(inputs, asked.seed, size, rule)

        def write() -> Response:
            findings = apply_calibration(answering, answer, asked.false_alarm_rate, asked.coverage)
            log_answer(asking, inputs, answer, findings)
            return _write(message, outputs, answering, answer, findings)

        few = len(inputs) <= FEW_INPUTS and not members
        with parts.metrics.time("serialise", model.name):
            response = write() if few else await to_thread.run_sync(write)
        await asking.keep(answer)
        shadow(asking, question, inputs, answer)
        answered = len(inputs)
        return response
    finally:
        parts.statistics.record(asking.model, answered, time.perf_counter_ns() - start)


def _read(
    body: bytes, encoding: str, header_length: int | None, spec: InputSpec, settings: Settings
) -> tuple[InferenceRequest, Array]:
    content = decompress(body, encoding, settings)
    if header_length == 0:
        message, tensors = read_raw(content, spec)
    else:
        most_values = 2 * settings.max_inputs * math.prod(spec.shape) + OTHER_VALUES
        message, tensors = read_request(content, header_length, most_values)
    return message, read_input(message.inputs, tensors, spec, settings)


def _write(
    message: InferenceRequest,
    outputs: Sequence[RequestedOutput],
    model: Model,
    answer: Answer,
    findings: Sequence[Findings],
) -> Response:
    header = InferenceAnswer(
        model_name=model.name,
        model_version=model.version,
        id=message.id if "id" in message.model_fields_set else None,
        parameters=_describe_answer(findings[-1], grew=answer.rule is not None),
        outputs=[],
    )
    tensors = []
    for output in outputs:
        in_binary = output.parameters.binary_data
        in_binary = message.parameters.binary_data_output if in_binary is None else in_binary
        tensors.append((output.name, collect_output(output, model, answer.parts, findings), in_binary))
    return write_answer(header, tensors)


def _describe_answer(findings: Findings, *, grew: bool) -> dict[str, bool | int | float | str]:
    """Parameters of an answer, which hold for all inputs."""
    ensemble = findings.ensemble
    parameters: dict[str, bool | int | float | str] = {
        "seed": ensemble.seed,
        "ensemble_size": ensemble.size,
        "precision": ensemble.precision,
    }
    if ensemble.temperature is not None and not grew:
        parameters["temperature"] = ensemble.temperature
    if findings.coverage:
        parameters["coverage"] = findings.coverage
    for flag, judgement in findings.judgements.items():
        if not grew:
            parameters[f"{flag}_threshold"] = judgement.threshold
        parameters |= {f"{flag}_score_name": judgement.score_name, "false_alarm_rate": judgement.false_alarm_rate}
    return parameters
