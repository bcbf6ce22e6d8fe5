"""What the Open Inference Protocol refuses, and how it says so."""

import gzip
import json
import struct
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from fastapi import FastAPI
from numpy.typing import NDArray
from tritonclient.http import InferenceServerClient, InferRequestedOutput
from tritonclient.utils import InferenceServerException

from service.api.uploads import decompress
from service.app import create_app
from service.errors import ServiceError
from service.settings import Settings
from tests.conftest import serve
from tests.engine import hold
from tests.pictures import forge_png
from tests.tensors import INFER, PICTURES, give


@pytest.mark.parametrize(
    ("name", "arguments", "status", "message"),
    [
        ("bert", {}, "404", "There is no model 'bert'. The available models are digits."),
        ("digits", {"model_version": "1"}, "404", "Version '1' is not served."),
        ("digits", {"parameters": {"ensemble_size": 0}}, "400", "parameters.ensemble_size"),
        ("digits", {"parameters": {"ensemble_size": 2000}}, "400", "ensemble_size is 2000. It may be at most 1000."),
        ("digits", {"parameters": {"seed": -1}}, "400", "parameters.seed"),
        ("digits", {"parameters": {"seed": "7"}}, "400", "parameters.seed"),
        ("digits", {"parameters": {"size": 7}}, "400", "parameters.size: Extra inputs are not permitted. "),
        ("digits", {"parameters": {"size": 7}}, "400", "ensemble_size, seed, false_alarm_rate, coverage, timeout"),
        ("digits", {"parameters": {"coverage": 0.5}}, "400", "a coverage of 0.5 was not calibrated. The calibrated"),
        ("digits", {"outputs": [InferRequestedOutput("logits")]}, "400", "There is no output 'logits'. The outputs"),
        ("digits", {"outputs": [InferRequestedOutput("prediction_set")]}, "400", "without the parameter coverage. The"),
        ("digits", {"outputs": [InferRequestedOutput("label")] * 2}, "400", "requested twice: label, label."),
        (
            "digits",
            {"outputs": [InferRequestedOutput("label", class_count=2)]},
            "400",
            "Only probabilities may have it.",
        ),
        ("digits", {"timeout": -1}, "400", "parameters.timeout"),
    ],
)
def test_errors_reach_the_clients_user(
    triton: InferenceServerClient,
    pixels: NDArray[np.uint8],
    name: str,
    arguments: dict[str, Any],
    status: str,
    message: str,
) -> None:
    with pytest.raises(InferenceServerException) as caught:
        triton.infer(name, [give(pixels)], **arguments)
    assert caught.value.status() == status
    assert message in caught.value.message()


def test_late_answers_are_not_worked_on(app: FastAPI, triton: InferenceServerClient, pixels: NDArray[np.uint8]) -> None:
    with hold(app.state.engine), pytest.raises(InferenceServerException, match=r"no answer within 0\.05 s") as caught:
        triton.infer("digits", [give(pixels)], timeout=50_000)
    assert caught.value.status() == "504"


def test_what_cannot_wait_is_told_when_to_come_again(checkpoints: Path) -> None:
    app = create_app(Settings(checkpoints=checkpoints, max_queue=100))
    (checkpoint,) = app.state.catalog
    with serve(app) as address, hold(app.state.engine):
        app.state.engine.predict(checkpoint, torch.zeros(3, 1, 8, 8, dtype=torch.uint8), None, 30)
        response = httpx.post(
            f"{address}{INFER}", content=PICTURES[0], headers={"Inference-Header-Content-Length": "0"}
        )
    assert response.status_code == 429
    assert int(response.headers["retry-after"]) >= 1
    assert response.json()["error"].startswith("The request queue is full. Try again in")


def tensor(**changes: Any) -> dict[str, Any]:
    return {"name": "images", "shape": [1, 1, 8, 8], "datatype": "UINT8", "data": [0] * 64} | changes


def request(*tensors: dict[str, Any], **others: Any) -> bytes:
    return json.dumps({"inputs": list(tensors or [tensor()]), **others}).encode()


def binary(content: bytes, **changes: Any) -> tuple[bytes, dict[str, str]]:
    """A body with one tensor in binary, whose size is told right unless it is changed."""
    given = tensor(parameters={"binary_data_size": len(content)}) | changes
    del given["data"]
    text = json.dumps({"inputs": [given]}).encode()
    return text + content, {"Inference-Header-Content-Length": str(len(text))}


FILES: dict[str, Any] = {"name": "encoded_images", "shape": [2], "datatype": "BYTES"}
PNG = struct.pack("<I", len(PICTURES[0])) + PICTURES[0]

