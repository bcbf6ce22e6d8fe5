import base64
import json
import math
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from fastapi import FastAPI
from PIL import Image
from safetensors.torch import load

from models.checkpoint import Checkpoint, save_checkpoint
from models.inputs.image import ImageSpec
from models.inputs.pixels import decode_image
from models.noise import SEED_LIMIT
from models.predictions.prediction import evaluate, interpret
from models.samplers.deep_ensemble import DeepEnsembleConfig
from models.samplers.hyperdraw import HyperDrawConfig
from models.samplers.static_hypernetwork import StaticHypernetworkConfig
from service.app import create_app
from service.engine.engine import Engine
from service.engine.ensembles import Policy
from service.settings import Settings
from tests.checkpoints import make_config
from tests.conftest import SMALL_TARGET, serve
from tests.connections import ask_and_leave
from tests.engine import await_idle, draw_images, hold
from tests.pictures import draw_image, encode, forge_png
from tests.waiting import PATIENCE

PREDICT = "/v1/models/digits/predict"
PICTURES = [encode(draw_image(size=(8, 8))), encode(draw_image("RGB"), "JPEG"), encode(draw_image("RGB"), "WEBP")]


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
    assert answer["ensemble"] == {"size": 20, "seed": 7, "temperature": pytest.approx(1, abs=0.5)}
    assert len(answer["predictions"]) == 3

    spec = checkpoint.config.input
    assert isinstance(spec, ImageSpec)
    images = torch.stack([decode_image(picture, spec, 10**6, "") for picture in PICTURES])
    task, calibration = checkpoint.config.task, checkpoint.calibration
    said = interpret(task, evaluate(checkpoint.sampler, spec, task, images, seed=7, size=20))
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
    assert all(answer.json() == answers[0].json() for answer in answers)


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
    assert again == first


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


def json_body(value: object) -> dict[str, Any]:
    return {"content": json.dumps(value), "headers": {"Content-Type": "application/json"}}


def parts(*files: tuple[str, bytes]) -> dict[str, Any]:
    return {"files": [(name, ("x.png", content)) for name, content in files]}


