"""Routes about models."""

import hashlib
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Response

from models.examples import MEDIA_TYPES
from models.sequences.model import SequenceModel
from service.api.answers import describe_model, describe_sequence_model, identify, list_models
from service.api.dependencies import ANY_KEY, PartsDependency, ServedModelDependency, describe_errors
from service.api.downloads import BINARY_SCHEMA
from service.api.schemas import ModelDescription, ModelsAnswer, ReloadAnswer, SequenceModelDescription
from service.api.weights_file import is_named
from service.errors import ServiceError
from service.operation.access import require

router = APIRouter(prefix="/v1/models", tags=["models"])


@router.get("", responses=describe_errors(401), dependencies=[ANY_KEY])
async def get_models(parts: PartsDependency) -> ModelsAnswer:
    """List the models, the default first, and what a request may hold."""
    return list_models(parts.catalog, parts.settings)


@router.get("/{model}", responses=describe_errors(401, 404, 422, 503), dependencies=[ANY_KEY])
async def get_model(
    model: ServedModelDependency, parts: PartsDependency
) -> ModelDescription | SequenceModelDescription:
    """Describe a model: input, classes, target network, training, thresholds, measurements and examples."""
    served = parts.catalog.find_versions(model.name)
    if isinstance(model, SequenceModel):
        return describe_sequence_model(model, served)
    return describe_model(model, served)


@router.get(
    "/{model}/examples/{file}",
    response_class=Response,
    responses=describe_errors(401, 404, 422, 503)
    | {200: {"content": dict.fromkeys(MEDIA_TYPES.values(), BINARY_SCHEMA)}, 304: {"description": "Not modified"}},
    dependencies=[ANY_KEY],
)
async def get_example(
    model: ServedModelDependency,
    file: str,
    if_none_match: Annotated[str | None, Header(include_in_schema=False)] = None,
) -> Response:
    """Download an example input of a model, which the model's description lists."""
    examples = () if isinstance(model, SequenceModel) else model.examples
    example = next((example for example in examples if example.entry.file == file), None)
    if example is None:
        names = ", ".join(example.entry.file for example in examples)
        hint = f"Its examples are {names}." if names else "It has no examples."
        raise ServiceError(404, "unknown_example", f"{model.name} has no example {file[:100]!r}.", hint)
    etag = f'"{hashlib.sha256(example.content).hexdigest()[:32]}"'
    headers = {"Cache-Control": "no-cache", "ETag": etag}
    if is_named(etag, if_none_match):
        return Response(status_code=304, headers=headers)
    return Response(example.content, media_type=example.media_type, headers=headers)


@router.post(
    "/{model}:reload",
    responses=describe_errors(401, 403, 404, 409, 503),
    dependencies=[Depends(require("admin"))],
)
async def reload_model(model: str, parts: PartsDependency) -> ReloadAnswer:
    """Reload a model from its files, or load a new one.

    The new version is loaded beside the served one, verified and warmed up, and then replaces it. Requests that have
    begun are answered by the version that they began with. If the new version cannot be loaded, nothing changes. The
    watch over its inputs begins anew, also if the version is the same.
    """
    loaded, changed = await parts.reload(model)
    return ReloadAnswer(model=identify(loaded), changed=changed)
