"""The meaning of a target network's outputs: one of the kinds named here."""

from typing import Annotated

from pydantic import Field
from typing_extensions import TypeAliasType

from models.tasks.classification import Classification
from models.tasks.regression import Regression

Task = TypeAliasType("Task", Annotated[Classification | Regression, Field(discriminator="kind")])
