"""Schemas of feedback."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, FailFast, Field, field_validator

from models.feedback.labels import Outcome
from service.api.schemas import ModelIdentity
from service.operation.middleware import REQUEST_ID

MOST_LABELS = 1000
"""Most labels in a request."""

ALL_TIMES = "valid at all times at once, however often one looks"


class LabelBody(BaseModel):
    """The label of one answer."""

    model_config = ConfigDict(extra="forbid", strict=True)

    request_id: str = Field(
        pattern=f"^{REQUEST_ID.pattern}$", description="The X-Request-ID of the answer to the prediction."
    )
    index: int = Field(0, ge=0, lt=2**31, description="Number of the input in that request, from 0.")
    label: str | int | float | list[Any] = Field(
        description="The right class, by name or index, or the right numbers: one, or a list in the model's order."
    )

    @field_validator("label", mode="before")
    @classmethod
    def _check_kind(cls, label: object) -> object:
        if isinstance(label, bool) or not isinstance(label, str | int | float | list):
            raise ValueError("a label is a name or a number, or a list of numbers")
        return label


class LabelsBody(BaseModel):
    """Labels of earlier answers."""

    model_config = ConfigDict(extra="forbid")

    labels: Annotated[list[LabelBody], FailFast()] = Field(min_length=1, max_length=MOST_LABELS)


class LabelRefusal(BaseModel):
    """A label that was not recorded."""

    number: int = Field(description="Number of the label in the request, from 0.")
    code: Outcome = Field(description="Kind of refusal, for programs.")
    message: str


class LabelsAnswer(BaseModel):
    """What became of the labels."""

    recorded: int = Field(description="Number of new labels.")
    repeated: int = Field(description="Number of labels that were known already, and say the same.")
    refused: list[LabelRefusal]


class FeedbackParameters(BaseModel):
    """Query parameters of the running measures."""

    model_config = ConfigDict(extra="forbid")

    version: str | None = Field(
        None,
        max_length=64,
        description="Version of the model: its digest, or stable, candidate or previous; by default the stable one.",
    )


class ShareAnswer(BaseModel):
    """A share of the labelled answers, with a confidence interval for the probability behind it."""

    share: float
    lower: float = Field(description=f"Lower end of the interval, {ALL_TIMES}.")
    upper: float = Field(description=f"Upper end of the interval, {ALL_TIMES}.")


class CoverageAnswer(ShareAnswer):
    """The share of prediction sets that contain the label, or of intervals that contain their number."""

    promised: float = Field(description="Coverage that the calibration promises.")
    doubtful_below: float = Field(description="Coverage that chance in the calibration may still explain.")
    alarm: bool = Field(description="Whether the coverage is, or has become, less than that.")


class FeedbackAnswer(BaseModel):
    """Running measures of a version of a model, from the labels that have arrived.

    The intervals hold while the probability of a right answer, given the past, stays the same, and if labels arrive
    whether or not the answer is right.
    """

    model: ModelIdentity
    answers: int = Field(description="Number of answers that are kept, with or without a label.")
    labels: int = Field(description="Number of labels behind the measures.")
    dropped_labels: int = Field(description="Number of earlier labels, whose answers are no longer kept.")
    error_probability: float = Field(
        description="Probability of each of these, over all time: that the accuracy leaves its interval, that some "
        "coverage leaves its interval, that an alarm is false."
    )
    accuracy: ShareAnswer | None = Field(None, description="Of classes.")
    negative_log_likelihood: float | None = Field(None, description="Mean, for classes in nats.")
    expected_calibration_error: float | None = Field(
        None, description="Of the answered class, in as many bins of equal width as `calibration_bins` says."
    )
    calibration_bins: int | None = None
    root_mean_square_error: dict[str, float] | None = Field(None, description="Of each number, by name.")
    coverage: list[CoverageAnswer] = Field(
        description="One for each calibrated coverage, whether or not sets were requested."
    )
    alarm: bool = Field(description="Whether some coverage is below its promise.")
    estimated_accuracy: float | None = Field(
        None,
        description="Not a measurement: the mean probability of the answered classes, of all answers that are kept, "
        "with or without a label. It is the accuracy if the probabilities are calibrated for these inputs, and says "
        "nothing if inputs have changed so that they are not.",
    )