PNG = {"Content-Type": "image/png"}
GOOD: dict[str, Any] = {"content": PICTURES[0], "headers": PNG}
BAD_REQUESTS: dict[str, tuple[str, dict[str, Any], int, str, str]] = {
    "unknown model": ("/v1/models/bert/predict", GOOD, 404, "unknown_model", "There is no model 'bert'"),
    "traversal": ("/v1/models/..%2f..%2fetc/predict", GOOD, 404, "not_found", ""),
    "size 0": (f"{PREDICT}?ensemble_size=0", GOOD, 422, "invalid_parameter", "ensemble_size"),
    "size −1": (f"{PREDICT}?ensemble_size=-1", GOOD, 422, "invalid_parameter", "ensemble_size"),
    "size 10⁹": (f"{PREDICT}?ensemble_size=1000000000", GOOD, 422, "invalid_parameter", "1000000000"),
    "size many": (f"{PREDICT}?ensemble_size=many", GOOD, 422, "invalid_parameter", "'many'"),
    "seed −1": (f"{PREDICT}?seed=-1", GOOD, 422, "invalid_parameter", "seed"),
    "seed past 2⁶³": (f"{PREDICT}?seed={SEED_LIMIT}", GOOD, 422, "invalid_parameter", "seed"),
    "seed of 5,000 digits": (f"{PREDICT}?seed={'9' * 5000}", GOOD, 422, "invalid_parameter", "seed"),
    "misspelt parameter": (f"{PREDICT}?ensemblesize=3", GOOD, 422, "invalid_parameter", "ensemblesize"),
    "no body": (PREDICT, {}, 422, "invalid_image", "the body is empty"),
    "other body": (
        PREDICT,
        {"content": b"a=1", "headers": {"Content-Type": "text/plain"}},
        415,
        "unsupported_media",
        "",
    ),
    "no image": (PREDICT, {"content": b"no image", "headers": PNG}, 422, "invalid_image", "not a PNG, JPEG or WebP"),
    "bomb": (PREDICT, {"content": forge_png(60_000, 60_000), "headers": PNG}, 413, "image_too_large", "too large"),
    "0×0": (PREDICT, {"content": forge_png(0, 0), "headers": PNG}, 422, "invalid_image", "decoded"),
    "one bad among good": (
        PREDICT,
        parts(("images", PICTURES[0]), ("images", PICTURES[0][:50])),
        422,
        "invalid_image",
        "image 1 (x.png)",
    ),
    "empty part": (PREDICT, parts(("images", b"")), 422, "invalid_image", "image 0 (x.png) is empty"),
    "other part": (PREDICT, parts(("image", PICTURES[0])), 422, "unknown_part", "'image'"),
    "text field": (
        PREDICT,
        {"data": {"images": "x"}, "files": {"images": PICTURES[0]}},
        422,
        "unknown_part",
        "'images', is text",
    ),
    "too many": (PREDICT, parts(*[("images", PICTURES[0])] * 9), 413, "too_many_images", "9 images"),
    "far too many": (PREDICT, parts(*[("images", PICTURES[0])] * 99), 413, "too_many_images", "99 images"),
    "no boundary": (
        PREDICT,
        {"content": b"x", "headers": {"Content-Type": "multipart/form-data"}},
        422,
        "invalid_multipart",
        "boundary",
    ),
    "broken multipart": (
        PREDICT,
        {"content": b"--b\r\nnonsense", "headers": {"Content-Type": "multipart/form-data; boundary=b"}},
        422,
        "",
        "multipart",
    ),
    "too large": (PREDICT, {"content": bytes(2**20 + 1), "headers": PNG}, 413, "body_too_large", "too large"),
    "compressed": (
        PREDICT,
        {"content": PICTURES[0], "headers": {**PNG, "Content-Encoding": "gzip"}},
        415,
        "unsupported_encoding",
        "'gzip'",
    ),
    "no JSON": (PREDICT, {**json_body(0), "content": b"{"}, 422, "invalid_json", "Invalid JSON"),
    "JSON of another shape": (PREDICT, json_body({"image": "x"}), 422, "invalid_json", "images: Field required"),
    "no images": (PREDICT, json_body({"images": []}), 422, "invalid_json", "at least 1 item"),
    "numbers for images": (PREDICT, json_body({"images": [7]}), 422, "invalid_json", "images.0"),
    "wrong base64": (PREDICT, json_body({"images": ["@@@@"]}), 422, "invalid_base64", "image 0 is not base64"),
    "cut base64": (PREDICT, json_body({"images": ["abcde"]}), 422, "invalid_base64", "image 0 is not base64"),
    "data URL": (PREDICT, json_body({"images": ["data:image/png;base64,AAAA"]}), 422, "invalid_base64", "base64"),
    "unicode base64": (PREDICT, json_body({"images": ["é" * 8]}), 422, "invalid_base64", "image 0"),
    "empty base64": (PREDICT, json_body({"images": [""]}), 422, "invalid_image", "image 0 is empty"),
}


@pytest.mark.parametrize("case", BAD_REQUESTS)
def test_bad_requests_get_a_clear_answer_and_the_service_goes_on(client: httpx.Client, case: str) -> None:
    path, request, status, code, message = BAD_REQUESTS[case]
    response = client.post(path, **request)
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"code", "message", "hint"}
    assert code in error["code"]
    assert message in error["message"]
    assert error["hint"]
    assert client.post(PREDICT, **GOOD).status_code == 200


def test_a_body_that_only_says_its_length_in_the_end_is_limited_too(client: httpx.Client) -> None:
    response = client.post(PREDICT, content=(bytes(2**16) for _ in range(20)), headers=PNG)
    assert response.status_code == 413


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/nowhere", 404), ("GET", PREDICT, 405)])
def test_unknown_paths_and_methods_answer_in_the_same_shape(
    client: httpx.Client, method: str, path: str, status: int
) -> None:
    response = client.request(method, path)
    assert response.status_code == status
    assert set(response.json()["error"]) == {"code", "message", "hint"}


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
    for reference in ("/static/app.js", "/static/style.css"):
        assert reference in page.text
        assert client.get(reference).status_code == 200
    assert "http://" not in page.text
    assert "https://" not in page.text


def test_openapi_examples_work(client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()
    content = document["paths"]["/v1/models/{model}/predict"]["post"]["requestBody"]["content"]
    assert set(content) >= {"application/json", "multipart/form-data", "image/png"}
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


# A sampler that holds some number of networks


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
        "Leave false_alarm_rate and coverage out.",
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
