import base64
import json
import math
import socket
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from fastapi import FastAPI
from safetensors.torch import load

from models.checkpoint import Checkpoint
from models.inputs.image import ImageSpec
from models.inputs.image_formats import FORMATS
from models.inputs.pixels import decode_image
from models.predictions.prediction import evaluate, interpret
from service.app import create_app
from service.engine.engine import Engine
from service.engine.ensembles import Policy
from service.settings import Settings
from tests.conftest import serve
from tests.connections import ask_and_leave
from tests.engine import await_idle, draw_images, hold
from tests.pictures import draw_image, encode
from tests.rounding import allow_rounding
from tests.waiting import PATIENCE

PREDICT = "/v1/models/digits/predict"
PICTURES = [encode(draw_image(size=(8, 8))), encode(draw_image("RGB"), "JPEG"), encode(draw_image("RGB"), "WEBP")]
GOOD: dict[str, Any] = {"content": PICTURES[0], "headers": {"Content-Type": "image/png"}}


def post_parts(client: httpx.Client, pictures: list[bytes], **parameters: Any) -> httpx.Response:
    files = [("images", (f"{i}.png", picture)) for i, picture in enumerate(pictures)]
    return client.post(PREDICT, files=files, params=parameters)


def test_health(client: httpx.Client) -> None:
    assert client.get("/healthz").json() == {"status": "live"}
    assert client.get("/readyz").json() == {"status": "ready"}


def test_models(client: httpx.Client, checkpoint: Checkpoint) -> None:
    answer = client.get("/v1/models").json()
    assert answer["default"] == "digits"
    assert [model["name"] for model in answer["models"]] == ["digits"]
    assert answer["refused"] == []
    assert answer["limits"] == {
        "max_inputs": 8,
        "max_body_bytes": 2**20,
        "max_image_pixels": 1_000_000,
        "max_request_pixels": 256_000_000,
    }
    model = client.get("/v1/models/digits").json()
    assert model["version"] == checkpoint.version
    assert model["method"] == "hypergan"
    assert model["task"]["classes"] == list("0123456789")
    assert model["input"] == {
        "kind": "image",
        "channels": 1,
        "height": 8,
        "width": 8,
        "mean": [0.3053],
        "std": [0.3764],
    }
    assert model["target"]["num_weights"] == checkpoint.config.target.num_weights
    assert model["metrics"]["single"]["accuracy_mean"] > 0.9
    assert model["calibration"]["n"] == 200
    assert model["sampler"] == {
        "fresh_draws": True,
        "num_networks": None,
        "ensemble_size": 100,
        "is_distribution": True,
    }


@pytest.mark.parametrize(("policy", "same"), [("request", False), ("batch", False), ("interval", True)])
def test_freshness_is_as_set(checkpoints: Path, policy: Policy, same: bool) -> None:
    app = create_app(Settings(checkpoints=checkpoints, freshness=policy))
    with serve(app) as address, httpx.Client(base_url=address) as client:
        first, second = (post_parts(client, PICTURES, ensemble_size=5).json()["ensemble"]["seed"] for _ in range(2))
        assert (first == second) == same
        assert post_parts(client, PICTURES, seed=7).json()["ensemble"]["seed"] == 7


