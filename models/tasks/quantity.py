"""Quantities that are measured on an ensemble's answer.

A quantity is declared once, as an annotated field of the dataclass that a task's `measure` returns. JSON answers,
tensors, the signatures of the Open Inference Protocol, the service's metrics and the scores of flags derive from it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_type_hints

Axis = Literal["inputs", "outputs"]
Unit = Literal["nats", "1", "outputs", "outputs²"]
"""Unit of a quantity: 1 for shares and ratios, outputs for the unit of the predicted numbers."""


@dataclass(frozen=True)
class Quantity:
    """Description of a quantity."""

    description: str
    unit: Unit
    axes: tuple[Axis, ...] = ("inputs",)
    score: bool = False
    """Whether it grows with uncertainty, so that it can rank inputs."""
    monitored: bool = False
    """Whether the service's metrics have a histogram of it."""


def list_quantities(measures: type[Any]) -> Mapping[str, Quantity]:
    """Quantities among a dataclass's fields, by name, in order."""
    annotations = get_type_hints(measures, include_extras=True)
    return {
        name: detail
        for name, annotation in annotations.items()
        for detail in getattr(annotation, "__metadata__", ())
        if isinstance(detail, Quantity)
    }
