"""Two versions of a model over HTTP: pinned, divided, shadowed, promoted and rolled back."""

import json
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from prometheus_client.parser import text_string_to_metric_families

from models.checkpoint import load_checkpoint
from models.model import Model
from models.sequences.checkpoint import load_sequence_checkpoint
from service.app import create_app
from service.engine.idle import IdlePredictions
from service.operation.access import KeyScope
from service.settings import Settings
from tests.checkpoints import copy_with_another, vary
from tests.conftest import serve
from tests.keys import write_keys
from tests.pictures import draw_image, encode
from tests.sequences import save_writer
from tests.waiting import wait_until

PICTURE: dict[str, Any] = {"content": encode(draw_image(size=(8, 8))), "headers": {"Content-Type": "image/png"}}
PREDICT = "/v1/models/digits/predict?ensemble_size=20"
TENSOR = {"inputs": [{"name": "images", "shape": [1, 1, 8, 8], "datatype": "UINT8", "data": [7] * 64}]}


@pytest.fixture(scope="module")
def folder(checkpoints: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model's folder: a checkpoint, and another version in it, `two`."""
    return copy_with_another(checkpoints / "digits", tmp_path_factory.mktemp("versions") / "digits")


@pytest.fixture(scope="module")
def one(folder: Path) -> str:
    return load_checkpoint(folder).version


@pytest.fixture(scope="module")
def two(folder: Path) -> str:
    return load_checkpoint(folder / "two").version


@pytest.fixture(scope="module")
def served(folder: Path) -> FastAPI:
    return create_app(Settings(checkpoints=folder.parent, feedback=str(folder.parent / "feedback.sqlite")))


@pytest.fixture(scope="module")
def connected(served: FastAPI) -> Iterator[httpx.Client]:
    with serve(served) as address, httpx.Client(base_url=address) as client:
        yield client


@pytest.fixture
def client(folder: Path, connected: httpx.Client) -> httpx.Client:
    """A client of a service whose candidate gets no requests."""
    (folder / "versions.json").write_text(json.dumps({"candidate": "two"}))
    connected.post("/v1/models/digits:reload").raise_for_status()
    return connected


def direct(client: httpx.Client, **traffic: Any) -> dict[str, Any]:
    answer: dict[str, Any] = client.patch("/v1/models/digits/traffic", json=traffic).raise_for_status().json()
    return answer


def ask(client: httpx.Client, path: str = PREDICT, **headers: str) -> str:
    """The version that answers."""
    headers = {**PICTURE["headers"], **{name.replace("_", "-"): value for name, value in headers.items()}}
    answer = client.post(path, content=PICTURE["content"], headers=headers).raise_for_status().json()
    return str(answer["model"]["version"])


def read(client: httpx.Client) -> dict[tuple[str, ...], float]:
    """Series by their name and the values of their labels but `model`."""
    return {
        (sample.name, *(value for name, value in sorted(sample.labels.items()) if name != "model")): sample.value
        for family in text_string_to_metric_families(client.get("/metrics").text)
        for sample in family.samples
    }


def test_versions_are_pinned_by_name_and_by_digest(client: httpx.Client, one: str, two: str) -> None:
    for named, version in (("stable", one), (one, one), ("candidate", two), (two, two)):
        assert ask(client, f"{PREDICT}&version={named}") == version
        assert client.get("/v1/models/digits", params={"version": named}).json()["version"] == version
        assert client.get("/v1/models/digits/monitor", params={"version": named}).json()["model"]["version"] == version
        for call in ("certify", "walk", "attack"):
            parameters = {"samples": "100"} if call == "certify" else {}
            assert (
                ask(client, f"/v1/models/digits/{call}?{httpx.QueryParams(parameters | {'version': named})}") == version
            )
        weights = client.get("/v1/models/digits/weights", params={"version": named, "seed": 7})
        assert weights.headers["X-Hyperdraw-Version"] == version
        assert ("immutable" in weights.headers["Cache-Control"]) == (named == version)
        answer = client.post(f"/v2/models/digits/versions/{named}/infer", json=TENSOR).json()
        assert (answer["model_name"], answer["model_version"]) == ("digits", version)
        assert client.get(f"/v2/models/digits/versions/{named}/ready").json() == {"name": "digits", "ready": True}
    assert ask(client) == one
    assert [ask(client, f"{PREDICT}&version={digest[:12]}") for digest in (one, two)] == [one, two]
    assert client.get("/v1/models/digits", params={"version": two[:11]}).status_code == 404
    for path in (f"{PREDICT}&version=previous", f"{PREDICT}&version={'0' * 64}"):
        refused = client.post(path, **PICTURE)
        assert refused.status_code == 404
        assert f"{one} (stable) and {two} (candidate)" in refused.json()["error"]["hint"]
    assert client.post("/v2/models/digits/versions/previous/infer", json=TENSOR).status_code == 404


def test_both_versions_are_listed(client: httpx.Client, one: str, two: str) -> None:
    listed = client.get("/v1/models").json()["models"]
    assert [(model["version"], model["versions"]) for model in listed] == [(one, {"stable": one, "candidate": two})]
    assert client.get("/v1/models/digits").json()["versions"] == {"stable": one, "candidate": two}
    for path in ("", "/versions/candidate"):
        assert client.get(f"/v2/models/digits{path}").json()["versions"] == [one, two]
    index = client.post("/v2/repository/index").json()
    assert [(model["version"], model["state"]) for model in index] == [(one, "READY"), (two, "READY")]


def test_requests_are_divided_by_their_id_unless_they_name_a_version_or_a_seed(
    client: httpx.Client, one: str, two: str
) -> None:
    assert direct(client, share=0.5)["share"] == 0.5
    answers = [ask(client, X_Request_ID=str(number)) for number in range(16)]
    expected = "1100101100100110"  # as in every process: tests/service/test_versions.py
    assert answers == [two if digit == "1" else one for digit in expected]
    infer = [
        client.post("/v2/models/digits/infer", json=TENSOR, headers={"X-Request-ID": str(number)}).json()
        for number in range(4)
    ]
    assert [answer["model_version"] for answer in infer] == [two, two, one, one]
    for path in (f"{PREDICT}&seed=7", f"{PREDICT}&version=stable", f"{PREDICT}&version={one}"):
        assert {ask(client, path, X_Request_ID=number) for number in "01"} == {one}
    seeded = {**TENSOR, "parameters": {"seed": 7}}
    same = client.post("/v2/models/digits/infer", json=seeded, headers={"X-Request-ID": "0"})
    assert same.json()["model_version"] == one
    assert client.get("/v1/models/digits/weights").headers["X-Hyperdraw-Version"] == one
    direct(client, share=1.0)
    assert ask(client) == two
    direct(client, share=0.0)
    assert ask(client) == one


def test_requests_with_keys_are_divided_by_their_key(folder: Path, one: str, two: str) -> None:
    keys = folder.parent / "keys.toml"
    scopes: dict[str, list[KeyScope]] = {name: ["predict"] for name in "01234567"}
    made = write_keys(keys, **scopes, boss=["predict", "admin"])
    (folder / "versions.json").write_text(json.dumps({"candidate": "two", "share": 0.5}))
    with (
        serve(create_app(Settings(checkpoints=folder.parent, keys=keys, decoders=1))) as address,
        httpx.Client(base_url=address) as client,
    ):
        said = [
            {ask(client, Authorization=f"Bearer {made[name]}", X_Request_ID=str(number)) for number in range(3)}
            for name in "01234567"
        ]
        assert said == [{two} if digit == "1" else {one} for digit in "11001011"]
        for action in (":promote", ":rollback", "/traffic"):
            method = "PATCH" if action == "/traffic" else "POST"
            for name, status in (("0", 403), ("boss", 200)):
                headers = {"Authorization": f"Bearer {made[name]}"}
                answer = client.request(method, f"/v1/models/digits{action}", headers=headers, json={})
                assert answer.status_code == status, answer.text


def test_what_the_candidate_does_not_offer_is_left_to_the_stable_version(
    client: httpx.Client, served: FastAPI, one: str, two: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    direct(client, share=1.0)
    candidate = served.state.catalog.resolve("digits", "candidate")
    calibration = candidate.calibration
    monkeypatch.setattr(type(calibration), "find_rate", _refuse_for(calibration, type(calibration).find_rate))
    assert ask(client) == two
    assert ask(client, f"{PREDICT}&false_alarm_rate=0.01") == one
    assert client.post(f"{PREDICT}&false_alarm_rate=0.01&version=candidate", **PICTURE).status_code == 422


def _refuse_for(refusing: Any, find_rate: Any) -> Any:
    def find(calibration: Any, rate: float) -> Any:
        if calibration is refusing and rate == 0.01:
            raise ValueError("that rate was not calibrated")
        return find_rate(calibration, rate)

    return find


def test_a_shadow_compares_what_the_stable_version_has_answered_and_counts_nowhere_else(
    client: httpx.Client, served: FastAPI, one: str, two: str
) -> None:
    before = read(client)
    monitored = client.get("/v1/models/digits/monitor?version=candidate").json()["inputs"]
    kept = served.state.feedback.kept.copy()
    direct(client, shadow=True)
    pictures = [("images", encode(draw_image(size=(8, 8)).rotate(angle))) for angle in range(0, 360, 45)]
    answer = client.post(PREDICT, files=pictures).raise_for_status().json()
    seed = answer["ensemble"]["seed"]

    def compare() -> dict[str, Any]:
        found: dict[str, Any] = client.get("/v1/models/digits/traffic").json()["comparison"] or {"inputs": 0}
        return found

    wait_until(lambda: compare()["inputs"] == len(pictures))
    again = {
        version: client.post(f"{PREDICT}&seed={seed}&version={version}", files=pictures).json()["predictions"]
        for version in (one, two)
    }
    labels = sum(a["label"] != b["label"] for a, b in zip(*again.values(), strict=True))
    flags = {
        flag: sum(
            a["flags"][flag]["flagged"] != b["flags"][flag]["flagged"] for a, b in zip(*again.values(), strict=True)
        )
        for flag in ("out_of_distribution", "suspect_adversarial")
    }
    wait_until(lambda: compare()["inputs"] == 2 * len(pictures))  # also the answers that name the stable version
    expected = {about: 2 * count for about, count in {"label": labels, **flags}.items()}
    found = compare()
    assert (found["stable"], found["candidate"], found["dropped"], found["failed"]) == (one, two, 0, 0)
    assert found["disagreements"] == expected

    after = read(client)
    grown = {key: value - before.get(key, 0) for key, value in after.items()}
    assert grown["hyperdraw_predictions_total", "stable"] == 2 * len(pictures)
    assert grown["hyperdraw_predictions_total", "candidate"] == len(pictures)  # only what a client asked
    assert after["hyperdraw_shadow_inputs_total",] == found["inputs"]
    for about, count in expected.items():
        assert after["hyperdraw_shadow_disagreements_total", about] == count
    seen = client.get("/v1/models/digits/monitor?version=candidate").json()["inputs"]
    assert seen - monitored == len(pictures)
    wait_until(lambda: served.state.feedback.kept["digits"] - kept["digits"] == 3 * len(pictures))


def test_a_shadow_that_disagrees_is_noticed(
    client: httpx.Client, served: FastAPI, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The candidate's networks say the opposite."""
    direct(client, shadow=True)
    candidate = served.state.catalog.resolve("digits", "candidate")
    evaluate = Model.evaluate

    def contradict(model: Model, networks: Any, inputs: Any) -> Any:
        outputs = evaluate(model, networks, inputs)
        if model is candidate:
            outputs = replace(outputs, plain=-outputs.plain)
        return outputs

    before = client.get("/v1/models/digits/traffic").json()["comparison"] or {
        "inputs": 0,
        "disagreements": {"label": 0},
    }
    monkeypatch.setattr(Model, "evaluate", contradict)
    for _ in range(3):
        ask(client)

    def after() -> dict[str, Any]:
        found: dict[str, Any] = client.get("/v1/models/digits/traffic").json()["comparison"]
        return found

    wait_until(lambda: after()["inputs"] - before["inputs"] == 3)
    assert after()["disagreements"]["label"] - before["disagreements"]["label"] == 3


def test_a_shadow_delays_no_answer_and_what_does_not_fit_is_dropped(
    client: httpx.Client, served: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    direct(client, shadow=True)
    catalog, shadow = served.state.catalog, served.state.shadow
    comparison = shadow.find(*(catalog.resolve("digits", role) for role in ("stable", "candidate")))
    inputs, dropped = comparison.inputs, comparison.dropped
    monkeypatch.setattr(served.state.engine._idle, "_most_bytes", 2 * 64)  # two images
    with monkeypatch.context() as patch:
        patch.setattr(IdlePredictions, "finished", True)  # so that its turn never comes, as if others always waited
        for _ in range(5):
            ask(client)
        wait_until(lambda: comparison.dropped == dropped + 3)
        assert comparison.inputs == inputs
    served.state.engine._call(lambda: None)  # which wakes it
    wait_until(lambda: comparison.inputs == inputs + 2)
    assert comparison.dropped == dropped + 3


def test_a_promotion_and_a_roll_back_under_load_lose_no_request(client: httpx.Client, one: str, two: str) -> None:
    direct(client, share=0.5, shadow=True)
    stop, counts = threading.Event(), {one: 0, two: 0}
    lock = threading.Lock()

    def load(number: int) -> None:
        with httpx.Client(base_url=client.base_url) as own:
            while not stop.is_set():
                version = ask(own, PREDICT if number % 2 else f"{PREDICT}&version={two}")
                assert number % 2 or version == two  # pinned, before and after
                with lock:
                    counts[version] += 1

    with ThreadPoolExecutor() as pool:
        loads = [pool.submit(load, number) for number in range(4)]
        try:
            for _ in range(3):
                promoted = client.post("/v1/models/digits:promote").raise_for_status().json()
                assert {role: each["version"] for role, each in promoted["versions"].items()} == {
                    "stable": two,
                    "previous": one,
                }
                assert (promoted["share"], promoted["shadow"]) == (0.0, False)
                assert ask(client) == two
                back = client.post("/v1/models/digits:rollback").raise_for_status().json()
                assert {role: each["version"] for role, each in back["versions"].items()} == {
                    "stable": one,
                    "candidate": two,
                }
                assert ask(client) == one
            wait_until(lambda: min(counts.values()) > 5 or any(future.done() for future in loads))
        finally:
            stop.set()
        for future in loads:
            future.result()


@pytest.mark.parametrize(
    ("traffic", "status", "message"),
    [
        ({"share": 1.5}, 422, "share"),
        ({"candidate": "../two"}, 422, "candidate"),
        ({"candidate": "none"}, 409, "none/config.json: No such file"),
        ({"candidate": "."}, 422, "different folders"),
        ({"candidate": None, "share": 0.5}, 422, "need a candidate"),
        ({"portion": 0.5}, 422, "portion"),
        ([], 422, ""),
    ],
)
def test_traffic_that_cannot_be(client: httpx.Client, folder: Path, traffic: Any, status: int, message: str) -> None:
    before = client.get("/v1/models/digits/traffic").json()
    refused = client.patch("/v1/models/digits/traffic", json=traffic)
    assert refused.status_code == status, refused.text
    assert message in refused.json()["error"]["message"]
    assert client.get("/v1/models/digits/traffic").json() == before
    assert json.loads((folder / "versions.json").read_text()) == {"candidate": "two"}


def test_actions_that_cannot_be(client: httpx.Client) -> None:
    code = client.post("/v1/models/digits:rollback").json()["error"]["code"]
    assert code == "no_previous"
    direct(client, candidate=None)
    refused = client.post("/v1/models/digits:promote").json()["error"]
    assert refused["code"] == "no_candidate"
    for same in (refused, client.patch("/v1/models/digits/traffic", json={"share": 0.5}).json()["error"]):
        assert "hyperdraw traffic MODEL --candidate FOLDER" in same["hint"]
    for path in ("/v1/models/none:promote", "/v1/models/none:rollback"):
        assert client.post(path).status_code == 404
    assert client.get("/v1/models/none/traffic").status_code == 404
    assert client.patch("/v1/models/none/traffic", json={}).status_code == 404


def test_a_candidate_that_is_not_loaded_is_told_with_its_reason(client: httpx.Client, folder: Path, two: str) -> None:
    direct(client, shadow=True)
    ask(client)
    wait_until(lambda: client.get("/v1/models/digits/traffic").json()["comparison"] is not None)
    assert client.get("/readyz").json() == {"status": "ready"}

    (folder / "versions.json").write_text(json.dumps({"candidate": "none", "share": 1.0, "shadow": True}))
    assert client.post("/v1/models/digits:reload").status_code == 409
    found = client.get("/v1/models/digits/traffic").json()
    reason = "none/config.json: No such file or directory"
    assert found["versions"]["candidate"] == {"folder": "none", "version": None, "reason": reason}
    assert found["comparison"] is None  # that of the candidate before
    [warning] = client.get("/readyz").json()["warnings"]
    assert "refused" in warning

    back = direct(client, candidate="two")
    assert back["versions"]["candidate"] == {"folder": "two", "version": two, "reason": None}
    assert client.get("/readyz").json() == {"status": "ready"}


def test_a_new_candidate_begins_without_requests(client: httpx.Client, folder: Path) -> None:
    direct(client, share=0.5, shadow=True)
    shutil.copytree(folder / "two", folder / "three")
    vary(folder / "three")
    found = direct(client, candidate="three")
    assert (found["versions"]["candidate"]["folder"], found["share"], found["shadow"]) == ("three", 0.0, False)
    assert direct(client, candidate="two", share=0.25)["share"] == 0.25


def test_feedback_is_by_version(client: httpx.Client, one: str, two: str) -> None:
    headers = {**PICTURE["headers"], "X-Request-ID": "labelled"}
    predicted = client.post(f"{PREDICT}&version=candidate", content=PICTURE["content"], headers=headers)
    label = {"request_id": "labelled", "label": predicted.json()["predictions"][0]["label"]}
    assert client.post("/v1/feedback", json={"labels": [label]}).json()["recorded"] == 1
    for version, digest, labels in (("candidate", two, 1), (two, two, 1), ("stable", one, 0)):
        measured = client.get("/v1/models/digits/feedback", params={"version": version}).json()
        assert (measured["model"]["version"], measured["labels"]) == (digest, labels)
    assert client.get("/v1/models/digits/feedback?version=previous").status_code == 404


def test_models_of_sequences_are_pinned_and_promoted_but_not_divided(tmp_path: Path) -> None:
    save_writer(tmp_path / "writer")
    save_writer(tmp_path / "writer" / "two", modes=2)
    one, two = (load_sequence_checkpoint(path).version for path in (tmp_path / "writer", tmp_path / "writer" / "two"))
    app = create_app(Settings(checkpoints=tmp_path, decoders=1))
    with serve(app) as address, httpx.Client(base_url=f"{address}/v1/models/writer") as client:
        assert client.patch("/traffic", json={"candidate": "two"}).status_code == 200
        for version, answers in (("stable", one), ("candidate", two), (two, two)):
            text = client.post("/generate", params={"version": version}, json={"prompt": "ab", "max_tokens": 3})
            assert text.json()["version"] == answers
            score = client.post("/score", params={"version": version}, json={"text": "abba"})
            assert score.json()["version"] == answers
            said = client.post("/predict", params={"version": version}, json={"inputs": ["ab"]})
            assert said.json()["model"]["version"] == answers
        for traffic in ({"share": 0.5}, {"shadow": True}):
            assert client.patch("/traffic", json=traffic).json()["error"]["code"] == "wrong_kind"
        assert client.post(f"{address}/v1/models/writer:promote").json()["versions"]["stable"]["version"] == two
        assert client.post("/generate", json={"prompt": "ab", "max_tokens": 3}).json()["version"] == two
        assert client.post(f"{address}/v1/models/writer:rollback").json()["versions"]["stable"]["version"] == one
