"""Messages of the Open Inference Protocol, and how they are read from and written to bodies.

Sources: KServe's Open Inference Protocol (REST), and Triton's extensions of it: binary tensor data, classification,
model configuration, model repository, parameters and statistics.
"""

from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import Response
from pydantic import BaseModel, ConfigDict, FailFast, Field, model_validator

from models.inputs.kind import Datatype
from service.api.downloads import BINARY
from service.api.growing import SIZE_DESCRIPTION, GrowingSize
from service.api.schemas import EnsembleParameters
from service.api.uploads import validate_json
from service.errors import ServiceError
from service.open_inference.tensors import Array, encode_binary, encode_json, name_datatype

HEADER_LENGTH = "Inference-Header-Content-Length"
"""Header with the length of the uncompressed JSON, in bytes, before binary tensors."""

Dimension = Annotated[int, Field(ge=0)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class _Parameters(_Strict):
    """Known parameters, and those that the protocol reserves for Triton, which have no effect."""

    @model_validator(mode="before")
    @classmethod
    def _leave_reserved(cls, parameters: Any) -> Any:
        if not isinstance(parameters, dict):
            return parameters
        return {name: value for name, value in parameters.items() if not name.startswith("triton_")}


class InferenceParameters(EnsembleParameters, _Parameters):
    """Parameters of a request. Other parameters are refused, unless they begin with triton_."""

    ensemble_size: GrowingSize | None = Field(None, description=SIZE_DESCRIPTION)  # type: ignore[assignment]
    timeout: int | None = Field(
        None,
        ge=0,
        le=86_400_000_000,
        description="Time limit of the answer, in microseconds; 0 for the service's own limit.",
    )
    binary_data_output: bool = Field(False, description="Whether outputs are binary unless their binary_data is set.")
    priority: int | None = Field(None, ge=0, description="No effect: all requests have the same priority.")
    sequence_id: int | str | None = Field(None, description="No effect: models keep no state between requests.")
    sequence_start: bool = Field(False, description="No effect, like sequence_id.")
    sequence_end: bool = Field(False, description="No effect, like sequence_id.")


class InputParameters(_Parameters):
    binary_data_size: int | None = Field(None, ge=0, description="Size of the binary tensor after the JSON, in bytes.")


class InputTensor(_Strict):
    name: str
    shape: Annotated[list[Dimension], FailFast()] = Field(description="Shape. The first axis counts the inputs.")
    datatype: str
    parameters: InputParameters = InputParameters()
    data: list[Any] | None = Field(
        None, description="Elements in row-major order, flat or nested by the shape, unless they follow in binary."
    )


class OutputParameters(_Parameters):
    binary_data: bool | None = Field(None, description="Whether the output is binary; default: binary_data_output.")
    classification: int | None = Field(
        None, ge=1, description="For probabilities: return this many best classes instead, each as score:index:label."
    )


class RequestedOutput(_Strict):
    name: str
    parameters: OutputParameters = OutputParameters()


class InferenceRequest(_Strict):
    """A request for a prediction."""

    id: str = Field("", description="Returned with the answer, if it is given.")
    parameters: InferenceParameters = InferenceParameters()
    inputs: Annotated[list[InputTensor], FailFast()] = Field(min_length=1)
    outputs: Annotated[list[RequestedOutput], FailFast()] = Field(
        [], description="Outputs to return; by default all but members."
    )


class OutputTensor(BaseModel):
    name: str
    shape: list[int]
    datatype: Datatype
    parameters: dict[str, int] | None = Field(None, description="binary_data_size, if the data are binary.")
    data: list[bool | int | float | str] | None = Field(
        None, description="Elements in row-major order, unless they are binary."
    )


class InferenceAnswer(BaseModel):
    """A prediction."""

    model_name: str
    model_version: str
    id: str | None = None
    parameters: dict[str, bool | int | float | str] = Field(
        description="The seed and ensemble_size, which reproduce the answer with the same version; the precision; the "
        "temperature of the probabilities; and the thresholds of the flags with their false-alarm rate. If ensembles "
        "grew, ensemble_size is that of the largest, and temperatures and thresholds are left out."
    )
    outputs: list[OutputTensor]


class ServerMetadata(BaseModel):
    name: str
    version: str
    extensions: list[str]


class ServerLive(BaseModel):
    live: bool


class ServerReady(BaseModel):
    ready: bool


class ModelReady(BaseModel):
    name: str
    ready: bool


class TensorMetadata(BaseModel):
    name: str
    datatype: Datatype
    shape: list[int] = Field(description="Shape; −1 means any size. The first axis counts the inputs.")


class ModelMetadata(BaseModel):
    name: str
    versions: list[str] = Field(description="SHA-256 of the checkpoint.")
    platform: str
    inputs: list[TensorMetadata] = Field(description="A request gives exactly one of these.")
    outputs: list[TensorMetadata]


class TensorConfig(BaseModel):
    name: str
    data_type: str
    dims: list[int] = Field(description="The shape without its first axis.")
    optional: bool | None = None


class ModelConfig(BaseModel):
    """A model in the form of Triton's model configuration."""

    name: str
    platform: str
    max_batch_size: int
    input: list[TensorConfig]
    output: list[TensorConfig]


class DurationStatistics(BaseModel):
    count: int
    ns: int = Field(description="Total nanoseconds, from each request's head to its answer.")


class InferenceStatistics(BaseModel):
    success: DurationStatistics
    fail: DurationStatistics


class ModelStatistics(BaseModel):
    """Statistics of requests by this protocol since the service started."""

    name: str
    version: str
    last_inference: int = Field(description="Time of the last answer, in milliseconds since 1970; 0 if there was none.")
    inference_count: int = Field(description="Number of inputs answered.")
    inference_stats: InferenceStatistics


class StatisticsAnswer(BaseModel):
    model_stats: list[ModelStatistics]


class RepositoryIndexRequest(_Strict):
    ready: bool = Field(False, description="Whether to list only models that are ready.")


class RepositoryModel(BaseModel):
    name: str
    version: str | None = None
    state: str = Field(description="READY, or UNAVAILABLE for a checkpoint that was refused.")
    reason: str = ""


def read_request(body: bytes, header_length: int | None, most_values: int) -> tuple[InferenceRequest, memoryview]:
    """Reads a request, and the bytes of the tensors after its JSON.

    Args:
        body: the body, uncompressed.
        header_length: length of the JSON, if tensors follow.
        most_values: most values in the JSON.

    Raises:
        ServiceError: 400 for an invalid request, 413 for too many values.
    """
    length = len(body) if header_length is None else header_length
    if length > len(body):
        message = f"{HEADER_LENGTH} is {length}, but the body has only {len(body)} bytes."
        raise ServiceError(400, "invalid_header", message, "It must be the length of the uncompressed JSON, in bytes.")
    parameters = ", ".join(InferenceParameters.model_fields)
    hint = f"See /docs for the request. Its parameters are {parameters}."
    return validate_json(body[:length], InferenceRequest, hint, most_values), memoryview(body)[length:]


def write_answer(answer: InferenceAnswer, tensors: Sequence[tuple[str, Array, bool]]) -> Response:
    """Makes a response from an answer and named tensors, each in binary or as JSON."""
    binary: list[bytes] = []
    for name, tensor, in_binary in tensors:
        output = OutputTensor(name=name, shape=list(tensor.shape), datatype=name_datatype(tensor))
        if in_binary:
            binary.append(encode_binary(tensor))
            output.parameters = {"binary_data_size": len(binary[-1])}
        else:
            output.data = encode_json(tensor)
        answer.outputs.append(output)
    text = answer.model_dump_json(exclude_none=True).encode()
    if not binary:
        return Response(text, media_type="application/json")
    return Response(b"".join([text, *binary]), media_type=BINARY, headers={HEADER_LENGTH: str(len(text))})
