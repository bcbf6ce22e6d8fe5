"""Messages of the Open Inference Protocol over gRPC, and the requests and answers of its REST form that say the same.

They are made from `inference.proto` at run time, in a pool of their own: no generated code has to fit the installed
version of protobuf, and a client with messages of the same names may share the process.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.json_format import ParseDict
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass

from service.errors import ServiceError
from service.names import RESERVED_NAMES
from service.open_inference.tensors import encode_contents

MOST_PARTS, MOST_BYTES = 1_000, 2**18
"""Most inputs, raw contents and outputs of a request, and most bytes beside its tensors; in memory they take more."""

ROUTES = {
    "ServerLive": ("GET", "/v2/health/live"),
    "ServerReady": ("GET", "/v2/health/ready"),
    "ServerMetadata": ("GET", "/v2"),
    "ModelReady": ("GET", "/v2/models/{model}/ready"),
    "ModelMetadata": ("GET", "/v2/models/{model}"),
    "ModelConfig": ("GET", "/v2/models/{model}/config"),
    "ModelStatistics": ("GET", "/v2/models/{model}/stats"),
    "ModelInfer": ("POST", "/v2/models/{model}/infer"),
    "ModelStreamInfer": ("POST", "/v2/models/{model}/infer"),
    "RepositoryIndex": ("POST", "/v2/repository/index"),
    "RepositoryModelLoad": ("POST", "/v2/repository/models/{model}/load"),
}
"""The procedures, and the routes of the REST form that answer them."""

_WRAPPERS = {"ModelConfig": "config", "ModelStreamInfer": "infer_response", "RepositoryIndex": "models"}
"""Fields of responses that hold a whole answer of the REST form."""

_CHOICES = {bool: "bool_param", int: "int64_param", float: "double_param", str: "string_param"}

_FILE = FileDescriptorSet.FromString(Path(__file__).with_name("inference.binpb").read_bytes()).file[0]
_POOL = DescriptorPool()
_POOL.AddSerializedFile(_FILE.SerializeToString())
_KINDS = [_POOL.FindMessageTypeByName(f"{_FILE.package}.{kind.name}") for kind in _FILE.message_type]
MESSAGES: dict[str, type[Any]] = {kind.name: GetMessageClass(kind) for kind in _KINDS}


def read_request(procedure: str, content: bytes) -> tuple[str, bytes, int]:
    """The request of the REST form that a message to a procedure stands for: its path, its body, and the length of the
    JSON in the body, after which tensors follow.

    Raises:
        ServiceError: 400 for a message that is not valid, 413 for one with too much beside its tensors.
    """
    kind = "ModelInferRequest" if "Infer" in procedure else f"{procedure}Request"
    try:
        outline = MESSAGES["ModelInferOutline"].FromString(content)
        if len(outline.inputs) + len(outline.outputs) + len(outline.raw_input_contents) > MOST_PARTS:
            raise _refuse(413, f"The request has more than {MOST_PARTS} inputs, raw contents and outputs")
        request = MESSAGES[kind].FromString(content)
        header, tensors = _read_inference(request) if kind == "ModelInferRequest" else ({}, [])
    except (DecodeError, OverflowError) as error:
        raise _refuse(400, f"The message is not a valid {kind}: {error}") from error
    if procedure == "RepositoryIndex":
        header = {"ready": request.ready}
    text = json.dumps(header).encode()
    return _find_path(procedure, request), b"".join([text, *tensors]), len(text)


def _find_path(procedure: str, request: Any) -> str:
    prefix = "model_" if hasattr(request, "model_name") else ""
    name, version = (getattr(request, f"{prefix}{part}", "").replace("/", "\0") for part in ("name", "version"))
    if procedure == "ModelStatistics" and not name:
        return "/v2/models/stats"
    if not name or name in RESERVED_NAMES:  # which no model has, but which mean something else in a path
        name += "\0"
    return ROUTES[procedure][1].format(model=f"{name}/versions/{version}" if version else name)


def _read_inference(request: Any) -> tuple[dict[str, Any], list[bytes]]:
    """The JSON of a request for a prediction, and its tensors."""
    raw, own = request.raw_input_contents, [tensor.contents for tensor in request.inputs]
    if request.ByteSize() - sum(map(len, raw)) - sum(contents.ByteSize() for contents in own) > MOST_BYTES:
        raise _refuse(413, f"The request has more than {MOST_BYTES} bytes without the contents of its tensors")
    if raw and (len(raw) != len(own) or any(contents.ByteSize() for contents in own)):
        raise _refuse(400, f"The request has {len(raw)} raw contents for {len(own)} inputs, or contents as well")
    tensors = list(raw) or [encode_contents(tensor.contents, tensor.datatype) for tensor in request.inputs]
    inputs = [
        {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)}
        | _read_parameters(tensor.parameters, binary_data_size=len(content))
        for tensor, content in zip(request.inputs, tensors, strict=True)
    ]
    outputs = [{"name": o.name} | _read_parameters(o.parameters, binary_data=True) for o in request.outputs]
    parameters = _read_parameters(request.parameters, binary_data_output=True)
    return {"id": request.id, "inputs": inputs, "outputs": outputs} | parameters, tensors


def _read_parameters(parameters: Mapping[str, Any], **others: Any) -> dict[str, Any]:
    given = {name: next((value for _, value in choice.ListFields()), None) for name, choice in parameters.items()}
    return {"parameters": given | others}


def _refuse(status: int, message: str) -> ServiceError:
    return ServiceError(status, "invalid_message", f"{message}.", "See the protocol's .proto file.")


def write_response(procedure: str, content: bytes, header_length: int) -> Any:
    """The response of a procedure that says the same as the body of an answer, whose JSON has some length."""
    answer, tensors = json.loads(content[:header_length]), memoryview(content)[header_length:]
    outputs = answer["outputs"] if "Infer" in procedure else []
    if outputs:
        answer["parameters"] = {name: {_CHOICES[type(of)]: of} for name, of in answer["parameters"].items()}
    if wrapper := _WRAPPERS.get(procedure):
        answer = {wrapper: answer}
    response = MESSAGES[f"{procedure}Response"]()
    ParseDict(answer, response, ignore_unknown_fields=True, descriptor_pool=_POOL)
    for output in outputs:
        size = output["parameters"]["binary_data_size"]
        getattr(response, wrapper or "", response).raw_output_contents.append(bytes(tensors[:size]))
        tensors = tensors[size:]
    return response
