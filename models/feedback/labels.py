"""Labels of answers: which a model can have, what becomes of them, and what they say.

Shapes: n labels, K outputs (classes or numbers), R calibrated rates.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal, TypeGuard

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

Label = int | list[float]
"""Index of a class, or K numbers."""

LARGEST = 1e100
"""Numbers that are labels are smaller, so that their squares can be added."""


class FeedbackError(Exception):
    """A store of feedback that cannot be used; the message says why, without passwords."""


@dataclass(frozen=True)
class AnsweringModel:
    """A version of a model, as far as its answers must be understood later."""

    name: str
    version: str
    kind: Literal["classification", "regression"]
    outputs: tuple[str, ...]
    """Names of the K classes or numbers."""
    rates: tuple[float, ...] = ()
    """The R rates of prediction sets or intervals that miss; none if the model is not calibrated."""
    inputs: int = 0
    """Number of inputs that it was calibrated with."""

    @property
    def observed(self) -> int:
        """Number of values that `observe` returns."""
        return 1 + len(self.rates) + (len(self.outputs) if self.kind == "regression" else 2)

    def read_label(self, label: object) -> Label:
        """Reads a class's name or index, or a number for each output.

        Raises:
            ValueError: if it is neither.
        """
        if self.kind == "regression":
            given = label if isinstance(label, list) else [label]
            numbers = [float(number) for number in given if _is_number(number)]
            if len(numbers) == len(given) == len(self.outputs):
                return numbers
            raise ValueError(f"the label must be {len(self.outputs)} finite numbers: {_shorten(self.outputs)}")
        if isinstance(label, str) and label in self.outputs:
            return self.outputs.index(label)
        if isinstance(label, int) and not isinstance(label, bool) and 0 <= label < len(self.outputs):
            return label
        names = f"{_shorten(self.outputs)}, or an index from 0 to {len(self.outputs) - 1}"
        raise ValueError(f"the label must be the name of a class, {names}")


STORED = TypeAdapter(AnsweringModel)
"""Reads what the store keeps of a model."""


@dataclass(frozen=True)
class GivenLabel:
    """A label, as a client gives it."""

    request_id: str
    position: int
    label: Any


Outcome = Literal["recorded", "repeated", "unknown_answer", "ambiguous_answer", "other_label", "invalid_label"]
"""What became of a label. A repeated one is known already."""


@dataclass(frozen=True)
class StoredModel:
    """A version of a model whose answers are in the store."""

    id: int
    model: AnsweringModel
    labels: int
    """Number of labels that its answers ever got."""


@dataclass(frozen=True)
class LabelledAnswers:
    """The labelled answers of a version, in the order of their labels."""

    kept: int
    """Number of its answers in the store, labelled or not."""
    confidence: float | None
    """Mean probability of the answered class, of all of them."""
    first: int
    """Number of the first label."""
    observations: NDArray[np.float64]
    """What `observe` says of each, [n, …]."""


def observe(model: AnsweringModel, answered: bytes, judged: bytes, allowed: bytes, label: Label) -> NDArray[np.float64]:
    """What a label says of an answer.

    Args:
        model: the model that answered.
        answered: one input's part of `KeptAnswers.answered`.
        judged: one input's part of `KeptAnswers.judged`.
        allowed: one input's part of `KeptAnswers.allowed`.
        label: the label.

    Returns:
        The negative log-likelihood, in nats for a class; for each rate whether the set has the class, or the share of
        the intervals that have their number; and for a class, whether the answer is right and the probability of the
        answered class, for numbers their squared errors: [1 + R + 2] or [1 + R + K].
    """
    values = np.frombuffer(answered, np.float32).astype(np.float64)
    if isinstance(label, int):
        best, inside = int(values.argmax()), np.arange(len(model.rates)) < np.frombuffer(allowed, np.uint16)[label]
        return np.array([-values[label], *inside, best == label, np.exp(values[best])], np.float64)
    means, deviations = values.reshape(2, -1)
    errors, deviations = np.array(label) - means, deviations.clip(np.finfo(np.float32).tiny)
    loss = (np.log(deviations) + math.log(2 * math.pi) / 2 + (errors / deviations) ** 2 / 2).sum()
    centres = np.frombuffer(judged, np.float32)[: len(means)]
    reaches = np.frombuffer(allowed, np.float32).reshape(-1, len(means))
    return np.array([loss, *(np.abs(np.array(label) - centres) <= reaches).mean(1), *errors**2], np.float64)


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < LARGEST


def _shorten(names: tuple[str, ...]) -> str:
    """Names for a message, at most five of them."""
    return ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
