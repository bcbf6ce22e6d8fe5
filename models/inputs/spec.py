"""The input of a target network: one of the kinds named here."""

from typing import Annotated

from pydantic import Field
from typing_extensions import TypeAliasType

from models.inputs.image import ImageSpec
from models.inputs.table import TableSpec
from models.inputs.vector import VectorSpec

InputSpec = TypeAliasType("InputSpec", Annotated[ImageSpec | VectorSpec | TableSpec, Field(discriminator="kind")])
