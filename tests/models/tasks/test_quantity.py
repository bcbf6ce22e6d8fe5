"""Quantities are declared once; what answers, metrics and the client know of them follows from that."""

from dataclasses import dataclass, fields
from typing import Annotated

import hyperdraw.answers
import pytest

from models.tasks.classification import Classification, Uncertainty
from models.tasks.quantity import Quantity, list_quantities
from models.tasks.regression import Regression, RegressionUncertainty
from service.api.schemas import NumberAnswer, UncertaintyAnswer
from service.operation.metrics import ServiceMetrics

FIRST, SECOND = Quantity("One.", unit="nats"), Quantity("Two.", unit="1", axes=("inputs", "outputs"), score=True)


@dataclass
class Measures:
    second: Annotated[float, SECOND]
    other: float
    noted: Annotated[float, "a note"]
    first: Annotated[float, "a note", FIRST]


def test_quantities_are_the_fields_that_say_so() -> None:
    assert list(list_quantities(Measures).items()) == [("second", SECOND), ("first", FIRST)]


@pytest.mark.parametrize(
    ("task", "measures"),
    [(Classification, Uncertainty), (Regression, RegressionUncertainty)],
    ids=["classes", "numbers"],
)
def test_a_task_lists_what_it_measures(task: type[Classification | Regression], measures: type) -> None:
    assert task.quantities == list_quantities(measures)
    names = {field.name for field in fields(measures)}
    assert task.quantities.keys() <= names
    for scores in task.flag_scores.values():
        assert set(scores) <= names
        assert all(task.quantities[score].score for score in scores if score in task.quantities)


def test_answers_have_each_quantity() -> None:
    assert list(UncertaintyAnswer.model_fields) == list(Classification.quantities)
    each = [name for name, quantity in Regression.quantities.items() if quantity.axes == ("inputs", "outputs")]
    assert list(NumberAnswer.model_fields) == [*each, "interval"]
    schema = UncertaintyAnswer.model_json_schema()["properties"]
    assert schema["energy"]["description"] == Classification.quantities["energy"].description


def test_the_client_reads_each_quantity() -> None:
    assert {field.name for field in fields(hyperdraw.answers.Uncertainty)} == Classification.quantities.keys()
    assert {field.name for field in fields(hyperdraw.answers.Regression)} >= Regression.quantities.keys()


def test_metrics_have_a_histogram_of_each_monitored_quantity() -> None:
    names = {family.name for family in ServiceMetrics().registry.collect()}
    for task in (Classification, Regression):
        for name, quantity in task.quantities.items():
            expected = f"hyperdraw_{name}_nats" if quantity.unit == "nats" else f"hyperdraw_{name}"
            assert (expected in names) == quantity.monitored
