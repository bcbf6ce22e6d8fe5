"""Certificates over HTTP."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from fastapi import FastAPI
from PIL import Image

from models.checkpoint import Checkpoint, save_checkpoint
from models.inputs.image import ImageSpec
from models.predictions.smoothing import SELECTING, Smoothing, certify
from models.samplers.deep_ensemble import DeepEnsembleConfig
from service.api.certificates import MOST_CERTIFIED
from service.app import create_app
from service.engine.engine import Engine
from service.settings import Settings
from tests.backbones import save_with_backbone
from tests.checkpoints import make_config, save_curve
from tests.conftest import SMALL_TARGET, serve
from tests.engine import await_idle, hold
from tests.models.predictions.test_smoothing import finish
from tests.pictures import encode
from tests.rounding import allow_rounding
from training.data.datasets import load_digits

URL = "/v1/models/digits/certify"
DIGITS = load_digits(Path()).test
PICTURES = [encode(Image.fromarray(image[0].numpy())) for image in DIGITS.inputs[:3]]


def post(client: httpx.Client, pictures: list[bytes] = PICTURES, **parameters: Any) -> httpx.Response:
    files = [("images", (f"{i}.png", picture)) for i, picture in enumerate(pictures)]
    return client.post(URL, files=files, params=parameters)


def test_the_answer_is_that_of_the_library(client: httpx.Client, checkpoint: Checkpoint) -> None:
    answer = post(client, seed=7, sigma=0.1, samples=200, ensemble_size=2, alpha=0.01).json()
    smoothing = Smoothing(0.1, 200, 2, 0.01)
    steps = certify(checkpoint.sampler, checkpoint.config.input, DIGITS.inputs[:3], 7, smoothing, "float32")  # type: ignore[arg-type]
    for told, own in zip(answer["certificates"], finish(steps), strict=True):
        assert told == {
            "label": None if own.label is None else str(own.label),
            "class_index": own.label,
            "radius": pytest.approx(own.radius),
            "least_probability": pytest.approx(own.least_probability),
            "votes": own.votes,
            "samples": own.samples,
        }
    assert answer["model"]["version"] == checkpoint.version
    assert answer["ensemble"] == {"size": 2, "seed": 7, "precision": "float32", "temperature": None}
    assert (answer["networks"], answer["sigma"], answer["alpha"]) == (None, 0.1, 0.01)


def test_a_seed_repeats_certificates(client: httpx.Client) -> None:
    first = post(client, samples=100).json()
    assert post(client, samples=100, seed=first["ensemble"]["seed"]).json() == allow_rounding(first)
    assert post(client, samples=100, seed=first["ensemble"]["seed"] + 1).json() != first


def test_predictions_take_turns_with_certificates(app: FastAPI, client: httpx.Client) -> None:
    """Its cost waits in the queue, and is given back."""
    engine: Engine = app.state.engine
    headers = {"Content-Type": "image/png", "X-Request-Timeout": "0.05"}
    with hold(engine):
        late = client.post(URL, content=PICTURES[0], headers=headers, params={"samples": 300, "ensemble_size": 4})
        assert late.status_code == 504
    await_idle(engine)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"samples": 99}, "samples: Input should be greater than or equal to 100"),
        ({"samples": 100_001}, "samples: Input should be less than or equal to 100000"),
        ({"ensemble_size": 101}, "ensemble_size: Input should be less than or equal to 100"),
        ({"sigma": 0}, "sigma: Input should be greater than or equal to 0.001"),
        ({"sigma": "inf"}, "sigma: Input should be less than or equal to 10"),
        ({"alpha": 0.2}, "alpha: Input should be less than or equal to 0.1"),
        ({"radius": "inf"}, "radius: Input should be a finite number"),
        ({"n": 5}, "n: Extra inputs are not permitted"),
    ],
)
def test_limits(client: httpx.Client, parameters: dict[str, Any], message: str) -> None:
    response = post(client, **parameters)
    assert response.status_code == 422
    assert message in response.json()["error"]["message"]


def test_images_of_a_request_are_limited(client: httpx.Client) -> None:
    response = post(client, PICTURES[:1] * (MOST_CERTIFIED + 1))
    assert response.status_code == 413
    assert response.json()["error"]["hint"] == f"Send at most {MOST_CERTIFIED}."
    assert post(client, [b"nothing"]).json()["error"]["code"] == "invalid_image"


def test_a_cost_beyond_the_queue_is_refused_before_the_images_are_read(app: FastAPI, client: httpx.Client) -> None:
    engine: Engine = app.state.engine
    with hold(engine):
        reservation = engine.admission.reserve("another", engine.admission.limit // 2)
        cost = (SELECTING + 100_000) * 100
        assert cost > engine.admission.limit
        response = post(client, samples=100_000, ensemble_size=100)
        assert response.status_code == 429
        reservation.release()


def test_models_that_cannot_be_certified_say_why(tmp_path: Path) -> None:
    torch.manual_seed(0)
    three = DeepEnsembleConfig(networks=3).build(SMALL_TARGET).eval()
    save_checkpoint(tmp_path / "three", make_config(three), three, "float32")
    save_curve(tmp_path / "curve")
    save_with_backbone(tmp_path / "seen")
    with torch.no_grad():
        three.networks.get_parameter("conv1.weight").fill_(1e38)
    wild = replace(make_config(three), input=ImageSpec(channels=1, height=12, width=12, mean=(0.0,), std=(1.0,)))
    save_checkpoint(tmp_path / "wild", wild, three, "float32")
    app = create_app(Settings(checkpoints=tmp_path))
    with serve(app) as address, httpx.Client(base_url=f"{address}/v1/models") as client:
        for name in ("curve", "seen"):
            refused = client.post(f"/{name}/certify", files={"images": PICTURES[0]})
            assert refused.status_code == 422
            assert refused.json()["error"]["code"] == "not_certifiable"
        few = client.post("/three/certify", files={"images": PICTURES[0]}, params={"ensemble_size": 4})
        assert few.json()["error"]["hint"] == "ensemble_size may be at most 3."
        answer = client.post("/three/certify", files={"images": PICTURES[0]}, params={"samples": 100}).json()
        assert answer["networks"] == 3
        assert client.post("/wild/certify", files={"images": PICTURES[0]}).json()["error"]["code"] == "not_finite"
