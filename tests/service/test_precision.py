"""Services that compute in bfloat16, or in what the device is made for."""

from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from hyperdraw import Client
from hyperdraw.terminal import show_provenance
from rich.console import Console
from tritonclient.http import InferenceServerClient

from models.inputs.pixels import encode_image
from models.model import Model
from models.precision import choose_precision
from service.app import create_app
from service.settings import Settings
from tests.conftest import serve
from tests.engine import draw_images
from tests.tensors import give


def test_bfloat16_only_rounds_answers(checkpoints: Path, client: httpx.Client, model: Model) -> None:
    images = [encode_image(image) for image in draw_images(model, 5)]
    files = [("images", image) for image in images]
    exact = client.post("/v1/models/digits/predict", files=files, params={"seed": 7}).json()
    with (
        serve(create_app(Settings(checkpoints=checkpoints, precision="bfloat16"))) as address,
        httpx.Client(base_url=address) as rounding,
        InferenceServerClient(address.removeprefix("http://")) as triton,
        Client(address) as ours,
    ):
        told = ours.predict(images, model="digits", seed=7)
        rounded = rounding.post("/v1/models/digits/predict", files=files, params={"seed": 7}).json()
        found = triton.infer("digits", [give(np.array(images, dtype=object), "encoded_images")], parameters={"seed": 7})
    console = Console(record=True, width=100)
    show_provenance(console, told)
    assert "100 networks of digits, seed 7, bfloat16, temperature" in console.export_text()
    assert told.precision == "bfloat16"
    assert exact["ensemble"]["precision"] == "float32"
    assert rounded["ensemble"]["precision"] == "bfloat16"
    assert found.get_response()["parameters"]["precision"] == "bfloat16"
    for one, other in zip(exact["predictions"], rounded["predictions"], strict=True):
        assert one["probabilities"] != other["probabilities"]
        assert one["probabilities"] == pytest.approx(other["probabilities"], abs=0.02)
    likely = [one["probabilities"] for one in rounded["predictions"]]
    np.testing.assert_allclose(found.as_numpy("probabilities"), likely, atol=1e-5)


@pytest.mark.parametrize(("amx", "avx512"), [(False, False), (True, False), (False, True)])
def test_the_processor_decides(amx: bool, avx512: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cpu._is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr("torch.cpu._is_avx512_bf16_supported", lambda: avx512)
    expected = "bfloat16" if amx or avx512 else "float32"
    assert choose_precision(torch.device("cpu")) == expected


def test_auto_is_what_the_device_is_made_for(checkpoints: Path) -> None:
    app = create_app(Settings(checkpoints=checkpoints, precision="auto"))
    try:
        assert app.state.engine.precision == choose_precision(torch.device("cpu"))
    finally:
        app.state.engine.close()
        app.state.decoder.close()
