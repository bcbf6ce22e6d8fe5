"""Routes that explore a model: attacks on an image, and walks from network to network."""

from typing import Annotated

import torch
from fastapi import APIRouter, Depends, Query

from models.backbones.backbone import NO_GRADIENT
from service.api.answers import answer_attack, answer_walk
from service.api.dependencies import AskingDependency, describe_errors
from service.api.schemas import MOST_ATTACKED, AttackAnswer, AttackParameters, WalkAnswer, WalkParameters
from service.api.uploads import describe_upload, read_inputs
from service.engine.ensembles import choose_seed
from service.errors import ServiceError
from service.operation.access import require

GRADIENT_COST = 3
"""Cost of a forward and backward pass, in forward passes."""

router = APIRouter(
    prefix="/v1/models/{model}",
    tags=["exploration"],
    responses=describe_errors(401, 403, 404, 408, 413, 415, 422, 429, 500, 503, 504),
    dependencies=[Depends(require("predict"))],
)


@router.post("/attack", response_model_exclude_none=True, openapi_extra=describe_upload())
async def attack(asking: AskingDependency, parameters: Annotated[AttackParameters, Query()]) -> AttackAnswer:
    """Perturb one image so that networks change their answer, by projected gradient descent on its pixels.

    The attack knows the networks of the seed, which answer before and after it. Use predict to see how other networks
    answer. If this simple attack fails, a stronger one may still succeed.
    """
    model = asking.model
    if model.input.perturbable and not model.perturbable:
        message = f"{model.name} cannot be attacked: {NO_GRADIENT}."
        raise ServiceError(422, "not_attackable", message, "Only models without a backbone can be attacked here.")
    if not (model.perturbable and model.task.has_classes):
        message, hint = f"{model.name} is not a classifier of images.", "Only such models can be attacked here."
        raise ServiceError(422, "not_attackable", message, hint)
    size = min(asking.choose_size(parameters.ensemble_size), MOST_ATTACKED)
    asking.check_rates(parameters.false_alarm_rate, parameters.coverage)
    seed = choose_seed() if parameters.seed is None else parameters.seed
    cost = GRADIENT_COST * parameters.steps * size
    pixels = await read_inputs(asking, cost, most_inputs=1)
    found = await asking.compute(model.perturb(pixels, seed, size, parameters.epsilon, parameters.steps), cost)
    both = torch.cat([pixels, found])
    answer = await asking.predict(both, seed, size)
    return answer_attack(model, answer, both, parameters)


@router.post("/walk", openapi_extra=describe_upload())
async def walk(asking: AskingDependency, parameters: Annotated[WalkParameters, Query()]) -> WalkAnswer:
    """Predict one input with the networks on the paths between two sampled networks."""
    ends = parameters.first, parameters.last
    asking.check_members(max(ends) + 1)
    seed = choose_seed() if parameters.seed is None else parameters.seed
    cost = 2 * parameters.points
    inputs = await read_inputs(asking, cost, most_inputs=1)
    paths = await asking.compute(asking.model.follow_paths(inputs, seed, ends, parameters.points), cost)
    return answer_walk(asking.model, seed, ends, paths)