BAD_BODIES: dict[str, tuple[bytes | tuple[bytes, dict[str, str]], str]] = {
    "empty": (b"", "Invalid JSON"),
    "no JSON": (b"{", "Invalid JSON"),
    "no object": (b"[]", "the body"),
    "deep": (b'{"inputs": ' + b"[" * 500 + b"]" * 500 + b"}", "recursion limit"),
    "no inputs": (b"{}", "inputs: Field required"),
    "empty inputs": (b'{"inputs": []}', "inputs: List should have at least 1 item"),
    "unknown field": (request(model="digits"), "model: Extra inputs"),
    "unknown input": (request(tensor(name="pictures")), "The inputs are pictures. Give exactly one input: images or"),
    "duplicate input": (request(tensor(), tensor()), "The inputs are images, images."),
    "both inputs": (request(tensor(), tensor(**FILES, data=["", ""])), "Give exactly one input"),
    "no shape": (request({"name": "images", "datatype": "UINT8", "data": []}), "inputs.0.shape: Field required"),
    "negative": (request(tensor(shape=[-1, 1, 8, 8])), "inputs.0.shape.0"),
    "fraction": (request(tensor(shape=[1.5, 1, 8, 8])), "inputs.0.shape.0"),
    "overflow": (request(tensor(shape=[2**63, 2**63, 8, 8])), "images has shape"),
    "zero": (request(tensor(shape=[0, 1, 8, 8], data=[])), "images has shape 0, 1, 8, 8. It must be [-1, 1, 8, 8]"),
    "other size": (request(tensor(shape=[1, 1, 4, 16])), "images has shape 1, 1, 4, 16."),
    "no channel": (request(tensor(shape=[1, 8, 8])), "images has shape 1, 8, 8."),
    "floats": (request(tensor(datatype="FP32")), "images has datatype 'FP32'. It must be UINT8."),
    "no datatype": (request(tensor(datatype="PIXEL")), "images has datatype 'PIXEL'."),
    "too few": (request(tensor(data=[0] * 63)), "The data has 63 elements. Shape [1, 1, 8, 8] takes 64."),
    "too many": (request(tensor(data=[0] * 65)), "The data has 65 elements."),
    "too bright": (request(tensor(data=[256] * 64)), "UINT8 data"),
    "too dark": (request(tensor(data=[-1] * 64)), "UINT8 data"),
    "huge": (request(tensor(data=[10**30] * 64)), "UINT8 data"),
    "float data": (request(tensor(data=[0.5] * 64)), "UINT8 data contains a float. Each element must be int."),
    "text data": (request(tensor(data=["0"] * 64)), "UINT8 data contains a str."),
    "bool data": (request(tensor(data=[True] * 64)), "UINT8 data contains a bool."),
    "null data": (request(tensor(data=[None] * 64)), "UINT8 data contains a NoneType."),
    "object data": (request(tensor(data=[{}] * 64)), "UINT8 data contains a dict."),
    "ragged": (request(tensor(data=[[[[0] * 8] * 7 + [[0] * 7]]])), "The data is not nested as [1, 1, 8, 8]."),
    "no list": (request(tensor(data="AAAA")), "inputs.0.data"),
    "no data": (request({**tensor(), "data": None}), "images has neither data nor a binary_data_size."),
    "both": (request(tensor(parameters={"binary_data_size": 64})), "images has both data and a binary_data_size."),
    "shared memory": (request(tensor(parameters={"shared_memory_region": "a"})), "shared_memory_region: Extra inputs"),
    "base64": (request(tensor(**FILES, data=["@@@@", "@@@@"])), "image 0 is not base64"),
    "no image": (request(tensor(**FILES, data=["aGk=", "aGk="])), "image 0 cannot be decoded"),
    "id": (request(id=7), "id: Input should be a valid string"),
    "null id": (request(id=None), "id: Input should be a valid string"),
    "binary without header": (binary(bytes(64))[0], "Invalid JSON"),
    "long header": ((request(), {"Inference-Header-Content-Length": "99999"}), "is 99999, but the body has only"),
    "negative header": ((request(), {"Inference-Header-Content-Length": "-1"}), "Inference-Header-Content-Length"),
    "text header": ((request(), {"Inference-Header-Content-Length": "all"}), "Inference-Header-Content-Length"),
    "short binary": (binary(bytes(63)), "The data has 63 bytes. UINT8 of shape [1, 1, 8, 8] takes 64."),
    "long binary": (binary(bytes(65)), "The data has 65 bytes."),
    "said less": (
        binary(bytes(64), parameters={"binary_data_size": 63}),
        "sum of binary_data_size is 63, but 64 bytes",
    ),
    "said more": (binary(bytes(64), parameters={"binary_data_size": 2**70}), "but 64 bytes follow the JSON"),
    "said negative": (binary(bytes(64), parameters={"binary_data_size": -1}), "binary_data_size"),
    "nothing said": (binary(bytes(64), parameters={}), "neither data nor"),
    "one file of two": (binary(PNG, **FILES), "The BYTES data has 1 elements. The shape takes 2."),
    "three files of two": (binary(PNG * 3, **FILES), "The BYTES data has more than 2 elements."),
    "cut file": (binary(PNG + PNG[:-1], **FILES), "Element 1 of the BYTES data should have"),
    "cut length": (binary(PNG + PNG[:2], **FILES), "The BYTES data ends within a length."),
    "giant file": (binary(PNG + b"\xff" * 9, **FILES), "should have 4294967295 bytes, but only 5 follow"),
    "damaged file": (binary(PNG + struct.pack("<I", 4) + b"none", **FILES), "image 1 cannot be decoded"),
    "raw": ((b"none", {"Inference-Header-Content-Length": "0"}), "image 0 cannot be decoded"),
    "no gzip": ((request(), {"Content-Encoding": "gzip"}), "The body is not gzip"),
    "cut gzip": ((gzip.compress(request())[:-9], {"Content-Encoding": "gzip"}), "gzip stream is not complete."),
    "two gzips": ((gzip.compress(request()) * 2, {"Content-Encoding": "gzip"}), "has bytes after its end."),
}


