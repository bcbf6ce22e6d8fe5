"""The route of sampled weights."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Response

from service.api.asking import check_count
from service.api.dependencies import AskingDependency, check_health, describe_errors
from service.api.downloads import BINARY, BINARY_SCHEMA, DownloadResponse
from service.api.schemas import WeightsParameters
from service.api.weights_file import WeightsFile, is_named, parse_range
from service.engine.ensembles import choose_seed
from service.errors import ServiceError
from service.names import write_disposition, write_location
from service.operation.access import require

router = APIRouter()


@router.get(
    "/v1/models/{model}/weights",
    tags=["weights"],
    response_class=Response,
    responses=describe_errors(401, 403, 404, 416, 422, 429, 503) | {200: {"content": {BINARY: BINARY_SCHEMA}}},
    dependencies=[Depends(require("weights"))],
)
async def get_weights(asking: AskingDependency, parameters: Annotated[WeightsParameters, Query()]) -> Response:
    """Download sampled networks as a safetensors file.

    The tensors have exactly the target's `state_dict` keys. With `count`, several networks are stacked on a leading
    axis. With a seed, the answer can be cached, revalidated and resumed. Without one, the networks are new, and the
    answer names their seed.
    """
    parts, settings = asking.parts, asking.parts.settings
    check_health(parts.engine)  # now, as an answer that has begun cannot report it
    count = parameters.count or 1
    check_count("count", count, settings.max_ensemble_size)
    asking.check_members(parameters.member + count)
    model = parts.catalog.resolve(asking.model.name, parameters.version)
    file = WeightsFile(
        model=model,
        seed=choose_seed() if parameters.seed is None else parameters.seed,
        members=range(parameters.member, parameters.member + count),
        stacked=parameters.count is not None,
        dtype=parameters.dtype,
    )
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
        pinned = parameters.version is not None
        lifetime = "max-age=31536000, immutable" if pinned else "no-cache"  # a name may get another version
        headers |= {"Cache-Control": f"private, {lifetime}", "ETag": etag, "Accept-Ranges": "bytes"}
        if is_named(etag, asking.request.headers.get("if-none-match")):
            return Response(status_code=304, headers=headers)
    else:
        fresh = asking.request.url.include_query_params(seed=file.seed, version=model.version)
        headers["Content-Location"] = write_location(asking.request.scope["path"], fresh.query)

    status, start, stop = 200, 0, file.size
    if seeded and asking.request.headers.get("if-range", etag) == etag:
        try:
            asked = parse_range(asking.request.headers.get("range"), file.size)
        except ValueError as error:
            length = {"Content-Range": f"bytes */{file.size}"}
            raise ServiceError(
                416, "range_not_satisfiable", f"{error}.", "Request bytes within the file.", length
            ) from error
        if asked is not None:
            status, (start, stop) = 206, asked
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{file.size}"
    headers["Content-Length"] = str(stop - start)
    chunks = parts.metrics.follow_download(model.name, file.stream(parts.engine, start, stop))
    return DownloadResponse(chunks, status, headers, parts, asking.timeout)
