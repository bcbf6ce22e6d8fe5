"""The Open Inference Protocol, by the client that Triton's users have."""

import asyncio
import base64
import gzip
import json
import shutil
import struct
import tracemalloc
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
import tritonclient.http
import tritonclient.http.aio
from fastapi import FastAPI
from numpy.typing import NDArray
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput, InferResult
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from models.checkpoint import Checkpoint
from models.inputs.image import ImageSpec
from models.inputs.pixels import decode_image
from service.api.uploads import decompress
from service.app import create_app
from service.errors import ServiceError
from service.settings import Settings
from tests.conftest import make_session, serve
from tests.engine import hold
from tests.pictures import draw_image, encode, forge_png
from training.recipes.toys import toy_cubic
from training.runs.session import train

INFER = "/v2/models/digits/infer"
PICTURES = [encode(draw_image(size=(8, 8))), encode(draw_image("RGB"), "JPEG"), encode(draw_image("RGB"), "WEBP")]
MEASURES = [
    "predictive_entropy",
    "expected_entropy",
    "mutual_information",
    "variation_ratio",
    "max_probability",
    "energy",
]
FLAGS = ["out_of_distribution", "suspect_adversarial"]
USUAL = ["probabilities", "label", *MEASURES, *[name for flag in FLAGS for name in (flag, f"{flag}_score")]]


@pytest.fixture
def triton(client: httpx.Client) -> Iterator[InferenceServerClient]:
    with InferenceServerClient(f"{client.base_url.host}:{client.base_url.port}") as triton:
        yield triton


@pytest.fixture
def pixels(checkpoint: Checkpoint) -> NDArray[np.uint8]:
    """PICTURES as the model takes them."""
    spec = checkpoint.config.input
    assert isinstance(spec, ImageSpec)
    images = torch.stack([decode_image(picture, spec, 10**6, "") for picture in PICTURES])
    array: NDArray[np.uint8] = images.numpy()
    return array


def give(array: NDArray[Any], name: str = "images", *, binary: bool = True) -> InferInput:
    tensor = InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
    tensor.set_data_from_numpy(array, binary_data=binary)
    return tensor


def predict(client: httpx.Client, pictures: list[bytes] = PICTURES, **parameters: Any) -> list[dict[str, Any]]:
    """What the service's own API answers."""
    files = [("images", (f"{i}.png", picture)) for i, picture in enumerate(pictures)]
    response = client.post("/v1/models/digits/predict", files=files, params=parameters)
    predictions: list[dict[str, Any]] = response.json()["predictions"]
    return predictions


def check(result: InferResult, predictions: list[dict[str, Any]]) -> None:
    """Whether the usual outputs have the numbers of the service's own API."""
    assert [output["name"] for output in result.get_response()["outputs"]] == USUAL
    np.testing.assert_allclose(result.as_numpy("probabilities"), [p["probabilities"] for p in predictions], rtol=1e-6)
    labels = [label.decode() if isinstance(label, bytes) else label for label in result.as_numpy("label")]
    assert labels == [p["label"] for p in predictions]
    for name in MEASURES:
        expected = [p["uncertainty"][name] for p in predictions]
        np.testing.assert_allclose(result.as_numpy(name), expected, rtol=1e-6, atol=1e-30)
    for flag in FLAGS:
        assert result.as_numpy(flag).tolist() == [p["flags"][flag]["flagged"] for p in predictions]
        scores = [p["flags"][flag]["score"] for p in predictions]
        np.testing.assert_allclose(result.as_numpy(f"{flag}_score"), scores, rtol=1e-6, atol=1e-30)


