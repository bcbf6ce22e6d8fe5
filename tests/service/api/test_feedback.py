"""Labels of answers, and what they say, over HTTP."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from pydantic import SecretStr

import service.feedback
from models.feedback.database import SQLITE
from models.inputs.pixels import encode_image
from models.model import Model
from service.app import create_app
from service.settings import Settings
from tests.checkpoints import renew, save_curve
from tests.conftest import serve
from tests.engine import draw_images
from tests.keys import write_keys
from tests.waiting import wait_until


@pytest.fixture(scope="module")
def images(model: Model) -> list[tuple[str, bytes]]:
    """Parts of a form: twelve pictures."""
    return [("images", encode_image(image)) for image in draw_images(model, 12)]


@pytest.fixture
def client(store: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[httpx.Client]:
    """Of a service that keeps answers of `digits` and of numbers, `curve`."""
    monkeypatch.setitem(vars(service.feedback), "MEASURE_SECONDS", 0.05)
    save_curve(store / "curve")
    settings = Settings(checkpoints=store, feedback=SecretStr(str(store / "answers.sqlite")))
    with serve(create_app(settings)) as address, httpx.Client(base_url=address, timeout=60) as client:
        yield client


def predict(client: httpx.Client, images: Any, query: str = "", **headers: str) -> tuple[str, list[Any]]:
    """The id of a request, and its predictions."""
    answer = client.post(f"/v1/models/digits/predict?{query}", files=images, headers=headers)
    assert answer.status_code == 200, answer.text
    return answer.headers["X-Request-ID"], answer.json()["predictions"]


def label(client: httpx.Client, *labels: tuple[str, int, Any], **headers: str) -> Any:
    body = [dict(zip(("request_id", "index", "label"), each, strict=True)) for each in labels]
    answer = client.post("/v1/feedback", json={"labels": body}, headers=headers)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_what_labels_say(client: httpx.Client, images: Any) -> None:
    name, predictions = predict(client, images, "seed=7&ensemble_size=20")
    truth = [each["label"] for each in predictions[:9]] + [(each["class_index"] + 1) % 10 for each in predictions[9:]]
    told = label(client, *((name, i, each) for i, each in enumerate(truth)), (name, 12, "0"), (name, 0, "ten"))
    assert (told["recorded"], told["repeated"]) == (12, 0)
    assert [(each["number"], each["code"]) for each in told["refused"]] == [
        (12, "unknown_answer"),
        (13, "invalid_label"),
    ]
    assert label(client, (name, 0, truth[0]))["repeated"] == 1

    found = client.get("/v1/models/digits/feedback").json()
    described = client.get("/v1/models/digits").json()
    assert found["model"] == {key: described[key] for key in ("name", "version", "method")}
    assert (found["answers"], found["labels"], found["dropped_labels"]) == (12, 12, 0)
    assert found["accuracy"]["share"] == 0.75
    assert found["accuracy"]["lower"] < 0.75 < found["accuracy"]["upper"]
    indices = [each["class_index"] for each in predictions[:9]] + truth[9:]
    own = [each["probabilities"][index] for each, index in zip(predictions, indices, strict=True)]
    assert found["negative_log_likelihood"] == pytest.approx(-float(torch.tensor(own).log().mean()), rel=1e-3)
    highest = sum(max(each["probabilities"]) for each in predictions) / 12
    assert found["estimated_accuracy"] == pytest.approx(highest, rel=1e-5)
    for coverage in found["coverage"]:
        _, asked = predict(client, images, f"seed=7&ensemble_size=20&coverage={coverage['promised']}")
        inside = [str(i) in each["prediction_set"]["labels"] for each, i in zip(asked, indices, strict=True)]
        assert coverage["share"] == pytest.approx(sum(inside) / 12)
    assert found["alarm"] == any(each["alarm"] for each in found["coverage"])

    def read_metrics() -> bool:
        text = client.get("/metrics").text
        return (
            'hyperdraw_feedback_labels{model="digits"} 12.0' in text
            and 'hyperdraw_feedback_accuracy{model="digits"} 0.75' in text
            and "hyperdraw_feedback_fault 0.0" in text
        )

    wait_until(read_metrics)


def test_ensembles_between_two_sizes_and_the_inference_protocol(
    client: httpx.Client, images: Any, model: Model
) -> None:
    pixels = draw_images(model, 12)
    body = {
        "inputs": [{"name": "images", "shape": list(pixels.shape), "datatype": "UINT8", "data": pixels.tolist()}],
        "parameters": {"ensemble_size": 19, "seed": 7},
    }
    answer = client.post("/v2/models/digits/infer", json=body, headers={"X-Request-ID": "mine"})
    outputs = {output["name"]: output["data"] for output in answer.json()["outputs"]}
    assert answer.headers["X-Request-ID"] == "mine"
    assert label(client, *(("mine", i, each) for i, each in enumerate(outputs["label"])))["recorded"] == 12
    assert client.get("/v1/models/digits/feedback").json()["accuracy"]["share"] == 1


def test_numbers(client: httpx.Client) -> None:
    answer = client.post("/v1/models/curve/predict?seed=7", json={"inputs": [[0.5], [2.0]]})
    name = answer.headers["X-Request-ID"]
    means = [each["outputs"]["y"]["mean"] for each in answer.json()["predictions"]]
    assert label(client, (name, 0, means[0] + 1), (name, 1, [means[1] - 2]))["recorded"] == 2
    assert label(client, (name, 0, "y"))["refused"][0]["code"] == "invalid_label"
    found = client.get("/v1/models/curve/feedback").json()
    assert found["root_mean_square_error"]["y"] == pytest.approx(2.5**0.5, rel=1e-4)
    assert found["coverage"] == []  # it is not calibrated
    assert "accuracy" not in found


def test_an_id_that_comes_again_is_ambiguous(client: httpx.Client, images: Any) -> None:
    for _ in range(2):
        predict(client, images[:1], **{"X-Request-ID": "again"})
    (refusal,) = label(client, ("again", 0, "1"))["refused"]
    assert (refusal["code"], refusal["message"]) == (
        "ambiguous_answer",
        "Several requests had this id, so the label may be for either.",
    )


def test_a_version_that_is_replaced_keeps_its_labels(client: httpx.Client, store: Path, images: Any) -> None:
    old = client.get("/v1/models/digits").json()["version"]
    name, _ = predict(client, images)
    label(client, (name, 0, "1"))
    new = renew(store / "digits")
    assert client.post("/v1/models/digits:reload").status_code == 200
    assert label(client, (name, 1, "2"))["recorded"] == 1
    assert client.get("/v1/models/digits/feedback").json()["labels"] == 0
    found = client.get(f"/v1/models/digits/feedback?version={old}").json()
    assert (found["labels"], found["model"]["version"]) == (2, old)
    assert client.get("/v1/models/digits/feedback").json()["model"]["version"] == new
    refused = client.get(f"/v1/models/digits/feedback?version={'0' * 64}")
    assert (refused.status_code, refused.json()["error"]["code"]) == (404, "unknown_version")


def test_ensembles_that_grow(grown: Any) -> None:
    path, _, images = grown
    settings = Settings(checkpoints=path, feedback=SecretStr(str(path / "answers.sqlite")))
    with serve(create_app(settings)) as address, httpx.Client(base_url=address, timeout=60) as client:
        files = [("images", image) for image in images]
        name, predictions = predict(client, files, "ensemble_size=auto&coverage=0.8&seed=7")
        assert len({each["ensemble"]["size"] for each in predictions}) > 1
        label(client, *((name, i, each["label"]) for i, each in enumerate(predictions)))
        found = client.get("/v1/models/digits/feedback").json()
        assert (found["labels"], found["accuracy"]["share"]) == (len(images), 1)


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ({"labels": []}, 422, "labels: List should have at least 1 item"),
        ({"labels": [{"request_id": "a", "index": 0}]}, 422, "labels.0.label"),
        ({"labels": [{"request_id": "a b", "label": "1"}]}, 422, "labels.0.request_id"),
        ({"labels": [{"request_id": "a\n", "label": "1"}]}, 422, "labels.0.request_id"),
        ({"labels": [{"request_id": "a", "index": -1, "label": "1"}]}, 422, "labels.0.index"),
        ({"labels": [{"request_id": "a", "index": 2**31, "label": "1"}]}, 422, "labels.0.index"),
        ({"labels": [{"request_id": "a", "label": None}]}, 422, "a label is a name or a number"),
        ({"labels": [{"request_id": "a", "label": True}]}, 422, "a label is a name or a number"),
        ({"labels": [{"request_id": "a", "label": "1", "more": 1}]}, 422, "labels.0.more"),
        ({"labels": [{"request_id": "a", "label": "1"}] * 1001}, 422, "at most 1000 items"),
    ],
)
def test_labels_that_are_no_labels(client: httpx.Client, body: Any, status: int, message: str) -> None:
    answer = client.post("/v1/feedback", json=body)
    assert answer.status_code == status, answer.text
    assert message in answer.json()["error"]["message"]


def test_keys_keep_clients_apart(store: Path, images: Any) -> None:
    keys = write_keys(store / "keys.toml", alice=["predict"], bob=["predict"], carol=["weights"])
    settings = Settings(
        checkpoints=store / "digits", keys=store / "keys.toml", feedback=SecretStr(str(store / "answers.sqlite"))
    )
    by = {name: {"Authorization": f"Bearer {key}"} for name, key in keys.items()}
    with serve(create_app(settings)) as address, httpx.Client(base_url=address, timeout=60) as client:
        for name in ("alice", "bob"):
            predict(client, images[:1], **by[name], **{"X-Request-ID": "same"})
        predict(client, images[:1], **by["bob"], **{"X-Request-ID": "other"})
        assert label(client, ("other", 0, "1"), **by["alice"])["refused"][0]["code"] == "unknown_answer"
        assert label(client, ("same", 0, "1"), **by["alice"])["recorded"] == 1
        assert label(client, ("same", 0, "2"), **by["bob"])["recorded"] == 1
        body = {"labels": [{"request_id": "same", "label": "1"}]}
        assert client.post("/v1/feedback", json=body, headers=by["carol"]).status_code == 403
        assert client.post("/v1/feedback", json=body).status_code == 401
        assert client.get("/v1/models/digits/feedback").status_code == 401
        assert client.get("/v1/models/digits/feedback", headers=by["carol"]).json()["labels"] == 2


def test_a_service_without_feedback_says_how_to_have_it(store: Path) -> None:
    with serve(create_app(Settings(checkpoints=store))) as address, httpx.Client(base_url=address) as client:
        for answer in (
            client.post("/v1/feedback", json={"labels": [{"request_id": "a", "label": "1"}]}),
            client.get("/v1/models/digits/feedback"),
        ):
            error = answer.json()["error"]
            assert (answer.status_code, error["code"]) == (409, "feedback_off")
            assert "--feedback" in error["hint"]


def test_a_store_that_fails_fails_no_prediction(store: Path, images: Any) -> None:
    place = store / "answers.sqlite"
    place.write_bytes(SQLITE + b"damaged" * 1000)
    settings = Settings(checkpoints=store, feedback=SecretStr(str(place)))
    with serve(create_app(settings)) as address, httpx.Client(base_url=address, timeout=60) as client:
        name, _ = predict(client, images)
        answer = client.post("/v1/feedback", json={"labels": [{"request_id": name, "label": "1"}]})
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "feedback_unavailable")
        assert str(place) not in answer.text
        assert client.get("/v1/models/digits/feedback").status_code == 503
        ready = client.get("/readyz").json()
        assert ready == {"status": "ready", "warnings": ["The feedback store cannot be used. Answers are not kept."]}
        assert "hyperdraw_feedback_fault 1.0" in client.get("/metrics").text
