"""The route of predictions."""

from typing import Annotated

from anyio import to_thread
from fastapi import APIRouter, Depends, Query, Response

from service.api.answers import answer_prediction, pack_prediction
from service.api.asking import FEW_INPUTS
from service.api.dependencies import AskingDependency, describe_errors
from service.api.downloads import BINARY, BINARY_SCHEMA
from service.api.schemas import PredictAnswer, PredictParameters
from service.api.uploads import describe_upload, read_inputs
from service.operation.access import require

router = APIRouter()


@router.post(
    "/v1/models/{model}/predict",
    tags=["prediction"],
    response_model=PredictAnswer,
    responses=describe_errors(401, 403, 404, 408, 413, 415, 422, 429, 500, 503, 504)
    | {200: {"content": {BINARY: BINARY_SCHEMA}}},
    openapi_extra=describe_upload(),
    dependencies=[Depends(require("predict"))],
)
async def predict(asking: AskingDependency, parameters: Annotated[PredictParameters, Query()]) -> Response:
    """Predict with an ensemble of sampled networks.

    A model of images takes image files of any usual format and size, and resizes them. A model of vectors takes rows
    of numbers as JSON.
    """
    model = asking.model
    size = asking.choose_size(parameters.ensemble_size)
    asking.check_rates(parameters.false_alarm_rate, parameters.coverage)
    inputs = await read_inputs(asking, size)
    answer = await asking.predict(inputs, parameters.seed, size)

    def encode() -> bytes:
        if parameters.format == "safetensors":
            return pack_prediction(model, answer, parameters)
        return answer_prediction(model, answer, parameters).model_dump_json(exclude_none=True).encode()

    few = len(inputs) <= FEW_INPUTS and not parameters.members
    with asking.parts.metrics.time("serialise", model.name):
        content = encode() if few else await to_thread.run_sync(encode)
    return Response(content, media_type="application/json" if parameters.format == "json" else BINARY)