def test_prediction_is_what_the_model_says(client: httpx.Client, checkpoint: Checkpoint) -> None:
    response = post_parts(client, PICTURES, seed=7, ensemble_size=20, members=True)
    assert response.status_code == 200
    answer = response.json()
    assert answer["model"] == {"name": "digits", "version": checkpoint.version, "method": "hypergan"}
    ensemble = {"size": 20, "seed": 7, "precision": "float32", "temperature": pytest.approx(1, abs=0.5)}
    assert answer["ensemble"] == ensemble
    assert len(answer["predictions"]) == 3

    spec = checkpoint.config.input
    assert isinstance(spec, ImageSpec)
    images = torch.stack([decode_image(picture, spec, 10**6, "") for picture in PICTURES])
    task, calibration = checkpoint.config.task, checkpoint.calibration
    outputs = evaluate(checkpoint.sampler, spec, task, images, seed=7, size=20, density=checkpoint.density)
    said = interpret(task, outputs)
    assert calibration is not None
    (own,) = (size.classes for size in calibration.sizes if size.ensemble_size == 20)
    assert own is not None
    assert own.temperature != calibration.temperature_for(100)
    probabilities = said.probabilities ** (1 / own.temperature)
    probabilities /= probabilities.sum(-1, keepdim=True)
    judgements = calibration.judge(said)
    for i, prediction in enumerate(answer["predictions"]):
        assert prediction["probabilities"] == pytest.approx(probabilities[i].tolist(), abs=1e-6)
        assert prediction["class_index"] == said.probabilities[i].argmax()
        assert prediction["label"] == str(prediction["class_index"])
        for name, value in prediction["uncertainty"].items():
            assert value == pytest.approx(getattr(said.uncertainty, name)[i].item(), abs=1e-5)
        assert torch.tensor(prediction["member_probabilities"]).shape == (20, 10)
        torch.testing.assert_close(
            torch.tensor(prediction["member_probabilities"]), said.members[:, i], rtol=1e-4, atol=1e-6
        )
        assert set(prediction["flags"]) == {"out_of_distribution", "suspect_adversarial"}
        for flag, judgement in judgements.items():
            found = prediction["flags"][flag]
            assert found["score_name"] == judgement.score_name
            assert found["score"] == pytest.approx(judgement.scores[i].item(), abs=1e-6)
            assert found["threshold"] == judgement.threshold
            assert found["flagged"] == (found["score"] > found["threshold"])
            assert found["false_alarm_rate"] == 0.05
            assert found["calibrated_ensemble_size"] == 20


def test_a_smaller_budget_means_larger_thresholds(client: httpx.Client) -> None:
    thresholds = []
    for rate in (0.2, 0.05, 0.007):
        flags = post_parts(client, PICTURES[:1], seed=7, false_alarm_rate=rate).json()["predictions"][0]["flags"]
        thresholds.append([flag["threshold"] for flag in flags.values()])
        assert {flag["false_alarm_rate"] for flag in flags.values()} == {0.005 if rate == 0.007 else rate}
    assert all(a < b < c for a, b, c in zip(*thresholds, strict=True))


def test_prediction_sets(client: httpx.Client) -> None:
    narrow, wide = (
        [p["prediction_set"] for p in post_parts(client, PICTURES, seed=7, coverage=c).json()["predictions"]]
        for c in (0.8, 0.993)
    )
    assert {answer["coverage"] for answer in narrow} == {0.8}
    assert {answer["coverage"] for answer in wide} == {0.995}
    labels = [p["label"] for p in post_parts(client, PICTURES, seed=7).json()["predictions"]]
    for label, small, large in zip(labels, narrow, wide, strict=True):
        assert label in small["labels"]
        assert set(small["labels"]) <= set(large["labels"])
    assert "prediction_set" not in post_parts(client, PICTURES[:1]).json()["predictions"][0]


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"false_alarm_rate": 0.001}, "digits: a false-alarm rate of 0.001 was not calibrated."),
        ({"false_alarm_rate": 0.5}, "digits: a false-alarm rate of 0.5 was not calibrated."),
        ({"coverage": 0.5}, "digits: a coverage of 0.5 was not calibrated."),
        ({"coverage": 0.9999}, "digits: a coverage of 0.9999 was not calibrated."),
    ],
)
def test_what_was_not_calibrated_is_refused(client: httpx.Client, parameters: dict[str, float], message: str) -> None:
    response = post_parts(client, PICTURES[:1], **parameters)
    assert response.status_code == 422
    assert response.json()["error"]["message"] == message
    assert "0.005, 0.01, 0.02, 0.05, 0.1, 0.2" in response.json()["error"]["hint"]


