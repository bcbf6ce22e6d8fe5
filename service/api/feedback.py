"""Routes of feedback: labels of earlier answers, and what they say."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import asdict
from typing import Annotated, TypeVar

from fastapi import APIRouter, Depends, Query, Request

from models.feedback.labels import FeedbackError, GivenLabel
from models.feedback.measures import LEVEL, Measures, Share
from models.model import Model
from models.tasks.probabilities import BINS
from service.api.answers import identify
from service.api.asking import Deadline, find_exchange, set_deadline, wait_for
from service.api.dependencies import ANY_KEY, PartsDependency, describe_body, describe_errors
from service.api.feedback_schemas import (
    CoverageAnswer,
    FeedbackAnswer,
    FeedbackParameters,
    LabelRefusal,
    LabelsAnswer,
    LabelsBody,
    ShareAnswer,
)
from service.api.uploads import read_json
from service.errors import ServiceError
from service.feedback import Feedback
from service.operation.access import require
from service.parts import Parts

Result = TypeVar("Result")

_HINT = 'Send {"labels": [{"request_id": "…", "index": 0, "label": "…"}, …]}.'

router = APIRouter(tags=["feedback"])


@router.post(
    "/v1/feedback",
    responses=describe_errors(401, 403, 408, 409, 413, 415, 422, 503, 504),
    openapi_extra={"requestBody": describe_body(LabelsBody)},
    dependencies=[Depends(require("predict"))],
)
async def post_labels(request: Request, parts: PartsDependency) -> LabelsAnswer:
    """Say what was right, of inputs that were answered earlier.

    An answer is named by the `X-Request-ID` that came with it, and the number of the input. It must have been given to
    the same key. The first label of an answer stays. Labels that are refused do not hinder the others.
    """
    feedback = _find_feedback(parts)
    deadline = set_deadline(request, None, parts)
    body = await read_json(request, parts.settings, deadline, LabelsBody, "feedback is sent", _HINT)
    labels = [GivenLabel(label.request_id, label.index, label.label) for label in body.labels]
    client = find_exchange(request).key
    outcomes = await _wait_for(lambda: feedback.label(client, labels), request, deadline)
    counts = [outcome for outcome, _ in outcomes]
    return LabelsAnswer(
        recorded=counts.count("recorded"),
        repeated=counts.count("repeated"),
        refused=[
            LabelRefusal(number=number, code=outcome, message=f"{reason[:1].upper()}{reason[1:]}.")
            for number, (outcome, reason) in enumerate(outcomes)
            if reason
        ],
    )


@router.get(
    "/v1/models/{model}/feedback",
    responses=describe_errors(401, 404, 409, 422, 503, 504),
    response_model_exclude_none=True,
    dependencies=[ANY_KEY],
)
async def get_measures(
    request: Request,
    model: str,
    parts: PartsDependency,
    parameters: Annotated[FeedbackParameters, Query()],
) -> FeedbackAnswer:
    """Show how right a model's answers were, as far as their labels have arrived."""
    feedback, deadline = _find_feedback(parts), set_deadline(request, None, parts)
    stable, asked = parts.catalog.resolve(model), parameters.version or "stable"
    found = parts.catalog.find_versions(model).find(asked)
    version = asked if found is None else found.version
    try:
        measures = await _wait_for(lambda: feedback.measure(model, version), request, deadline)
    except LookupError as error:
        if found is None:
            hint = "Leave out version, or wait until it has answered."
            raise ServiceError(
                404, "unknown_version", f"No answer of {model} at that version is kept.", hint
            ) from error
        measures = Measures(answers=0, labels=0, dropped=0)
    return _answer_measures(found if isinstance(found, Model) else stable, version, measures)


def _find_feedback(parts: Parts) -> Feedback:
    if parts.feedback is None:
        hint = "The operator can start it with --feedback FILE, or with the URL of a PostgreSQL database."
        raise ServiceError(409, "feedback_off", "This service keeps no answers, so it takes no labels.", hint)
    return parts.feedback


async def _wait_for(call: Callable[[], Future[Result]], request: Request, deadline: Deadline) -> Result:
    """Waits for a call that uses the store.

    Raises:
        ServiceError: 503 if the store cannot be used, and as `asking.wait_for`.
    """
    try:
        return await wait_for(asyncio.wrap_future(call()), request, deadline)
    except FeedbackError as error:
        message, hint = "The feedback store cannot be used.", "Try again later; the service's log says why."
        raise ServiceError(503, "feedback_unavailable", message, hint) from error


def _answer_measures(model: Model, version: str, measures: Measures) -> FeedbackAnswer:
    identity = identify(model)
    return FeedbackAnswer(
        model=identity.model_copy(update={"version": version}),
        answers=measures.answers,
        labels=measures.labels,
        dropped_labels=measures.dropped,
        error_probability=LEVEL,
        accuracy=measures.accuracy and _answer_share(measures.accuracy),
        negative_log_likelihood=measures.loss,
        expected_calibration_error=measures.calibration_error,
        calibration_bins=None if measures.calibration_error is None else BINS,
        root_mean_square_error=measures.errors and dict(measures.errors),
        coverage=[
            CoverageAnswer(
                **asdict(coverage.observed),
                promised=coverage.promised,
                doubtful_below=coverage.doubtful_below,
                alarm=coverage.alarm,
            )
            for coverage in measures.coverages
        ],
        alarm=measures.alarm,
        estimated_accuracy=measures.estimated_accuracy,
    )


def _answer_share(share: Share) -> ShareAnswer:
    return ShareAnswer(**asdict(share))
