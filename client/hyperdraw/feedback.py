"""The calls of feedback: labels of earlier answers, and what they say of a model."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hyperdraw.answers import (
    Classification,
    ModelIdentity,
    Prediction,
    Regression,
    explain_answers,
    read_fields,
)
from hyperdraw.asking import ask, ask_model, find_path, set_limit
from hyperdraw.attempts import Attempts
from hyperdraw.transfer import Connection, RequestSpec

MOST_TOGETHER = 1000
"""Most labels that the service takes in a request."""

Label = str | int | float | Sequence[float]
"""A class, by name or index, or the numbers that were right."""


@dataclass(frozen=True)
class LabelRefusal:
    """A label that was not recorded."""

    number: int
    """Number of the label among those that were sent."""
    code: str
    """Kind of refusal, for programs: `unknown_answer`, `ambiguous_answer`, `other_label` or `invalid_label`."""
    message: str


@dataclass(frozen=True)
class Labelling:
    """What became of labels."""

    recorded: int
    repeated: int
    """Labels that were known already, and say the same."""
    refused: tuple[LabelRefusal, ...]


@dataclass(frozen=True)
class LabelledShare:
    """A share of the labelled answers, and an interval for the probability behind it, valid at all times at once."""

    share: float
    lower: float
    upper: float


@dataclass(frozen=True)
class LabelledCoverage(LabelledShare):
    """The share of prediction sets or intervals that contain what they promise to."""

    promised: float
    doubtful_below: float
    """Coverage that chance in the calibration may still explain."""
    alarm: bool
    """Whether the coverage is, or has become, less than that."""


@dataclass(frozen=True)
class Feedback:
    """Running measures of a version of a model, from the labels that have arrived."""

    model: ModelIdentity
    answers: int
    """Answers that are kept, with or without a label."""
    labels: int
    dropped_labels: int
    """Earlier labels, whose answers are no longer kept."""
    error_probability: float
    """Probability that an interval, or an alarm, is ever wrong."""
    coverage: tuple[LabelledCoverage, ...]
    alarm: bool
    """Whether some coverage is below its promise."""
    accuracy: LabelledShare | None = None
    negative_log_likelihood: float | None = None
    expected_calibration_error: float | None = None
    calibration_bins: int | None = None
    root_mean_square_error: Mapping[str, float] | None = None
    estimated_accuracy: float | None = None
    """Not a measurement: the mean probability of the answered classes, labelled or not. It is the accuracy if the
    probabilities are calibrated for these inputs."""


def label(
    client: Connection,
    answers: Prediction | Iterable[tuple[str, int]],
    labels: Iterable[Label],
    *,
    timeout: float | None = None,
) -> Attempts[Labelling]:
    """Tells the service what was right, however late. A label that is refused does not hinder the others.

    Args:
        client: the client that asks. It must have the API key with which the answers were asked for.
        answers: a prediction, or the id of the request and the number of the input in it for each answer.
        labels: a label for each input: a class's name or index, a number, or a list of numbers.
        timeout: seconds that each request may take, retries included. Each has up to 1,000 labels.

    Raises:
        ValueError: if there is not one label for each answer, or the prediction has no ids.
        ServiceError: if the service keeps no answers.
        HyperdrawError: for any other failure; `hyperdraw.errors` lists them.
    """
    names = _list_names(answers) if isinstance(answers, Classification | Regression) else list(answers)
    given = list(labels)
    if len(given) != len(names):
        raise ValueError(f"there are {len(given)} labels for {len(names)} answers")
    recorded, repeated, refused = 0, 0, list[LabelRefusal]()
    for start in range(0, len(given), MOST_TOGETHER):
        some = slice(start, start + MOST_TOGETHER)
        content = [
            {"request_id": request_id, "index": int(index), "label": value}
            for (request_id, index), value in zip(names[some], given[some], strict=True)
        ]
        body = json.dumps({"labels": content}, default=_simplify).encode()
        request = RequestSpec("POST", "/v1/feedback", content=body, content_type="application/json")
        answer = yield from ask(client, request, set_limit(client, timeout))
        with explain_answers():
            found = json.loads(answer)
            recorded, repeated = recorded + found["recorded"], repeated + found["repeated"]
            refused += [
                LabelRefusal(start + each["number"], each["code"], each["message"]) for each in found["refused"]
            ]
    return Labelling(recorded, repeated, tuple(refused))


def feedback(
    client: Connection, model: str | None = None, *, version: str | None = None, timeout: float | None = None
) -> Attempts[Feedback]:
    """Tells how right a model's answers were, as far as their labels have arrived.

    Args:
        client: the client that asks.
        model: name of the model; by default the service's default model.
        version: version of the model: a digest or its beginning, `stable`, `candidate` or `previous`; by default the
            stable one.
        timeout: seconds that the call may take.

    Raises:
        NotFound: if the service has no such model, or keeps no answers of that version.
        ServiceError: if the service keeps no answers.
        HyperdrawError: for any other failure; `hyperdraw.errors` lists them.
    """
    limit = set_limit(client, timeout)

    def fetch(name: str) -> Attempts[bytes]:
        return (yield from ask(client, RequestSpec("GET", f"{find_path(name)}/feedback", {"version": version}), limit))

    _, answer = yield from ask_model(client, model, limit, fetch)
    with explain_answers():
        content = json.loads(answer)
        accuracy = content.get("accuracy")
        content |= {
            "model": read_fields(ModelIdentity, content["model"]),
            "coverage": tuple(read_fields(LabelledCoverage, each) for each in content["coverage"]),
            "accuracy": accuracy and read_fields(LabelledShare, accuracy),
        }
        return read_fields(Feedback, content)


def _list_names(answer: Prediction) -> list[tuple[str, int]]:
    """The request and the number there of each input.

    Raises:
        ValueError: if they are not known.
    """
    if answer.request_ids is None or answer.request_indices is None:
        raise ValueError("the answer has no X-Request-ID, which a proxy may have removed")
    return list(zip(np.atleast_1d(answer.request_ids), np.atleast_1d(answer.request_indices), strict=True))


def _simplify(value: Any) -> Any:
    """Converts what numpy and PyTorch have instead of numbers."""
    return value.tolist()