def test_a_binary_answer_says_the_same(client: httpx.Client) -> None:
    asked: dict[str, Any] = {"seed": 7, "ensemble_size": 12, "members": True, "coverage": 0.9}
    told = post_parts(client, PICTURES, **asked).json()
    response = post_parts(client, PICTURES, **asked, format="safetensors")
    assert response.headers["content-type"] == "application/octet-stream"
    tensors = load(response.content)
    header = json.loads(response.content[8 : 8 + int.from_bytes(response.content[:8], "little")])["__metadata__"]
    assert json.loads(header["model"]) == told["model"]
    assert json.loads(header["ensemble"]) == told["ensemble"]
    classes = json.loads(header["task"])["classes"]
    assert float(header["coverage"]) == told["predictions"][0]["prediction_set"]["coverage"]
    for i, prediction in enumerate(told["predictions"]):
        assert tensors["probabilities"][i].tolist() == pytest.approx(prediction["probabilities"], rel=1e-6)
        members = torch.tensor(prediction["member_probabilities"])
        torch.testing.assert_close(tensors["members"][:, i], members, rtol=0, atol=1e-7)
        chosen = [name for name, held in zip(classes, tensors["prediction_set"][i].tolist(), strict=True) if held]
        assert chosen == prediction["prediction_set"]["labels"]
        for name, value in prediction["uncertainty"].items():
            assert float(tensors[name][i]) == pytest.approx(value, rel=1e-6, abs=1e-30)
        for name, flag in prediction["flags"].items():
            assert bool(tensors[f"flags.{name}.flagged"][i]) == flag["flagged"]
            assert float(tensors[f"flags.{name}.score"][i]) == pytest.approx(flag["score"], rel=1e-6, abs=1e-30)
            assert json.loads(header["flags"])[name]["threshold"] == flag["threshold"]


def test_three_bodies_mean_the_same(client: httpx.Client) -> None:
    picture = PICTURES[0]
    answers = [
        post_parts(client, [picture], seed=3),
        client.post(PREDICT, content=picture, headers={"Content-Type": "image/png"}, params={"seed": 3}),
        client.post(PREDICT, content=picture, headers={"Content-Type": "application/octet-stream"}, params={"seed": 3}),
        client.post(PREDICT, json={"images": [base64.b64encode(picture).decode()]}, params={"seed": 3}),
    ]
    assert [answer.status_code for answer in answers] == [200] * 4
    assert all(answer.json() == allow_rounding(answers[0].json()) for answer in answers)


def test_the_same_seed_gives_the_same_answer_whatever_else_is_in_the_request(client: httpx.Client) -> None:
    alone = post_parts(client, PICTURES[:1], seed=5).json()["predictions"][0]
    crowd = post_parts(client, PICTURES[::-1], seed=5).json()["predictions"][2]
    assert alone["probabilities"] == pytest.approx(crowd["probabilities"], abs=1e-6)
    assert alone["label"] == crowd["label"]


def test_a_fresh_seed_is_drawn_reported_and_repeatable(client: httpx.Client) -> None:
    first, second = (post_parts(client, PICTURES).json() for _ in range(2))
    assert first["ensemble"]["seed"] != second["ensemble"]["seed"]
    assert first["ensemble"]["size"] == 100
    assert first["ensemble"]["seed"] < 2**53
    again = post_parts(client, PICTURES, seed=first["ensemble"]["seed"]).json()
    assert again["ensemble"] == first["ensemble"]
    for ours, theirs in zip(again["predictions"], first["predictions"], strict=True):
        assert ours["label"] == theirs["label"]
        # Networks that are drawn ahead are drawn in other blocks, which round differently.
        assert ours["probabilities"] == pytest.approx(theirs["probabilities"], rel=1e-5)


def test_members_extend_smaller_ensembles(client: httpx.Client) -> None:
    small, large = (
        post_parts(client, PICTURES[:1], seed=9, ensemble_size=size, members=True).json()["predictions"][0]
        for size in (4, 1000)
    )
    torch.testing.assert_close(
        torch.tensor(small["member_probabilities"]),
        torch.tensor(large["member_probabilities"][:4]),
        rtol=1e-4,
        atol=1e-6,
    )


def test_one_network_has_no_mutual_information(client: httpx.Client) -> None:
    uncertainty = post_parts(client, PICTURES[:1], ensemble_size=1).json()["predictions"][0]["uncertainty"]
    assert uncertainty["mutual_information"] == pytest.approx(0, abs=1e-9)
    assert uncertainty["variation_ratio"] == 0


