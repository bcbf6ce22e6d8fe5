"""Models with a pretrained backbone over HTTP."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import torch
from fastapi import FastAPI
from safetensors.torch import load

from models.backbones.backbone import FILE, FOLDER, IMAGES_PER_RUN
from models.checkpoint import load_checkpoint
from models.inputs.pixels import encode_image
from models.model import Model
from service.app import create_app
from service.settings import Settings
from tests.backbones import IMAGES, save_with_backbone
from tests.conftest import serve

PIXELS = torch.randint(256, (2 * IMAGES_PER_RUN + 3, *IMAGES.shape), generator=torch.Generator().manual_seed(0)).byte()


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("checkpoints")
    torch.manual_seed(0)
    save_with_backbone(directory / "animals")
    return directory


@pytest.fixture(scope="module")
def app(directory: Path) -> FastAPI:
    return create_app(Settings(checkpoints=directory, max_inputs=64))


@pytest.fixture(scope="module")
def client(app: FastAPI) -> Iterator[httpx.Client]:
    with serve(app) as address, httpx.Client(base_url=address) as client:
        yield client


@pytest.fixture(scope="module")
def model(directory: Path) -> Model:
    return Model(load_checkpoint(directory / "animals"))


def send(pixels: torch.Tensor) -> list[tuple[str, tuple[str, bytes]]]:
    return [("images", (f"{i}.png", encode_image(image))) for i, image in enumerate(pixels)]


def test_an_answer_is_that_of_networks_on_features(client: httpx.Client, model: Model) -> None:
    """There are more images than the backbone sees at a time."""
    answer = client.post(
        "/v1/models/animals/predict", params={"seed": 7, "ensemble_size": 5, "members": True}, files=send(PIXELS)
    ).json()
    outputs = model.evaluate(model.draw(7, range(5)), model.prepare(PIXELS))
    expected = model.interpret(outputs)
    found = torch.tensor([part["member_probabilities"] for part in answer["predictions"]])
    torch.testing.assert_close(found, expected.members.transpose(0, 1), rtol=1e-4, atol=1e-5)


def test_downloaded_networks_take_features(client: httpx.Client, model: Model) -> None:
    weights = load(client.get("/v1/models/animals/weights", params={"seed": 7, "member": 3}).content)
    described = client.get("/v1/models/animals").json()
    scope: dict[str, torch.nn.Module] = {}
    exec(described["target"]["source"], scope)
    network = scope["network"]
    network.load_state_dict(weights)
    assert described["backbone"]["licence"] == "CC0"
    inputs = model.prepare(PIXELS[:4])
    expected = model.evaluate(model.draw(7, range(4)), inputs).plain[3]
    torch.testing.assert_close(network(inputs.prepared), expected)


def test_the_stage_of_the_backbone_is_timed_in_steps(client: httpx.Client) -> None:
    def count() -> float:
        name = 'hyperdraw_stage_seconds_count{model="animals",stage="backbone"}'
        lines = [line for line in client.get("/metrics").text.splitlines() if line.startswith(name)]
        return float(lines[0].split()[-1]) if lines else 0.0

    before = count()
    client.post("/v1/models/animals/predict", files=send(PIXELS)).raise_for_status()
    assert count() - before == 3


def test_there_is_no_attack_but_a_walk(client: httpx.Client) -> None:
    refused = client.post("/v1/models/animals/attack", files=send(PIXELS[:1]))
    assert refused.status_code == 422
    assert refused.json()["error"] == {
        "code": "not_attackable",
        "message": "animals cannot be attacked: its pretrained backbone gives no gradient of the image.",
        "hint": "Only models without a backbone can be attacked here.",
    }
    walk = client.post("/v1/models/animals/walk", params={"seed": 1, "points": 5}, files=send(PIXELS[:1])).json()
    assert [len(path) for path in walk["paths"].values()] == [5, 5]


def test_the_open_inference_protocol_takes_its_images(client: httpx.Client) -> None:
    described = client.get("/v2/models/animals").json()
    assert [tensor["name"] for tensor in described["inputs"]] == ["images", "encoded_images"]
    tensor = {"name": "images", "datatype": "UINT8", "shape": [1, *IMAGES.shape], "data": PIXELS[:1].flatten().tolist()}
    answer = client.post("/v2/models/animals/infer", json={"inputs": [tensor]})
    assert answer.status_code == 200, answer.text


def test_a_model_is_loaded_once_its_shared_backbone_is_there(
    directory: Path, client: httpx.Client, app: FastAPI
) -> None:
    config = save_with_backbone(directory / "late")
    assert config.backbone is not None
    content = (directory / "late" / FILE).read_bytes()
    (directory / "late" / FILE).unlink()
    reload = client.post("/v1/models/late:reload")
    assert reload.status_code == 409
    assert "backbone.onnx: is missing, and no folder named backbones" in reload.json()["error"]["message"]
    app.state.catalog.refresh()
    (directory / FOLDER).mkdir()
    (directory / FOLDER / f"{config.backbone.sha256}.onnx").write_bytes(content)
    app.state.catalog.refresh()
    names = [model["name"] for model in client.get("/v1/models").json()["models"]]
    assert names == ["animals", "late"]
    shutil.rmtree(directory / "late")
