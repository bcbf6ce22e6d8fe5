"""Ensembles that grow: how a client asks for them, and what it is told."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, PlainValidator, TypeAdapter, ValidationError

_NUMBER: TypeAdapter[int] = TypeAdapter(Annotated[int, Field(ge=1)])


def _read_size(value: Any) -> Any:
    """A number of networks, or auto. One message says what is wrong, where a union of types has one for each."""
    if value == "auto":
        return value
    try:
        return _NUMBER.validate_python(value)
    except ValidationError as error:
        raise ValueError("must be a number of networks, from 1 on, or auto") from error


GrowingSize = Annotated[
    int | Literal["auto"],
    PlainValidator(_read_size, json_schema_input_type=Annotated[int, Field(ge=1)] | Literal["auto"]),
]
"""A number of networks, or auto."""


SIZE_DESCRIPTION = (
    "Number of networks in the ensemble; by default as many as the model was evaluated with. With auto, each input is "
    "asked of as many of those as it needs: until more would not change its label or a flag."
)


class GrownEnsemble(BaseModel):
    """The ensemble of one input, which grew until the answer was settled."""

    size: int = Field(description="Number of networks that were asked.")
    settled: bool = Field(description="Whether it stopped growing before it had all networks.")
    temperature: float | None = Field(None, description="Temperature of the mean probabilities, if there are classes.")
