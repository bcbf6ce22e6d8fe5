"""The route of predictions."""

from typing import Annotated

from anyio import to_thread
from fastapi import APIRouter, Depends, Query, Request, Response

from models.sequences.model import SequenceModel
from service.api.answers import answer_prediction, pack_prediction
from service.api.asking import FEW_INPUTS, Asking, set_deadline
from service.api.dependencies import PartsDependency, ServedModelDependency, TimeoutHeader, describe_errors
from service.api.division import Question, divide, shadow
from service.api.downloads import BINARY, BINARY_SCHEMA
from service.api.findings import apply_calibration
from service.api.next_symbols import predict_next
from service.api.records import log_answer
from service.api.schemas import PredictAnswer, PredictParameters
from service.api.uploads import describe_upload, read_inputs
from service.api.writing import open_writing
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
async def predict(
    request: Request,
    parts: PartsDependency,
    model: ServedModelDependency,
    parameters: Annotated[PredictParameters, Query()],
    timeout: TimeoutHeader = None,
) -> Response:
    """Predict with an ensemble of sampled networks.

    A model of images takes image files of any usual format and size, and resizes them. A model of vectors takes rows
    of numbers as JSON. A model of text takes texts as JSON, and predicts the character that comes next.
    """
    if isinstance(model, SequenceModel):
        writing = open_writing(request, parts, model, timeout, set_deadline(request, timeout, parts))
        return await predict_next(writing, parameters)
    question = Question(parameters.ensemble_size, parameters.false_alarm_rate, parameters.coverage, parameters.members)
    asking = Asking(request, parts, model, timeout)
    if parameters.version is None and parameters.seed is None:
        asking = divide(asking, question)
    answering = asking.model
    size, rule = question.choose_ensemble(asking)
    inputs = await read_inputs(asking, size)
    answer = await asking.predict(inputs, parameters.seed, size, rule)

    def encode() -> bytes:
        findings = apply_calibration(answering, answer, parameters.false_alarm_rate, parameters.coverage)
        log_answer(asking, inputs, answer, findings)
        members = answer.prediction.members if parameters.members else None
        if parameters.format == "safetensors":
            return pack_prediction(answering, answer, findings, members)
        return answer_prediction(answering, findings, answer.rule, members).model_dump_json(exclude_none=True).encode()

    few = len(inputs) <= FEW_INPUTS and not parameters.members
    with parts.metrics.time("serialise", model.name):
        content = encode() if few else await to_thread.run_sync(encode)
    await asking.keep(answer)
    shadow(asking, question, inputs, answer)
    return Response(content, media_type="application/json" if parameters.format == "json" else BINARY)
