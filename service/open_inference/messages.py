"""Messages of the Open Inference Protocol, and their way into and out of bodies.

Sources: KServe's Open Inference Protocol (REST), and Triton's extensions of it: binary tensor data, classification,
model configuration, model repository, parameters and statistics.
"""

from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import Response
from pydantic import BaseModel, ConfigDict, FailFast, Field, model_validator

from models.inputs.kind import Datatype
from service.api.schemas import EnsembleParameters
from service.api.uploads import validate_json
from service.errors import ServiceError
from service.open_inference.tensors import Array, encode_binary, encode_json, name_datatype

HEADER_LENGTH = "Inference-Header-Content-Length"
"""Bytes of the JSON that tensors in binary follow, of a body that is not compressed."""

BINARY = "application/octet-stream"

Dimension = Annotated[int, Field(ge=0)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class _Parameters(_Strict):
    """Known parameters alone, and those that the protocol reserves for Triton, which have no effect."""

    @model_validator(mode="before")
    @classmethod
    def _leave_reserved(cls, parameters: Any) -> Any:
        if not isinstance(parameters, dict):
            return parameters
        return {name: value for name, value in parameters.items() if not name.startswith("triton_")}


class InferenceParameters(EnsembleParameters, _Parameters):
    """Parameters of a request. Others, unless they begin with triton_, are refused."""

    timeout: int | None = Field(
        None, ge=0, le=86_400_000_000, description="Microseconds within which the answer is of use; 0 as if not given."
    )
    binary_data_output: bool = Field(False, description="Whether outputs that do not say come in binary.")
    priority: int | None = Field(None, ge=0, description="Without effect: all requests are as urgent.")
    sequence_id: int | str | None = Field(None, description="Without effect: models keep nothing between requests.")
    sequence_start: bool = Field(False, description="Without effect, too.")
    sequence_end: bool = Field(False, description="Without effect, too.")


class InputParameters(_Parameters):
    binary_data_size: int | None = Field(None, ge=0, description="Bytes of the tensor, which follow the JSON.")


class InputTensor(_Strict):
    name: str
    shape: Annotated[list[Dimension], FailFast()] = Field(description="The first axis is the inputs.")
    datatype: str
    parameters: InputParameters = InputParameters()
    data: list[Any] | None = Field(
        None, description="Elements in row-major order, or nested by the shape; unless they follow in binary."
    )


class OutputParameters(_Parameters):
    binary_data: bool | None = Field(None, description="Whether it comes in binary; else binary_data_output says it.")
    classification: int | None = Field(
        None, ge=1, description="Of probabilities: instead of them, so many best classes, each as score:index:label."
    )


class RequestedOutput(_Strict):
    name: str
    parameters: OutputParameters = OutputParameters()


class InferenceRequest(_Strict):
    """A request for a prediction."""

    id: str | None = Field(None, description="Comes back with the answer.")
    parameters: InferenceParameters = InferenceParameters()
    inputs: Annotated[list[InputTensor], FailFast()] = Field(min_length=1)
    outputs: Annotated[list[RequestedOutput], FailFast()] = Field(
        [], description="Those that are wanted; all but members, if not given."
    )


class OutputTensor(BaseModel):
    name: str
    shape: list[int]
    datatype: Datatype
    parameters: dict[str, int] | None = Field(None, description="binary_data_size, if it follows in binary.")
    data: list[bool | int | float | str] | None = Field(None, description="Elements in row-major order, otherwise.")


class InferenceAnswer(BaseModel):
    """A prediction."""

    model_name: str
    model_version: str
    id: str | None = None
    parameters: dict[str, bool | int | float | str] = Field(
        description="The seed and ensemble_size that bring the same answer from the same version, the temperature of "
        "the probabilities, and the thresholds of the flags with their false-alarm rate."
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
    shape: list[int] = Field(description="−1 is any number; the first axis is the inputs.")


class ModelMetadata(BaseModel):
    name: str
    versions: list[str] = Field(description="SHA-256 of the checkpoint.")
    platform: str
    inputs: list[TensorMetadata] = Field(description="A request gives exactly one of them.")
    outputs: list[TensorMetadata]


class TensorConfig(BaseModel):
    name: str
    data_type: str
    dims: list[int] = Field(description="The shape without its first axis.")
    optional: bool | None = None


class ModelConfig(BaseModel):
    """What Triton's model configuration says of a model."""

    name: str
    platform: str
    max_batch_size: int
    input: list[TensorConfig]
    output: list[TensorConfig]


class DurationStatistics(BaseModel):
    count: int
    ns: int = Field(description="In all, from the request's head to its answer.")


class InferenceStatistics(BaseModel):
    success: DurationStatistics
    fail: DurationStatistics


class ModelStatistics(BaseModel):
    """Since the service began, of requests by this protocol."""

    name: str
    version: str
    last_inference: int = Field(description="Milliseconds since 1970; 0 if there was none.")
    inference_count: int = Field(description="Inputs that were answered.")
    inference_stats: InferenceStatistics


class StatisticsAnswer(BaseModel):
    model_stats: list[ModelStatistics]


class RepositoryIndexRequest(_Strict):
    ready: bool = Field(False, description="Whether to leave out what is not ready.")


class RepositoryModel(BaseModel):
    name: str
    version: str | None = None
    state: str = Field(description="READY, or UNAVAILABLE for a checkpoint that was refused.")
    reason: str = ""


def read_request(body: bytes, header_length: int | None, most_values: int) -> tuple[InferenceRequest, memoryview]:
    """A request and the bytes of its tensors, which follow its JSON.

    Args:
        body: not compressed.
        header_length: of the JSON, if tensors follow.
        most_values: that the JSON may hold.

    Raises:
        ServiceError: 400 for what is no such request, 413 for too many values.
    """
    length = len(body) if header_length is None else header_length
    if length > len(body):
        message = f"{HEADER_LENGTH} is {length}, and the body has {len(body)} bytes."
        raise ServiceError(400, "invalid_header", message, "It counts the bytes of the JSON when not compressed.")
    parameters = ", ".join(InferenceParameters.model_fields)
    hint = f"The request is described at /docs. Its parameters are {parameters}."
    return validate_json(body[:length], InferenceRequest, hint, most_values), memoryview(body)[length:]


def write_answer(answer: InferenceAnswer, tensors: Sequence[tuple[str, Array, bool]]) -> Response:
    """The response with an answer, and with tensors by name, each in binary or as JSON."""
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
