"""Calls by gRPC; what imports this is skipped where gRPC or Triton's client is not installed."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from fastapi import FastAPI
from numpy.typing import NDArray
from tritonclient.utils import np_to_triton_dtype

from tests.conftest import run
from tests.waiting import PATIENCE, wait_until

grpc = pytest.importorskip("grpc")
pytest.importorskip("google.protobuf")
triton = pytest.importorskip("tritonclient.grpc")

from service.open_inference.protobuf import MESSAGES as MESSAGES  # noqa: E402
from service.open_inference.protobuf import read_request as read_request  # noqa: E402
from service.open_inference.rpcs import SERVICE as SERVICE  # noqa: E402
from service.open_inference.rpcs import RpcServer  # noqa: E402


@contextmanager
def serve(app: FastAPI) -> Iterator[tuple[RpcServer, str, str]]:
    """Serves an app by HTTP and by gRPC, on any free ports; yields the server and both addresses."""
    server = RpcServer(app, app.state.settings.model_copy(update={"port": 0, "grpc_port": 0}))
    with run(server) as address:
        wait_until(lambda: hasattr(server, "grpc_port"))
        yield server, address, f"127.0.0.1:{server.grpc_port}"


def give(array: NDArray[Any], name: str = "images") -> Any:
    """A tensor for Triton's client."""
    tensor = triton.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
    tensor.set_data_from_numpy(array)
    return tensor


def make_request(array: NDArray[Any], name: str = "images", **others: Any) -> Any:
    """A message with a tensor's elements in the field of their type."""
    datatype = np_to_triton_dtype(array.dtype)
    field = "uint_contents" if datatype == "UINT8" else f"{datatype.lower()}_contents"
    tensor = {"name": name, "datatype": datatype, "shape": array.shape, "contents": {field: array.ravel().tolist()}}
    return MESSAGES["ModelInferRequest"](model_name="digits", inputs=[tensor], **others)


def call(address: str, message: Any, procedure: str = "ModelInfer", **metadata: str) -> Any:
    """What a procedure answers to a message, or to bytes."""
    content = message if isinstance(message, bytes) else message.SerializeToString()
    headers = tuple((name.replace("_", "-"), value) for name, value in metadata.items())
    with grpc.insecure_channel(address) as channel:
        answer = channel.unary_unary(f"/{SERVICE}/{procedure}")(content, PATIENCE, headers)
    return MESSAGES[f"{procedure}Response"].FromString(answer)


def read_array(response: Any, name: str) -> NDArray[Any]:
    """An output of a response."""
    array: NDArray[Any] = triton.InferResult(response).as_numpy(name)
    return array


def stream(address: str, inputs: list[Any], headers: dict[str, str] | None = None) -> list[tuple[Any, Any]]:
    """The results and errors that Triton's client gets for inputs on a stream."""
    got: list[tuple[Any, Any]] = []
    with triton.InferenceServerClient(address) as client:
        client.start_stream(lambda result, error: got.append((result, error)), headers=headers)
        for index, (model, tensor, parameters) in enumerate(inputs):
            client.async_stream_infer(model, [tensor], request_id=str(index), parameters=parameters)
        client.stop_stream()
    return got
