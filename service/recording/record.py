"""What is logged of an answered input."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel

SCHEMA_VERSION: Literal[1] = 1


class Record(BaseModel):
    """One input of a request and its answer, as a line of JSON. Fields without a value are left out."""

    schema_version: Literal[1] = SCHEMA_VERSION
    """Changes if a field goes or gets another meaning. Fields may be added."""
    time: datetime
    """Time of the answer, in UTC."""
    request_id: str
    index: int
    """Number of the input in its request, from 0."""
    key: str | None
    """Name of the client's key, if keys are required."""
    model: str
    version: str
    method: str
    seed: int
    ensemble_size: int
    precision: str
    temperature: float | None
    uncertainty: Mapping[str, float]
    """The quantities that are measured on the whole answer for an input, by name."""
    prediction: Mapping[str, Any]
    """The answer as the HTTP API gives it, without `uncertainty`."""
    input: Mapping[str, Any] | None = None
    """The input at the size that the model takes: `image`, a PNG file in base64, or `row`, values by name."""

    def write(self, **left_out: Any) -> str:
        """The record as one line of JSON.

        Args:
            left_out: `include` or `exclude`, as for `model_dump_json`.
        """
        return self.model_dump_json(exclude_none=True, **left_out)
