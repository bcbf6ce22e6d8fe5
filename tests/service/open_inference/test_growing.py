"""Ensembles that grow, by the client that Triton's users have."""

from pathlib import Path

import httpx
import numpy as np
import pytest
from tritonclient.http import InferenceServerClient, InferRequestedOutput
from tritonclient.utils import InferenceServerException

from models.predictions.stopping import StoppingRule
from tests.growing import SIZES
from tests.tensors import give

AUTO: dict[str, int | str] = {"seed": 7, "ensemble_size": "auto"}


@pytest.mark.parametrize("binary", [True, False])
def test_each_image_gets_its_own_answer(
    growing: httpx.Client, grown: tuple[Path, StoppingRule, list[bytes]], binary: bool
) -> None:
    images = grown[2]
    files = [("images", image) for image in images]
    told = growing.post("/v1/models/digits/predict", files=files, params=AUTO).json()["predictions"]
    with InferenceServerClient(f"{growing.base_url.host}:{growing.base_url.port}") as triton:
        array = np.array(images, dtype=object)
        outputs = None if binary else [InferRequestedOutput(name, False) for name in ("label", "ensemble_size")]
        found = triton.infer("digits", [give(array, "encoded_images")], outputs=outputs, parameters=AUTO)
    sizes = found.as_numpy("ensemble_size")
    assert sizes.tolist() == [one["ensemble"]["size"] for one in told]
    assert {*sizes} == {*SIZES}
    assert [str(label, "utf-8") if isinstance(label, bytes) else label for label in found.as_numpy("label")] == [
        one["label"] for one in told
    ]
    parameters = found.get_response()["parameters"]
    assert (parameters["seed"], parameters["ensemble_size"]) == (7, 100)
    assert not {"temperature", "out_of_distribution_threshold"} & parameters.keys()
    if binary:
        np.testing.assert_allclose(found.as_numpy("probabilities"), [p["probabilities"] for p in told], rtol=1e-5)
        flags = [one["flags"]["out_of_distribution"]["flagged"] for one in told]
        assert found.as_numpy("out_of_distribution").tolist() == flags


def test_members_of_ensembles_that_grow_are_refused(
    growing: httpx.Client, grown: tuple[Path, StoppingRule, list[bytes]]
) -> None:
    array = np.array(grown[2][:2], dtype=object)
    with (
        InferenceServerClient(f"{growing.base_url.host}:{growing.base_url.port}") as triton,
        pytest.raises(InferenceServerException, match="Ensembles that grow have different members"),
    ):
        triton.infer(
            "digits", [give(array, "encoded_images")], outputs=[InferRequestedOutput("members")], parameters=AUTO
        )


def test_the_size_of_a_fixed_ensemble_is_an_output_too(
    growing: httpx.Client, grown: tuple[Path, StoppingRule, list[bytes]]
) -> None:
    array = np.array(grown[2][:3], dtype=object)
    with InferenceServerClient(f"{growing.base_url.host}:{growing.base_url.port}") as triton:
        outputs = [InferRequestedOutput("ensemble_size")]
        found = triton.infer(
            "digits", [give(array, "encoded_images")], outputs=outputs, parameters={"ensemble_size": 20}
        )
    assert found.as_numpy("ensemble_size").tolist() == [20, 20, 20]