def test_a_failure_tells_the_log_and_not_the_client(
    app: FastAPI, client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("secret detail")

    monkeypatch.setattr(app.state.engine, "predict", fail)
    response = client.post(PREDICT, **GOOD)
    assert response.status_code == 500
    assert response.json()["error"]["code"] == "internal_error"
    assert "secret" not in response.text
    monkeypatch.undo()
    assert client.post(PREDICT, **GOOD).status_code == 200


def test_what_cannot_wait_is_told_when_to_come_again(checkpoints: Path) -> None:
    app = create_app(Settings(checkpoints=checkpoints, max_queue=100))
    (checkpoint,) = app.state.catalog
    with serve(app) as address, httpx.Client(base_url=address) as client:
        with hold(app.state.engine):
            waiting = app.state.engine.predict(checkpoint, draw_images(checkpoint, 3), None, 30)
            response = post_parts(client, PICTURES, ensemble_size=4)
        assert response.status_code == 429
        assert int(response.headers["retry-after"]) >= 1
        assert response.json()["error"]["code"] == "overloaded"
        waiting.result(PATIENCE)
        assert post_parts(client, PICTURES, ensemble_size=4).status_code == 200


def test_a_body_that_does_not_arrive_is_given_up(checkpoints: Path) -> None:
    with serve(create_app(Settings(checkpoints=checkpoints, body_timeout=0.1))) as address:
        host, port = address.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=PATIENCE) as connection:
            head = f"POST {PREDICT} HTTP/1.1\r\nHost: {host}\r\nContent-Type: image/png\r\nContent-Length: 100\r\n\r\n"
            connection.sendall(head.encode() + b"a few bytes")
            assert connection.recv(4096).startswith(b"HTTP/1.1 408 ")


def test_late_answers_are_not_worked_on(app: FastAPI, client: httpx.Client) -> None:
    with hold(app.state.engine):
        response = client.post(PREDICT, files={"images": PICTURES[0]}, headers={"X-Request-Timeout": "0.05"})
        assert response.status_code == 504
        assert "0.05 s" in response.json()["error"]["message"]
        await_idle(app.state.engine)
    for wrong in ("0", "-1", "nan", "soon"):
        response = client.post(PREDICT, files={"images": PICTURES[0]}, headers={"X-Request-Timeout": wrong})
        assert response.status_code == 422


def test_clients_that_leave_are_not_worked_for(app: FastAPI, client: httpx.Client) -> None:
    engine: Engine = app.state.engine
    with hold(engine):
        ask_and_leave(str(client.base_url), PREDICT, PICTURES[0], lambda: engine.admission.amount > 0)
        await_idle(engine)
    assert client.post(PREDICT, files={"images": PICTURES[0]}).status_code == 200


def test_page_and_its_parts(client: httpx.Client) -> None:
    page = client.get("/")
    assert page.status_code == 200
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]
    for reference in ("static/app.js", "static/style.css"):
        assert f'"{reference}"' in page.text
        assert client.get(f"/{reference}").status_code == 200
    assert "http://" not in page.text
    assert "https://" not in page.text


def test_openapi_examples_work(client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()
    content = document["paths"]["/v1/models/{model}/predict"]["post"]["requestBody"]["content"]
    assert set(content) == {"application/json", "multipart/form-data", *(known.media_type for known in FORMATS)}
    examples = content["application/json"]["examples"]
    assert client.post(PREDICT, json=examples["images"]["value"]).status_code == 200
    docs = client.get("/docs")
    assert docs.status_code == 200
    assert "//cdn" not in docs.text


def test_uncertainty_stays_within_its_bounds(client: httpx.Client) -> None:
    noise = encode(draw_image(size=(8, 8)).effect_spread(9))
    predictions = post_parts(client, [noise, *PICTURES]).json()["predictions"]
    assert len(predictions) == 4
    for prediction in predictions:
        uncertainty = prediction["uncertainty"]
        assert sum(prediction["probabilities"]) == pytest.approx(1)
        assert 0 <= uncertainty["mutual_information"] <= uncertainty["predictive_entropy"] <= math.log(10) + 1e-6


def test_head_is_answered_where_get_is(app: FastAPI, client: httpx.Client) -> None:
    """With the same headers, and nothing else; no network is drawn for it."""
    paths = [path for path, methods in client.get("/openapi.json").json()["paths"].items() if "get" in methods]
    version = next(iter(app.state.catalog)).version
    for path in [*paths, "/", "/docs", "/openapi.json", "/static/app.js", "/v1/models/nothing", "/nowhere"]:
        url = path.replace("{model}", "digits").replace("{version}", version)
        got, asked = (
            client.request(method, url, params={"seed": "1"} if "weights" in url else None)
            for method in ("GET", "HEAD")
        )
        assert asked.status_code == got.status_code, url
        assert asked.content == b""
        assert asked.headers.get("content-type") == got.headers.get("content-type")
        if url not in ("/metrics", "/nowhere"):
            assert asked.headers.get("content-length") == got.headers.get("content-length")
    assert client.head("/v1/models/digits/predict").status_code == 405
