"""Types shared by the dataclasses that are read from a checkpoint's files."""

from typing import Annotated

from pydantic import ConfigDict, FailFast, Field

STRICT = ConfigDict(extra="forbid", json_schema_serialization_defaults_required=True)
"""Unknown fields are refused; and defaults are always written, as the schemas of answers say."""

Shape = tuple[int, ...]
"""Shape of one input, or of one output of a layer."""
Size = Annotated[int, Field(gt=0, le=65536)]

Finite = Annotated[float, Field(allow_inf_nan=False)]
Means = Annotated[tuple[Finite, ...], FailFast()]
Deviations = Annotated[tuple[Annotated[float, Field(gt=0, allow_inf_nan=False)], ...], FailFast()]
