"""Predictions of ensembles that grow until their answer is settled."""

from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from safetensors.torch import load

from models.inputs.pixels import encode_image
from models.model import Model
from models.predictions.stopping import StoppingRule
from service.app import create_app
from service.settings import Settings
from tests.conftest import serve
from tests.engine import draw_images
from tests.growing import SIZES
from tests.rounding import allow_rounding

PREDICT = "/v1/models/digits/predict"


def ask(client: httpx.Client, images: list[bytes], **parameters: Any) -> httpx.Response:
    return client.post(PREDICT, files=[("images", image) for image in images], params=parameters)


def test_each_image_gets_the_answer_of_its_own_ensemble(
    growing: httpx.Client, grown: tuple[Path, StoppingRule, list[bytes]]
) -> None:
    _, rule, images = grown
    answer = ask(growing, images, ensemble_size="auto", seed=7, coverage=0.9).json()
    sizes = [one["ensemble"]["size"] for one in answer["predictions"]]
    assert set(sizes) == set(SIZES)
    assert answer["ensemble"] == {"size": 100, "seed": 7, "precision": "float32"}
    for size in SIZES:
        (last,) = (each for each in rule.rounds if each.ensemble_size == size)
        fixed = ask(growing, images, ensemble_size=size, seed=7, coverage=0.9).json()
        for own, other in zip(answer["predictions"], fixed["predictions"], strict=True):
            if own["ensemble"]["size"] != size:
                continue
            assert own["ensemble"] == {
                "size": size,
                "settled": size < 100,
                "temperature": pytest.approx(fixed["ensemble"]["temperature"]),
            }
            assert own["label"] == other["label"]
            assert own["probabilities"] == pytest.approx(other["probabilities"], abs=1e-5)
            assert own["uncertainty"] == pytest.approx(other["uncertainty"], abs=1e-4)
            least = rule.least_probabilities[0]
            likely = [k for k, p in enumerate(own["probabilities"]) if p >= least or k == own["class_index"]]
            assert own["prediction_set"]["labels"] == [str(k) for k in likely]
            for flag, said in own["flags"].items():
                assert said["threshold"] == pytest.approx(last.centres[flag] + rule.offsets[flag])
                assert said["flagged"] == (said["score"] > said["threshold"])
                assert said["calibrated_ensemble_size"] == size
                assert said["score"] == pytest.approx(other["flags"][flag]["score"], abs=1e-3)


def test_tensors_say_the_same(growing: httpx.Client, grown: tuple[Path, StoppingRule, list[bytes]]) -> None:
    images = grown[2]
    answer = ask(growing, images, ensemble_size="auto", seed=7).json()["predictions"]
    tensors = load(ask(growing, images, ensemble_size="auto", seed=7, format="safetensors").content)
    assert tensors["ensemble_size"].tolist() == [one["ensemble"]["size"] for one in answer]
    assert tensors["probabilities"].argmax(-1).tolist() == [one["class_index"] for one in answer]
    for flag in answer[0]["flags"]:
        said = torch.tensor([one["flags"][flag]["threshold"] for one in answer])
        torch.testing.assert_close(tensors[f"flags.{flag}.threshold"], said)


def test_whole_ensembles_answer_where_no_rule_keeps_its_promise(
    growing: httpx.Client, grown: tuple[Path, StoppingRule, list[bytes]]
) -> None:
    answer = ask(growing, grown[2][:2], ensemble_size="auto", seed=7, false_alarm_rate=0.2).json()
    assert answer["ensemble"]["size"] == 100
    assert not any("ensemble" in one for one in answer["predictions"])


@pytest.mark.parametrize(
    ("parameters", "message"),
    [({"members": True}, "Ensembles that grow have different members."), ({"ensemble_size": "most"}, "auto")],
)
def test_what_ensembles_that_grow_cannot_do_is_refused(
    growing: httpx.Client,
    grown: tuple[Path, StoppingRule, list[bytes]],
    parameters: dict[str, Any],
    message: str,
) -> None:
    refused = ask(growing, grown[2][:1], **{"ensemble_size": "auto", **parameters})
    assert refused.status_code == 422
    assert message in refused.text


def test_a_model_without_rules_says_so(client: httpx.Client, model: Model) -> None:
    refused = ask(client, [encode_image(draw_images(model, 1)[0])], ensemble_size="auto")
    assert refused.status_code == 422
    assert refused.json()["error"]["message"] == "It was not calibrated when ensembles of digits may stop growing."


@pytest.mark.parametrize("parameters", [{}, {"ensemble_size": 20}, {"members": True}])
def test_ensembles_may_grow_unless_a_request_says_otherwise(
    grown: tuple[Path, StoppingRule, list[bytes]], parameters: dict[str, Any]
) -> None:
    settings = Settings(checkpoints=grown[0], default_ensemble_size="auto")
    with serve(create_app(settings)) as address, httpx.Client(base_url=address) as client:
        answer = ask(client, grown[2], seed=7, **parameters).json()
        asked = {"ensemble_size": 100, **parameters} if parameters else {"ensemble_size": "auto"}
        assert answer == allow_rounding(ask(client, grown[2], seed=7, **asked).json())


def test_whole_ensembles_must_be_allowed(grown: tuple[Path, StoppingRule, list[bytes]]) -> None:
    settings = Settings(checkpoints=grown[0], max_ensemble_size=50)
    with serve(create_app(settings)) as address, httpx.Client(base_url=address) as client:
        refused = ask(client, grown[2][:1], ensemble_size="auto")
    assert refused.status_code == 422
    assert refused.json()["error"]["hint"] == "It may be at most 50."