def test_server_and_models_tell_what_they_are(
    triton: InferenceServerClient, client: httpx.Client, checkpoint: Checkpoint
) -> None:
    assert triton.is_server_live()
    assert triton.is_server_ready()
    assert triton.is_model_ready("digits")
    assert triton.is_model_ready("digits", checkpoint.version)
    assert not triton.is_model_ready("digits", "1")
    assert not triton.is_model_ready("bert")
    server = triton.get_server_metadata()
    assert server["name"] == "hyperdraw"
    assert "binary_tensor_data" in server["extensions"]
    assert client.get("/v2/").json() == server
    model = triton.get_model_metadata("digits", checkpoint.version)
    assert model == triton.get_model_metadata("digits")
    assert (model["name"], model["versions"]) == ("digits", [checkpoint.version])
    assert model["inputs"] == [
        {"name": "images", "datatype": "UINT8", "shape": [-1, 1, 8, 8]},
        {"name": "encoded_images", "datatype": "BYTES", "shape": [-1]},
    ]
    assert model["outputs"][0] == {"name": "probabilities", "datatype": "FP32", "shape": [-1, 10]}
    assert model["outputs"][-1] == {"name": "members", "datatype": "FP32", "shape": [-1, -1, 10]}
    config = triton.get_model_config("digits")
    assert config["max_batch_size"] == 8
    assert config["input"][1] == {"name": "encoded_images", "data_type": "TYPE_STRING", "dims": [], "optional": True}
    assert config["output"][0] == {"name": "probabilities", "data_type": "TYPE_FP32", "dims": [10]}
    ready = {"name": "digits", "version": checkpoint.version, "state": "READY", "reason": ""}
    assert triton.get_model_repository_index() == [ready]
    assert client.post("/v2/repository/index", json={"ready": True}).json() == [ready]


def test_models_that_were_refused_are_told_of(checkpoints: Path, tmp_path: Path) -> None:
    shutil.copytree(checkpoints / "digits", tmp_path / "good")
    shutil.copytree(checkpoints / "digits", tmp_path / "damaged")
    (tmp_path / "damaged" / "model.safetensors").write_bytes(b"damaged")
    with serve(create_app(Settings(checkpoints=tmp_path))) as address:
        (good, damaged), (alone,) = (
            httpx.post(f"{address}/v2/repository/index", json={"ready": ready}).json() for ready in (False, True)
        )
        assert good == alone
        assert (damaged["name"], damaged["state"]) == ("damaged", "UNAVAILABLE")
        assert "model.safetensors: its SHA-256" in damaged["reason"]
        response = httpx.get(f"{address}/v2/models/damaged/ready")
        assert response.status_code == 503
        assert response.json()["error"].startswith("damaged was not loaded: ")


@pytest.mark.parametrize("binary_outputs", [True, False])
@pytest.mark.parametrize("binary_inputs", [True, False])
@pytest.mark.parametrize("compression", [None, "gzip", "deflate"])
def test_answers_are_those_of_the_own_api(
    triton: InferenceServerClient,
    client: httpx.Client,
    pixels: NDArray[np.uint8],
    binary_inputs: bool,
    binary_outputs: bool,
    compression: str | None,
) -> None:
    outputs = None if binary_outputs else [InferRequestedOutput(name, binary_data=False) for name in USUAL]
    result = triton.infer(
        "digits",
        [give(pixels, binary=binary_inputs)],
        outputs=outputs,
        request_id="7",
        parameters={"seed": 7, "ensemble_size": 20},
        request_compression_algorithm=compression,
        response_compression_algorithm=compression,
    )
    check(result, predict(client, seed=7, ensemble_size=20))
    answer = result.get_response()
    assert answer["id"] == "7"
    assert (answer["parameters"]["seed"], answer["parameters"]["ensemble_size"]) == (7, 20)
    assert all(("data" in output) != binary_outputs for output in answer["outputs"])


def test_aio(client: httpx.Client, checkpoint: Checkpoint, pixels: NDArray[np.uint8]) -> None:
    async def ask() -> None:
        address = f"{client.base_url.host}:{client.base_url.port}"
        async with tritonclient.http.aio.InferenceServerClient(address) as triton:
            assert await triton.is_server_live()
            assert await triton.is_server_ready()
            assert await triton.is_model_ready("digits", checkpoint.version)
            assert (await triton.get_server_metadata())["name"] == "hyperdraw"
            assert (await triton.get_model_metadata("digits"))["versions"] == [checkpoint.version]
            assert (await triton.get_model_config("digits"))["name"] == "digits"
            assert (await triton.get_model_repository_index())[0]["state"] == "READY"
            assert (await triton.get_inference_statistics("digits"))["model_stats"][0]["name"] == "digits"
            expected = predict(client, seed=7, ensemble_size=20)
            for binary, compression in ((True, None), (False, None), (True, "gzip"), (False, "deflate")):
                result = await triton.infer(
                    "digits",
                    [give(pixels, binary=binary)],
                    parameters={"seed": 7, "ensemble_size": 20},
                    request_compression_algorithm=compression,
                    response_compression_algorithm=compression,
                )
                check(result, expected)
            with pytest.raises(InferenceServerException, match="There is no model 'bert'"):
                await triton.infer("bert", [give(pixels)])

    asyncio.run(ask())


