"""Predictions of samplers that hold some number of networks, instead of drawing fresh ones."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from PIL import Image
from safetensors.torch import load

from models.checkpoint import save_checkpoint
from models.inputs.image import ImageSpec
from models.samplers.deep_ensemble import DeepEnsembleConfig
from models.samplers.hyperdraw import HyperDrawConfig
from models.samplers.static_hypernetwork import StaticHypernetworkConfig
from service.app import create_app
from service.settings import Settings
from tests.checkpoints import make_config
from tests.conftest import SMALL_TARGET, serve
from tests.pictures import draw_image, encode

PICTURES = [encode(draw_image(size=(8, 8))), encode(draw_image("RGB"), "JPEG"), encode(draw_image("RGB"), "WEBP")]


@pytest.fixture(scope="module")
def ensemble_client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A deep ensemble of three, not calibrated."""
    directory = tmp_path_factory.mktemp("checkpoints")
    sampler = DeepEnsembleConfig(networks=3).build(SMALL_TARGET).eval()
    save_checkpoint(directory / "three", make_config(sampler), sampler, "float32")
    with serve(create_app(Settings(checkpoints=directory))) as address, httpx.Client(base_url=address) as client:
        yield client


def test_an_ensemble_says_that_it_draws_nothing_fresh(ensemble_client: httpx.Client) -> None:
    (model,) = ensemble_client.get("/v1/models").json()["models"]
    assert model["sampler"] == {
        "fresh_draws": False,
        "num_networks": 3,
        "ensemble_size": 3,
        "is_distribution": True,
    }
    assert model["method"] == "deep_ensemble"


def test_an_ensemble_answers_with_all_its_networks(ensemble_client: httpx.Client) -> None:
    path, files = "/v1/models/three/predict", [("images", PICTURES[0])]
    answers = [ensemble_client.post(path, files=files, params=p).json() for p in ({}, {"ensemble_size": 3, "seed": 5})]
    assert [answer["ensemble"]["size"] for answer in answers] == [3, 3]
    first, second = (answer["predictions"][0]["probabilities"] for answer in answers)
    assert first == pytest.approx(second, abs=1e-6)
    assert answers[0]["predictions"][0]["flags"] == {}
    assert "temperature" not in answers[0]["ensemble"]


@pytest.mark.parametrize(
    ("path", "parameters", "message"),
    [
        ("predict", {"ensemble_size": 4}, "three has only 3 networks; 4 were requested."),
        ("weights", {"member": 3}, "three has no member 3."),
        ("weights", {"member": 2, "count": 2}, "three has no member 3."),
        ("predict", {"false_alarm_rate": 0.05}, "three has no calibration."),
        ("predict", {"coverage": 0.9}, "three has no calibration."),
    ],
)
def test_what_an_ensemble_does_not_have(
    ensemble_client: httpx.Client, path: str, parameters: dict[str, Any], message: str
) -> None:
    method, files = ("POST", {"images": PICTURES[0]}) if path == "predict" else ("GET", None)
    response = ensemble_client.request(method, f"/v1/models/three/{path}", params=parameters, files=files)
    assert response.status_code == 422
    error = response.json()["error"]
    assert error["message"] == message
    assert error["hint"] in (
        "Its members are 0 to 2.",
        "ensemble_size may be at most 3.",
        "Leave out false_alarm_rate and coverage.",
    )


def test_a_download_holds_the_networks_of_the_ensemble(ensemble_client: httpx.Client) -> None:
    response = ensemble_client.get("/v1/models/three/weights", params={"seed": 1, "count": 3})
    other = ensemble_client.get("/v1/models/three/weights", params={"seed": 2, "count": 3})
    networks = [load(r.content)["linear1.bias"] for r in (response, other)]
    assert len(torch.unique(torch.cat(networks), dim=0)) == 3


def test_a_single_network_says_that_it_is_no_distribution(tmp_path: Path) -> None:
    sampler = StaticHypernetworkConfig(4, 4, basic_channels=2).build(SMALL_TARGET).eval()
    save_checkpoint(tmp_path / "one", make_config(sampler), sampler, "float32")
    with serve(create_app(Settings(checkpoints=tmp_path))) as address, httpx.Client(base_url=address) as client:
        description = client.get("/v1/models/one").json()
        assert description["sampler"] == {
            "fresh_draws": False,
            "num_networks": 1,
            "ensemble_size": 1,
            "is_distribution": False,
        }
        answer = client.post("/v1/models/one/predict", files={"images": PICTURES[0]}).json()
        assert answer["ensemble"]["size"] == 1
        assert answer["predictions"][0]["uncertainty"]["mutual_information"] == pytest.approx(0, abs=1e-6)
        refused = client.post("/v1/models/one/predict?ensemble_size=2", files={"images": PICTURES[0]})
        assert (
            refused.json()["error"]["message"]
            == "one is a single network, not a distribution; 2 networks were requested."
        )


def test_as_many_networks_answer_as_were_evaluated_or_are_allowed(tmp_path: Path) -> None:
    sampler = HyperDrawConfig(modes=2).build(SMALL_TARGET).eval()
    config = make_config(sampler)
    config = replace(config, training=replace(config.training, largest_ensemble=7))
    save_checkpoint(tmp_path / "seven", config, sampler, "float32")
    for most, size in ((1000, 7), (5, 5)):
        app = create_app(Settings(checkpoints=tmp_path, max_ensemble_size=most))
        with serve(app) as address, httpx.Client(base_url=address) as client:
            assert client.get("/v1/models/seven").json()["sampler"]["ensemble_size"] == 7
            answer = client.post("/v1/models/seven/predict", files={"images": PICTURES[0]}).json()
            assert answer["ensemble"]["size"] == size


def test_networks_that_overflow_are_an_error_not_an_answer(tmp_path: Path) -> None:
    sampler = DeepEnsembleConfig(networks=2).build(SMALL_TARGET).eval()
    with torch.no_grad():
        sampler.networks.get_parameter("conv1.weight").fill_(1e38)  # finite itself, and on a black image
    config = replace(make_config(sampler), input=ImageSpec(channels=1, height=12, width=12, mean=(0.0,), std=(1.0,)))
    save_checkpoint(tmp_path / "wild", config, sampler, "float32")
    with serve(create_app(Settings(checkpoints=tmp_path))) as address, httpx.Client(base_url=address) as client:
        response = client.post("/v1/models/wild/predict", files={"images": PICTURES[0]})
        assert response.status_code == 500
        error = response.json()["error"]
        assert error["code"] == "not_finite"
        assert "wild: a sampled network gave logits that are not finite" in error["message"]
        black = encode(Image.new("L", (12, 12)))
        assert client.post("/v1/models/wild/predict", files={"images": black}).status_code == 200
