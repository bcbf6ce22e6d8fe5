"""The Open Inference Protocol, by the client that Triton's users have."""

import asyncio
import base64
import shutil
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.http
import tritonclient.http.aio
from numpy.typing import NDArray
from tritonclient.http import InferenceServerClient, InferRequestedOutput, InferResult
from tritonclient.utils import InferenceServerException

from models.checkpoint import Checkpoint
from service.app import create_app
from service.settings import Settings
from tests.conftest import serve
from tests.tensors import INFER, PICTURES, give

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


def predict(client: httpx.Client, pictures: list[bytes] = PICTURES, **parameters: Any) -> list[dict[str, Any]]:
    """What the service's own API answers."""
    files = [("images", (f"{i}.png", picture)) for i, picture in enumerate(pictures)]
    response = client.post("/v1/models/digits/predict", files=files, params=parameters)
    predictions: list[dict[str, Any]] = response.json()["predictions"]
    return predictions


def check(result: InferResult, predictions: list[dict[str, Any]]) -> None:
    """Whether the usual outputs have the numbers of the service's own API."""
    assert [output["name"] for output in result.get_response()["outputs"]] == USUAL
    np.testing.assert_allclose(result.as_numpy("probabilities"), [p["probabilities"] for p in predictions], rtol=1e-5)
    labels = [label.decode() if isinstance(label, bytes) else label for label in result.as_numpy("label")]
    assert labels == [p["label"] for p in predictions]
    for name in MEASURES:
        expected = [p["uncertainty"][name] for p in predictions]
        np.testing.assert_allclose(result.as_numpy(name), expected, rtol=1e-5, atol=1e-30)
    for flag in FLAGS:
        assert result.as_numpy(flag).tolist() == [p["flags"][flag]["flagged"] for p in predictions]
        scores = [p["flags"][flag]["score"] for p in predictions]
        np.testing.assert_allclose(result.as_numpy(f"{flag}_score"), scores, rtol=1e-5, atol=1e-30)


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
    np.testing.assert_allclose(first.as_numpy("probabilities"), again.as_numpy("probabilities"), rtol=1e-5)


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