def test_encoded_images_are_decoded(triton: InferenceServerClient, client: httpx.Client) -> None:
    expected = predict(client, seed=7, ensemble_size=20)
    files = np.array(PICTURES, dtype=object)
    texts = np.array([base64.b64encode(picture) for picture in PICTURES], dtype=object)
    for tensor in (give(files, "encoded_images"), give(texts, "encoded_images", binary=False)):
        check(triton.infer("digits", [tensor], parameters={"seed": 7, "ensemble_size": 20}), expected)


def test_a_raw_body_is_one_image(client: httpx.Client) -> None:
    response = client.post(INFER, content=PICTURES[0], headers={"Inference-Header-Content-Length": "0"})
    length = int(response.headers["Inference-Header-Content-Length"])
    result = InferResult.from_response_body(response.content, header_length=length)
    # Alone here too: the sums of a batch of three are rounded otherwise than those of one image.
    check(result, predict(client, PICTURES[:1], seed=result.get_response()["parameters"]["seed"]))


def test_the_answer_names_what_brings_it_back(triton: InferenceServerClient, pixels: NDArray[np.uint8]) -> None:
    first = triton.infer("digits", [give(pixels)])
    named = first.get_response()["parameters"]
    assert named["ensemble_size"] == 100
    assert {"temperature", "false_alarm_rate", "out_of_distribution_threshold"} <= set(named)
    again = triton.infer("digits", [give(pixels)], parameters={key: named[key] for key in ("seed", "ensemble_size")})
    assert np.array_equal(first.as_numpy("probabilities"), again.as_numpy("probabilities"))


def test_requested_outputs(triton: InferenceServerClient, client: httpx.Client, pixels: NDArray[np.uint8]) -> None:
    outputs = [
        InferRequestedOutput("members"),
        InferRequestedOutput("label", binary_data=False),
        InferRequestedOutput("probabilities", class_count=3),
        InferRequestedOutput("prediction_set"),
    ]
    parameters = {"seed": 7, "ensemble_size": 12, "coverage": 0.9, "false_alarm_rate": 0.01}
    result = triton.infer("digits", [give(pixels)], outputs=outputs, parameters=parameters)
    answer = result.get_response()
    assert [output["name"] for output in answer["outputs"]] == ["members", "label", "probabilities", "prediction_set"]
    assert ["data" in output for output in answer["outputs"]] == [False, True, False, False]
    assert (answer["parameters"]["coverage"], answer["parameters"]["false_alarm_rate"]) == (0.9, 0.01)
    told = predict(client, seed=7, ensemble_size=12, coverage=0.9, members=True)
    members = [prediction["member_probabilities"] for prediction in told]
    np.testing.assert_allclose(result.as_numpy("members"), members, rtol=0, atol=1e-7)
    best = result.as_numpy("probabilities")
    assert best.shape == (3, 3)
    for row, held, prediction in zip(best, result.as_numpy("prediction_set"), told, strict=True):
        score, index, label = row[0].decode().split(":")
        assert float(score) == pytest.approx(max(prediction["probabilities"]), abs=1e-6)
        assert (int(index), label) == (prediction["class_index"], prediction["label"])
        assert [str(k) for k in np.flatnonzero(held)] == prediction["prediction_set"]["labels"]
    every = InferRequestedOutput("probabilities", class_count=99)
    assert triton.infer("digits", [give(pixels)], outputs=[every]).as_numpy("probabilities").shape == (3, 10)


