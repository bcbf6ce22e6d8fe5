"""Answers that nobody gave, for stores of feedback."""

import time

import numpy as np
from numpy.typing import NDArray

from models.feedback.answers import Floats, KeptAnswers, RequestAnswers
from models.feedback.labels import AnsweringModel

CLASSES = AnsweringModel("birds", "f" * 64, "classification", ("owl", "tit", "wren"), (0.05, 0.2), 1000)
NUMBERS = AnsweringModel("weights", "e" * 64, "regression", ("grams", "age"), (0.1,), 500)


def make_answers(
    request_id: str, count: int = 1, client: str = "", model: AnsweringModel = CLASSES, age: float = 0.0
) -> RequestAnswers:
    """Answers to a request of some inputs: an owl with 70 %, or 20 g ± 2 and 5 years ± 1. The set of 95 % also has the
    tit, and the intervals reach 4 g and 2 years."""
    if model is CLASSES:
        answered = np.log(np.array([[0.7, 0.2, 0.1]] * count, np.float32))
        allowed: NDArray[np.uint16] | Floats = np.array([[2, 1, 0]] * count, np.uint16)
    else:
        answered = np.array([[[20, 5], [2, 1]]] * count, np.float32)
        allowed = np.array([[[4, 2]]] * count, np.float32)
    part = KeptAnswers(
        positions=list(range(count)),
        ensemble_size=100,
        calibrated_size=100,
        answered=answered,
        judged=answered,
        allowed=allowed,
        scores={"out_of_distribution": [0.5] * count},
        flagged={"out_of_distribution": [False] * count},
    )
    return RequestAnswers(client, request_id, model, 7, time.time() - age, [part])
