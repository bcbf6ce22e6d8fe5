"""The route of sampled weights."""

from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response

from models.sequences.model import SequenceModel
from service.api.asking import check_count, check_members, find_exchange
from service.api.dependencies import (
    PartsDependency,
    ServedModelDependency,
    TimeoutHeader,
    check_health,
    describe_errors,
)
from service.api.downloads import BINARY, BINARY_SCHEMA, DownloadResponse
from service.api.schemas import WeightsParameters
from service.api.sequence_kinds import open_sequences
from service.api.sequence_requests import SequenceRequest
from service.api.weights_file import StepFile, WeightsFile, is_named, parse_range
from service.engine.engine import ServedModel
from service.engine.ensembles import choose_seed
from service.errors import ServiceError
from service.names import write_disposition, write_location
from service.operation.access import charge, require
from service.parts import Parts

router = APIRouter()


@router.get(
    "/v1/models/{model}/weights",
    tags=["weights"],
    response_class=Response,
    responses=describe_errors(401, 403, 404, 416, 422, 429, 503) | {200: {"content": {BINARY: BINARY_SCHEMA}}},
    dependencies=[Depends(require("weights"))],
)
async def get_weights(
    request: Request,
    parts: PartsDependency,
    model: ServedModelDependency,
    parameters: Annotated[WeightsParameters, Query()],
    timeout: TimeoutHeader = None,
) -> Response:
    """Download sampled networks as a safetensors file.

    The tensors have exactly the target's `state_dict` keys. With `count`, several networks are stacked on a leading
    axis. With a seed, the answer can be cached, revalidated and resumed. Without one, the networks are new, and the
    answer names their seed.

    The weights of a HyperLSTM change at each step. By default the file has the parameters that generate them. With
    `prompt` or `step`, it has an LSTM's: the weights of the step after so many elements of the prompt.
    """
    settings = parts.settings
    check_health(parts.engine)  # now, as an answer that has begun cannot report it
    count = parameters.count or 1
    check_count("count", count, settings.max_ensemble_size)
    check_members(model, parameters.member + count)
    seed = choose_seed() if parameters.seed is None else parameters.seed
    members = range(parameters.member, parameters.member + count)
    file = WeightsFile(model, seed, members, parameters.count is not None, parameters.dtype)
    if parameters.prompt is not None or parameters.step is not None:
        asking, given = _read_prompt(request, parts, model, timeout, parameters)
        file = StepFile(model, seed, members, False, parameters.dtype, asking, parameters.prompt or "", given)
    if file.size > settings.max_weights_bytes:
        message, hint = f"The file would have {file.size} bytes.", f"It may have at most {settings.max_weights_bytes}."
        raise ServiceError(422, "weights_too_large", message, hint)
    seeded = parameters.seed is not None
    etag = file.etag(parts.engine.device)
    headers = {
        "Content-Type": BINARY,
        "Content-Disposition": write_disposition(file.filename),
        "X-Hyperdraw-Seed": str(file.seed),
        "X-Hyperdraw-Version": model.version,
        "Cache-Control": "no-store",
    }
    if seeded:
        pinned = parameters.version == model.version
        lifetime = "max-age=31536000, immutable" if pinned else "no-cache"  # a name may get another version
        headers |= {"Cache-Control": f"private, {lifetime}", "ETag": etag, "Accept-Ranges": "bytes"}
        if is_named(etag, request.headers.get("if-none-match")):
            return Response(status_code=304, headers=headers)
    else:
        fresh = request.url.include_query_params(seed=file.seed, version=model.version)
        headers["Content-Location"] = write_location(request.scope["path"], fresh.query)

    status, start, stop = 200, 0, file.size
    if seeded and request.headers.get("if-range", etag) == etag:
        try:
            asked = parse_range(request.headers.get("range"), file.size)
        except ValueError as error:
            length = {"Content-Range": f"bytes */{file.size}"}
            raise ServiceError(
                416, "range_not_satisfiable", f"{error}.", "Request bytes within the file.", length
            ) from error
        if asked is not None:
            status, (start, stop) = 206, asked
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{file.size}"
    headers["Content-Length"] = str(stop - start)
    if find_exchange(request).method != "HEAD":
        if isinstance(file, StepFile):
            await file.compute()
        else:
            await charge(request, count)
    chunks = parts.metrics.follow_download(model.name, file.stream(parts.engine, start, stop))
    return DownloadResponse(chunks, status, headers, parts, timeout)


def _read_prompt(
    request: Request, parts: Parts, model: ServedModel, timeout: float | None, parameters: WeightsParameters
) -> tuple[SequenceRequest, Sequence[Any]]:
    """The request to read a prompt, and its elements up to the step.

    Raises:
        ServiceError: 422 if the weights are the same at all steps, or there is no such step.
    """
    if not isinstance(model, SequenceModel) or not model.changes_weights:
        message = f"The weights of {model.name} do not change from step to step."
        raise ServiceError(422, "invalid_parameter", message, "Leave out prompt and step.")
    if parameters.count is not None:
        message, hint = "The weights of a step are those of one network.", "Leave out count, or prompt and step."
        raise ServiceError(422, "invalid_parameter", message, hint)
    asking = open_sequences(request, parts, model, timeout)
    given = asking.read_prompt(parameters.prompt) if parameters.prompt else []
    step = len(given) if parameters.step is None else parameters.step
    if step > len(given):
        message, hint = f"step is {step}.", f"The prompt has {len(given)} elements, so it may be at most {len(given)}."
        raise ServiceError(422, "invalid_parameter", message, hint)
    return asking, given[:step]
