"""What the outputs of a target network mean: one of the kinds that are named here."""

from typing import Annotated

from pydantic import Field

from models.tasks.classification import Classification
from models.tasks.regression import Regression

Task = Annotated[Classification | Regression, Field(discriminator="kind")]
