"""Routes about models."""

import asyncio

from fastapi import APIRouter, Depends

from service.api.answers import describe_model, identify, list_models
from service.api.dependencies import ANY_KEY, ModelDependency, PartsDependency, describe_errors
from service.api.schemas import ModelDescription, ModelsAnswer, ReloadAnswer
from service.operation.access import require

router = APIRouter(prefix="/v1/models", tags=["models"])


@router.get("", responses=describe_errors(401), dependencies=[ANY_KEY])
async def get_models(parts: PartsDependency) -> ModelsAnswer:
    """List the models, the default first, and what a request may hold."""
    return list_models(parts.catalog, parts.settings)


@router.get("/{model}", responses=describe_errors(401, 404, 503), dependencies=[ANY_KEY])
async def get_model(model: ModelDependency) -> ModelDescription:
    """Describe a model: input, classes, target network, training, thresholds and measurements."""
    return describe_model(model)


@router.post(
    "/{model}:reload",
    responses=describe_errors(401, 403, 404, 409, 503),
    dependencies=[Depends(require("admin"))],
)
async def reload_model(model: str, parts: PartsDependency) -> ReloadAnswer:
    """Reload a model from its files, or load a new one.

    The new version is loaded beside the served one, verified and warmed up, and then replaces it. Requests that have
    begun are answered by the version that they began with. If the new version cannot be loaded, nothing changes.
    """
    loaded, changed = await asyncio.wrap_future(parts.catalog.request_reload(model))
    return ReloadAnswer(model=identify(loaded), changed=changed)