def test_metadata_describes_every_output(triton: InferenceServerClient, pixels: NDArray[np.uint8]) -> None:
    described = {output["name"]: output for output in triton.get_model_metadata("digits")["outputs"]}
    outputs = [InferRequestedOutput(name) for name in described]
    result = triton.infer("digits", [give(pixels)], outputs=outputs, parameters={"coverage": 0.9})
    answered = result.get_response()["outputs"]
    assert [output["name"] for output in answered] == list(described)
    for output in answered:
        shape = described[output["name"]]["shape"]
        assert output["datatype"] == described[output["name"]]["datatype"]
        assert len(output["shape"]) == len(shape)
        assert all(expected in (-1, found) for expected, found in zip(shape, output["shape"], strict=True))


def test_what_has_no_effect_is_accepted(triton: InferenceServerClient, pixels: NDArray[np.uint8]) -> None:
    result = triton.infer(
        "digits", [give(pixels)], sequence_id=3, sequence_start=True, sequence_end=True, priority=2, timeout=60_000_000
    )
    assert result.as_numpy("label").shape == (3,)


def test_statistics_count(checkpoints: Path, pixels: NDArray[np.uint8]) -> None:
    with (
        serve(create_app(Settings(checkpoints=checkpoints))) as address,
        InferenceServerClient(address.removeprefix("http://")) as triton,
    ):
        (before,) = triton.get_inference_statistics()["model_stats"]
        assert (before["inference_count"], before["last_inference"]) == (0, 0)
        for _ in range(2):
            triton.infer("digits", [give(pixels)])
        with pytest.raises(InferenceServerException):
            triton.infer("digits", [give(pixels, "pictures")])
        (after,) = triton.get_inference_statistics("digits")["model_stats"]
        assert triton.get_inference_statistics("digits", after["version"])["model_stats"] == [after]
        assert after["inference_count"] == 6
        assert after["last_inference"] > 1.7e12
        assert after["inference_stats"]["success"]["count"] == 2
        assert after["inference_stats"]["fail"]["count"] == 1
        assert after["inference_stats"]["success"]["ns"] > 0


# What is refused