@pytest.mark.parametrize("case", BAD_BODIES)
def test_bad_bodies_get_a_clear_answer(client: httpx.Client, case: str) -> None:
    body, message = BAD_BODIES[case]
    content, headers = body if isinstance(body, tuple) else (body, {})
    response = client.post(INFER, content=content, headers=headers)
    assert response.status_code == 400, response.text
    assert set(response.json()) == {"error"}
    assert message in response.json()["error"]


def test_a_good_body(client: httpx.Client) -> None:
    parameters = {"seed": 7, "triton_x": 1}
    nested = tensor(data=[[[[0] * 8] * 8]])
    flat, deep = (client.post(INFER, content=request(t, parameters=parameters)).json() for t in (tensor(), nested))
    assert flat["outputs"] == deep["outputs"]
    assert "id" not in flat


def test_any_text_is_an_id(client: httpx.Client) -> None:
    for given in ("", "7"):
        assert client.post(INFER, content=request(id=given)).json()["id"] == given


@pytest.mark.parametrize(
    ("method", "path", "request_", "status"),
    [
        ("GET", "/v2/nowhere", {}, 404),
        ("GET", "/v2/models/bert", {}, 404),
        ("GET", "/v2/models/digits/versions/1/config", {}, 404),
        ("GET", INFER, {}, 405),
        ("POST", INFER, {"content": bytes(2**20 + 1)}, 413),
        ("POST", INFER, {"content": request(tensor(shape=[9, 1, 8, 8]))}, 413),
        ("POST", INFER, {"content": request(tensor(data=[0] * 3000))}, 413),
        ("POST", INFER, {"content": b'{"inputs":[' + b"[]," * 300_000}, 413),
        (
            "POST",
            INFER,
            {"content": forge_png(60_000, 60_000), "headers": {"Inference-Header-Content-Length": "0"}},
            413,
        ),
        ("POST", INFER, {"content": request(), "headers": {"Content-Encoding": "br"}}, 415),
        ("POST", "/v2/repository/index", {"content": b"["}, 400),
    ],
)
def test_every_error_has_the_protocols_shape(
    client: httpx.Client, method: str, path: str, request_: dict[str, Any], status: int
) -> None:
    response = client.request(method, path, **request_)
    assert response.status_code == status, response.text
    (error,) = response.json().values()
    assert isinstance(error, str)
    assert ". " in error


def test_a_failure_tells_the_log_and_not_the_client(
    app: FastAPI, triton: InferenceServerClient, pixels: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("secret detail")

    monkeypatch.setattr(app.state.engine, "predict", fail)
    with pytest.raises(InferenceServerException, match=r"The service failed\. See the server's log for") as caught:
        triton.infer("digits", [give(pixels)])
    assert caught.value.status() == "500"


def make_bomb(mebibytes: int) -> bytes:
    """So much as a gzip stream without an end, a thousandth of it."""
    stream = zlib.compressobj(wbits=31)
    head = stream.compress(bytes(2**20)) + stream.flush(zlib.Z_FULL_FLUSH)
    block = stream.compress(bytes(2**20)) + stream.flush(zlib.Z_FULL_FLUSH)
    return head + block * (mebibytes - 1)


def test_a_bomb_does_not_go_off(client: httpx.Client) -> None:
    response = client.post(INFER, content=make_bomb(900), headers={"Content-Encoding": "gzip"})
    assert response.status_code == 413
    assert response.json() == {"error": f"The body is too large. Decompressed, it may have at most {64 * 2**20} bytes."}
    bomb = make_bomb(900)
    tracemalloc.start()
    with pytest.raises(ServiceError):
        decompress(bomb, "gzip", Settings(max_decompressed_bytes=2**20))
    assert tracemalloc.get_traced_memory()[1] < 4 * 2**20
    tracemalloc.stop()


def test_openapi_describes_the_protocol(client: httpx.Client) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    for path in (INFER, "/v2/models/digits/versions/1/infer"):
        operation = paths[path.replace("/digits/", "/{model}/").replace("/1/", "/{version}/")]["post"]
        assert set(operation["requestBody"]["content"]) == {"application/json", "application/octet-stream"}
        content = operation["requestBody"]["content"]["application/json"]
        assert content["schema"] == {"$ref": "#/components/schemas/InferenceRequest"}
        example = content["examples"]["images"]["value"]
        assert client.post(INFER, json=example).status_code == 200
        errors = [answer for status, answer in operation["responses"].items() if status != "200"]
        assert {answer["content"]["application/json"]["schema"]["$ref"] for answer in errors} == {
            "#/components/schemas/InferenceErrorResponse"
        }
