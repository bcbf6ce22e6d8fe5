"""What the input of a target network is: one of the kinds that are named here."""

from typing import Annotated

from pydantic import Field

from models.inputs.image import ImageSpec
from models.inputs.vector import VectorSpec

InputSpec = Annotated[ImageSpec | VectorSpec, Field(discriminator="kind")]