@pytest.mark.parametrize(
    ("name", "arguments", "status", "message"),
    [
        ("bert", {}, "404", "There is no model 'bert'. The models here are digits."),
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
        ("digits", {"outputs": [InferRequestedOutput("label", class_count=2)]}, "400", "Ask it of probabilities."),
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
    "unknown input": (request(tensor(name="pictures")), "The inputs are pictures. Give exactly one input, images or"),
    "duplicate input": (request(tensor(), tensor()), "The inputs are images, images."),
    "both inputs": (request(tensor(), tensor(**FILES, data=["", ""])), "Give exactly one input"),
    "no shape": (request({"name": "images", "datatype": "UINT8", "data": []}), "inputs.0.shape: Field required"),
    "negative": (request(tensor(shape=[-1, 1, 8, 8])), "inputs.0.shape.0"),
    "fraction": (request(tensor(shape=[1.5, 1, 8, 8])), "inputs.0.shape.0"),
    "overflow": (request(tensor(shape=[2**63, 2**63, 8, 8])), "images has shape"),
    "zero": (request(tensor(shape=[0, 1, 8, 8], data=[])), "images has shape 0, 1, 8, 8. It takes [-1, 1, 8, 8]"),
    "other size": (request(tensor(shape=[1, 1, 4, 16])), "images has shape 1, 1, 4, 16."),
    "no channel": (request(tensor(shape=[1, 8, 8])), "images has shape 1, 8, 8."),
    "floats": (request(tensor(datatype="FP32")), "images is of datatype 'FP32'. It takes UINT8."),
    "no datatype": (request(tensor(datatype="PIXEL")), "images is of datatype 'PIXEL'."),
    "too few": (request(tensor(data=[0] * 63)), "The data has 63 elements. Of shape [1, 1, 8, 8] there are 64."),
    "too many": (request(tensor(data=[0] * 65)), "The data has 65 elements."),
    "too bright": (request(tensor(data=[256] * 64)), "UINT8 data"),
    "too dark": (request(tensor(data=[-1] * 64)), "UINT8 data"),
    "huge": (request(tensor(data=[10**30] * 64)), "UINT8 data"),
    "float data": (request(tensor(data=[0.5] * 64)), "UINT8 data has a float. Its elements are each int."),
    "text data": (request(tensor(data=["0"] * 64)), "UINT8 data has a str."),
    "bool data": (request(tensor(data=[True] * 64)), "UINT8 data has a bool."),
    "null data": (request(tensor(data=[None] * 64)), "UINT8 data has a NoneType."),
    "object data": (request(tensor(data=[{}] * 64)), "UINT8 data has a dict."),
    "ragged": (request(tensor(data=[[[[0] * 8] * 7 + [[0] * 7]]])), "The data is not nested as [1, 1, 8, 8]."),
    "no list": (request(tensor(data="AAAA")), "inputs.0.data"),
    "no data": (request({**tensor(), "data": None}), "images has neither data nor a binary_data_size."),
    "both": (request(tensor(parameters={"binary_data_size": 64})), "images has both data and a binary_data_size."),
    "shared memory": (request(tensor(parameters={"shared_memory_region": "a"})), "shared_memory_region: Extra inputs"),
    "base64": (request(tensor(**FILES, data=["@@@@", "@@@@"])), "image 0 is not base64"),
    "no image": (request(tensor(**FILES, data=["aGk=", "aGk="])), "image 0 cannot be decoded"),
    "id": (request(id=7), "id: Input should be a valid string"),
    "binary without header": (binary(bytes(64))[0], "Invalid JSON"),
    "long header": ((request(), {"Inference-Header-Content-Length": "99999"}), "is 99999, and the body has"),
    "negative header": ((request(), {"Inference-Header-Content-Length": "-1"}), "Inference-Header-Content-Length"),
    "text header": ((request(), {"Inference-Header-Content-Length": "all"}), "Inference-Header-Content-Length"),
    "short binary": (binary(bytes(63)), "The data has 63 bytes. UINT8 of shape [1, 1, 8, 8] has 64."),
    "long binary": (binary(bytes(65)), "The data has 65 bytes."),
    "said less": (
        binary(bytes(64), parameters={"binary_data_size": 63}),
        "sum of binary_data_size is 63, and 64 bytes",
    ),
    "said more": (binary(bytes(64), parameters={"binary_data_size": 2**70}), "and 64 bytes follow the JSON"),
    "said negative": (binary(bytes(64), parameters={"binary_data_size": -1}), "binary_data_size"),
    "nothing said": (binary(bytes(64), parameters={}), "neither data nor"),
    "one file of two": (binary(PNG, **FILES), "The BYTES data has 1 elements. The shape says 2."),
    "three files of two": (binary(PNG * 3, **FILES), "The BYTES data has more than 2 elements."),
    "cut file": (binary(PNG + PNG[:-1], **FILES), "Element 1 of the BYTES data should have"),
    "cut length": (binary(PNG + PNG[:2], **FILES), "The BYTES data ends within a length."),
    "giant file": (binary(PNG + b"\xff" * 9, **FILES), "should have 4294967295 bytes, of which 5 are there"),
    "damaged file": (binary(PNG + struct.pack("<I", 4) + b"none", **FILES), "image 1 cannot be decoded"),
    "raw": ((b"none", {"Inference-Header-Content-Length": "0"}), "image 0 cannot be decoded"),
    "no gzip": ((request(), {"Content-Encoding": "gzip"}), "The body is not gzip"),
    "cut gzip": ((gzip.compress(request())[:-9], {"Content-Encoding": "gzip"}), "stream of the body is not complete."),
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
    with pytest.raises(InferenceServerException, match=r"The service failed\. The server's log says more\.") as caught:
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
    assert response.json() == {"error": f"The body is too large. Decompressed it may have {64 * 2**20} bytes."}
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
        assert "$ref" not in json.dumps(operation["requestBody"])
        example = operation["requestBody"]["content"]["application/json"]["examples"]["images"]["value"]
        assert client.post(INFER, json=example).status_code == 200
        errors = [answer for status, answer in operation["responses"].items() if status != "200"]
        assert {answer["content"]["application/json"]["schema"]["$ref"] for answer in errors} == {
            "#/components/schemas/InferenceErrorResponse"
        }


# Numbers instead of images


@pytest.fixture(scope="module")
def cubic(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[httpx.Client, InferenceServerClient]]:
    """A regression, too briefly trained to be of use."""
    directory = tmp_path_factory.mktemp("regression")
    assert train(make_session(directory / "cubic", steps=20, recipe=toy_cubic()))
    with (
        serve(create_app(Settings(checkpoints=directory))) as address,
        httpx.Client(base_url=address) as client,
        InferenceServerClient(address.removeprefix("http://")) as triton,
    ):
        yield client, triton


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_numbers(
    cubic: tuple[httpx.Client, InferenceServerClient], dtype: type[np.floating[Any]], binary: bool
) -> None:
    client, triton = cubic
    rows = np.array([[-1.5], [3.0], [0.25]], dtype)
    query = {"seed": 7, "ensemble_size": 20, "members": True}
    told = client.post("/v1/models/cubic/predict", params=query, json={"inputs": rows.tolist()}).json()
    described = triton.get_model_metadata("cubic")
    assert described["inputs"] == [{"name": "inputs", "datatype": "FP32", "shape": [-1, 1]}]
    outputs = [InferRequestedOutput(output["name"]) for output in described["outputs"]]
    parameters = {"seed": 7, "ensemble_size": 20}
    result = triton.infer("cubic", [give(rows, "inputs", binary=binary)], outputs=outputs, parameters=parameters)
    for name in ("mean", "standard_deviation", "variance", "noise_variance", "epistemic_variance"):
        expected = [[prediction["outputs"]["y"][name]] for prediction in told["predictions"]]
        np.testing.assert_allclose(result.as_numpy(name), expected, rtol=1e-6)
    np.testing.assert_allclose(
        result.as_numpy("members"), [prediction["member_outputs"] for prediction in told["predictions"]], rtol=1e-6
    )
    flags = [prediction["flags"]["out_of_distribution"]["flagged"] for prediction in told["predictions"]]
    assert result.as_numpy("out_of_distribution").tolist() == flags
    usual = triton.infer("cubic", [give(rows, "inputs")]).get_response()["outputs"]
    assert [output["name"] for output in usual] == [output["name"] for output in described["outputs"][:-1]]


def test_a_raw_body_is_one_vector(cubic: tuple[httpx.Client, InferenceServerClient]) -> None:
    client, triton = cubic
    row = np.array([[3.0]], np.float32)
    headers = {"Inference-Header-Content-Length": "0"}
    response = client.post("/v2/models/cubic/infer", content=row.tobytes(), headers=headers)
    length = int(response.headers["Inference-Header-Content-Length"])
    result = InferResult.from_response_body(response.content, header_length=length)
    seed = {"seed": result.get_response()["parameters"]["seed"]}
    again = triton.infer("cubic", [give(row, "inputs")], parameters=seed)
    assert result.as_numpy("mean") == again.as_numpy("mean")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.nan, "inputs has a number that is not finite. Leave NaN and infinity out."),
        (np.inf, "inputs has a number that is not finite."),
        (1e30, "x in row 0 is 1e+30, more than 10⁶ standard deviations from the training mean. Keep it within"),
    ],
)
@pytest.mark.parametrize("binary", [True, False])
def test_numbers_that_are_none(
    cubic: tuple[httpx.Client, InferenceServerClient], value: float, message: str, binary: bool
) -> None:
    with pytest.raises(InferenceServerException) as caught:
        cubic[1].infer("cubic", [give(np.array([[value]], np.float32), "inputs", binary=binary)])
    assert caught.value.status() == "400"
    assert message in caught.value.message()


def test_models_are_loaded_by_the_client(checkpoints: Path, tmp_path: Path) -> None:
    shutil.copytree(checkpoints / "digits", tmp_path / "models" / "digits")
    with (
        serve(create_app(Settings(checkpoints=tmp_path / "models"))) as address,
        InferenceServerClient(address.removeprefix("http://")) as triton,
    ):
        assert triton.is_server_ready()
        assert triton.is_model_ready("digits")
        with pytest.raises(InferenceServerException, match="no model 'second'"):
            triton.load_model("second")
        shutil.copytree(checkpoints / "digits", tmp_path / "models" / "second")
        assert not triton.is_model_ready("second")
        triton.load_model("second")
        assert triton.is_model_ready("second")
        (tmp_path / "models" / "second" / "model.safetensors").write_bytes(b"damaged")
        with pytest.raises(InferenceServerException, match="its SHA-256"):
            triton.load_model("second")
        assert triton.is_model_ready("second")
