"""The Open Inference Protocol, for models of numbers."""

from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from tritonclient.http import InferenceServerClient, InferRequestedOutput, InferResult
from tritonclient.utils import InferenceServerException

from service.app import create_app
from service.settings import Settings
from tests.conftest import make_session, serve
from tests.tensors import give
from training.recipes.toys import toy_cubic
from training.runs.session import train


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
    names = [output["name"] for output in described["outputs"]]
    assert {"interval_lower", "interval_upper"} < {*names}
    names = [name for name in names if not name.startswith("interval_")]  # which need a coverage
    outputs = [InferRequestedOutput(name) for name in names]
    parameters = {"seed": 7, "ensemble_size": 20}
    result = triton.infer("cubic", [give(rows, "inputs", binary=binary)], outputs=outputs, parameters=parameters)
    for name in ("mean", "standard_deviation", "variance", "noise_variance", "epistemic_variance"):
        expected = [[prediction["outputs"]["y"][name]] for prediction in told["predictions"]]
        np.testing.assert_allclose(result.as_numpy(name), expected, rtol=1e-5)
    np.testing.assert_allclose(
        result.as_numpy("members"), [prediction["member_outputs"] for prediction in told["predictions"]], rtol=1e-5
    )
    flags = [prediction["flags"]["out_of_distribution"]["flagged"] for prediction in told["predictions"]]
    assert result.as_numpy("out_of_distribution").tolist() == flags
    usual = triton.infer("cubic", [give(rows, "inputs")]).get_response()["outputs"]
    assert [output["name"] for output in usual] == names[:-2]


def test_a_raw_body_is_one_vector(cubic: tuple[httpx.Client, InferenceServerClient]) -> None:
    client, triton = cubic
    row = np.array([[3.0]], np.float32)
    headers = {"Inference-Header-Content-Length": "0"}
    response = client.post("/v2/models/cubic/infer", content=row.tobytes(), headers=headers)
    length = int(response.headers["Inference-Header-Content-Length"])
    result = InferResult.from_response_body(response.content, header_length=length)
    seed = {"seed": result.get_response()["parameters"]["seed"]}
    again = triton.infer("cubic", [give(row, "inputs")], parameters=seed)
    assert result.as_numpy("mean") == pytest.approx(again.as_numpy("mean"), rel=1e-5)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.nan, "inputs has a number that is not finite. Send no NaN and no infinity."),
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
