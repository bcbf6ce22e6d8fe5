"""A regression, from its training to an answer over HTTP."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from safetensors.torch import load

from models.checkpoint import Checkpoint, load_checkpoint
from models.predictions.prediction import evaluate_members
from service.app import create_app
from service.settings import Settings
from tests.conftest import make_session, serve
from training.recipes.toys import toy_cubic
from training.runs.session import train

PREDICT = "/v1/models/cubic/predict"


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("regression")
    assert train(make_session(directory / "cubic", steps=300, recipe=toy_cubic()))
    return directory


@pytest.fixture(scope="module")
def cubic(directory: Path) -> Checkpoint:
    return load_checkpoint(directory / "cubic")


@pytest.fixture(scope="module")
def cubic_client(directory: Path) -> Iterator[httpx.Client]:
    app = create_app(Settings(checkpoints=directory, max_inputs=8, max_body_bytes=10_000))
    with serve(app) as address, httpx.Client(base_url=address) as client:
        yield client


def test_the_networks_learn_the_cubic_and_differ_most_where_there_is_no_data(cubic: Checkpoint) -> None:
    assert cubic.metrics is not None
    metrics = cubic.metrics
    assert metrics["ensemble_error"] < 8  # noise of 3, and a curve that spans ± 64
    (beyond,) = metrics["beyond"]
    assert beyond["dataset"] == "cubic-beyond"
    assert beyond["deviation"] > 1.5 * metrics["deviation"]
    assert beyond["auroc"] > 0.75
    (flagged,) = (flag["flagged"] for flag in metrics["flags"] if flag["rate"] == 0.05)
    assert flagged < 0.12  # 5 % of 400, and sampling error in both splits
    assert cubic.calibration is not None
    assert {*(size.scores["out_of_distribution"] for size in cubic.calibration.sizes)} == {"relative_deviation"}


def test_prediction_is_what_the_networks_say(cubic_client: httpx.Client, cubic: Checkpoint) -> None:
    rows = [[-5.5], [0.25], [3]]
    response = cubic_client.post(
        PREDICT, params={"seed": 7, "ensemble_size": 20, "members": True}, json={"inputs": rows}
    )
    assert response.status_code == 200, response.text
    answer = response.json()
    assert answer["ensemble"] == {"size": 20, "seed": 7, "precision": "float32"}
    config = cubic.config
    inputs = config.input.prepare(torch.tensor(rows))
    members = config.task.predict(evaluate_members(cubic.sampler, inputs, seed=7, size=20)).double()
    for i, prediction in enumerate(answer["predictions"]):
        number = prediction["outputs"]["y"]
        epistemic = members[:, i].var(correction=0).item()
        assert number["mean"] == pytest.approx(members[:, i].mean().item(), rel=1e-4)
        assert number["epistemic_variance"] == pytest.approx(epistemic, rel=1e-3)
        assert number["noise_variance"] == pytest.approx(9)
        assert number["variance"] == pytest.approx(9 + epistemic, rel=1e-3)
        assert number["standard_deviation"] == pytest.approx(number["variance"] ** 0.5)
        torch.testing.assert_close(
            torch.tensor(prediction["member_outputs"]).double(), members[:, i], rtol=1e-4, atol=1e-4
        )
        flag = prediction["flags"]["out_of_distribution"]
        assert flag["score_name"] == "relative_deviation"
        assert flag["score"] == pytest.approx((epistemic / 24**2) ** 0.5, rel=1e-3)
        assert flag["flagged"] == (flag["score"] > flag["threshold"])


def test_numbers_have_intervals(cubic_client: httpx.Client, cubic: Checkpoint) -> None:
    parameters = {"coverage": 0.9, "seed": 7}
    (answer,) = cubic_client.post(PREDICT, params=parameters, json={"inputs": [[1]]}).json()["predictions"]
    number = answer["outputs"]["y"]
    lower, upper = number["interval"]["lower"], number["interval"]["upper"]
    assert number["interval"]["coverage"] == 0.9
    assert (lower + upper) / 2 == pytest.approx(number["mean"])
    assert cubic.calibration is not None
    numbers = cubic.calibration.for_size(100).numbers
    assert numbers is not None
    (reach,) = numbers.reaches[cubic.calibration.find_coverage(0.9)]
    assert upper - lower == pytest.approx(2 * reach * number["standard_deviation"])
    packed = cubic_client.post(PREDICT, params=parameters | {"format": "safetensors"}, json={"inputs": [[1]]})
    assert load(packed.content)["interval.upper"].item() == pytest.approx(upper)
    request = {
        "inputs": [{"name": "inputs", "shape": [1, 1], "datatype": "FP32", "data": [1]}],
        "parameters": parameters,
        "outputs": [{"name": "interval_lower"}],
    }
    (output,) = cubic_client.post("/v2/models/cubic/infer", json=request).json()["outputs"]
    assert output["data"] == pytest.approx([lower])
    (answer,) = cubic_client.post(PREDICT, json={"inputs": [[1]]}).json()["predictions"]
    assert answer["outputs"]["y"].get("interval") is None


def test_description_and_weights(cubic_client: httpx.Client, cubic: Checkpoint) -> None:
    model = cubic_client.get("/v1/models/cubic").json()
    assert model["input"] == {"kind": "vector", "names": ["x"], "mean": [0.0], "std": [2.3]}
    assert model["task"] == {"kind": "regression", "names": ["y"], "mean": [0.0], "std": [24.0], "noise_std": [3.0]}
    response = cubic_client.get("/v1/models/cubic/weights", params={"seed": 1, "member": 2})
    module = cubic.config.target.module()
    module.load_state_dict(load(response.content))
    spec = cubic.config.input
    expected = evaluate_members(cubic.sampler, spec.prepare(torch.tensor([[1.5]])), seed=1, size=3)[2]
    torch.testing.assert_close(module(spec.prepare(torch.tensor([[1.5]]))), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ({"inputs": []}, 422, "at least 1 item"),
        ({"inputs": [[1.0, 2.0]]}, 422, "Row 0 has 2 value(s), not 1."),
        ({"inputs": [[1.0], []]}, 422, "Row 1 has 0 value(s), not 1."),
        ({"inputs": [["1"]]}, 422, "x in row 0 is '1'."),
        ({"inputs": [[None]]}, 422, "x in row 0 is None."),
        ({"inputs": [[True]]}, 422, "x in row 0 is True."),
        ({"inputs": [[10**400]]}, 422, "x in row 0 is 1000"),
        ({"inputs": [{"x": 1.0, "y": 2.0}]}, 422, "Row 0 has the unknown column 'y'."),
        ({"inputs": [{}]}, 422, "Row 0 lacks the column 'x'."),
        ({"inputs": [1.0]}, 422, "valid array"),
        ({"inputs": [[0.0], [1e30]]}, 422, "x in row 1 is 1e+30, more than 10⁶ standard deviations"),
        ({"images": ["aGk="]}, 422, "inputs: Field required"),
        ({"inputs": [[0.0]] * 9}, 413, "The request has 9 vectors."),
        ({"inputs": [[0.0]] * 9000}, 413, "The body is too large."),
    ],
)
def test_bad_bodies(cubic_client: httpx.Client, body: Any, status: int, message: str) -> None:
    response = cubic_client.post(PREDICT, content=json.dumps(body), headers={"Content-Type": "application/json"})
    assert response.status_code == status
    error = response.json()["error"]
    assert message in error["message"]
    assert error["hint"]


@pytest.mark.parametrize(
    "text", ['{"inputs": [[NaN]]}', '{"inputs": [[Infinity]]}', '{"inputs": [[1e400]]}', "[[1]", ""]
)
def test_numbers_that_are_none(cubic_client: httpx.Client, text: str) -> None:
    response = cubic_client.post(PREDICT, content=text, headers={"Content-Type": "application/json"})
    assert response.status_code == 422
    hint = response.json()["error"]["hint"]
    assert hint == "It must be a finite number." or '{"inputs": [[x], …]}' in hint


def test_an_image_is_no_vector(cubic_client: httpx.Client) -> None:
    response = cubic_client.post(PREDICT, files={"images": b"\x89PNG"})
    assert response.status_code == 415
    assert "takes rows" in response.json()["error"]["message"]


def test_metrics_have_the_deviation_that_the_flag_goes_by(cubic_client: httpx.Client) -> None:
    def read(end: str) -> float:
        (value,) = re.findall(rf'^hyperdraw_relative_deviation_{end}{{model="cubic"}} (.*)$', text(), re.MULTILINE)
        return float(value)

    def text() -> str:
        return cubic_client.get("/metrics").text

    cubic_client.post(PREDICT, json={"inputs": [[0.0]]})
    before = read("sum"), read("count")
    answer = cubic_client.post(PREDICT, json={"inputs": [[-1.5], [5.5], [60.0]]}).json()
    scores = [prediction["flags"]["out_of_distribution"]["score"] for prediction in answer["predictions"]]
    assert read("count") - before[1] == 3
    assert read("sum") - before[0] == pytest.approx(sum(scores))
    assert "hyperdraw_predictive_entropy_nats_count{" not in text()
