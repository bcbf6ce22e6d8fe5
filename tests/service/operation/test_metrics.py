"""What the real service tells Prometheus."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from prometheus_client.parser import text_string_to_metric_families

import service.engine.engine
from service.app import create_app
from service.engine.engine import Engine
from service.operation.access import create_key
from service.settings import Settings
from tests.conftest import serve
from tests.connections import ask_and_leave
from tests.engine import draw_images, hold
from tests.pictures import draw_image, encode
from tests.waiting import PATIENCE, wait_until

PREDICT = "/v1/models/digits/predict"
ROUTE = "/v1/models/{model}/predict"
WEIGHTS = "/v1/models/digits/weights"
PICTURES = [encode(draw_image(size=(8, 8))), encode(draw_image("RGB"), "JPEG")]

Key = tuple[str, frozenset[tuple[str, str]]]


@pytest.fixture(scope="module")
def app(checkpoints: Path) -> FastAPI:
    return create_app(Settings(checkpoints=checkpoints))


@pytest.fixture(scope="module")
def client(app: FastAPI) -> Iterator[httpx.Client]:
    with serve(app) as address, httpx.Client(base_url=address) as client:
        await_rest(app.state.engine)
        yield client


def await_rest(engine: Engine) -> None:
    """Until all networks are drawn ahead."""
    wait_until(lambda: not engine._ensembles.lacks_networks)


def read(client: httpx.Client) -> dict[Key, float]:
    families = text_string_to_metric_families(client.get("/metrics").text)
    return {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}


class Growth:
    """How much series have grown since this was made."""

    def __init__(self, client: httpx.Client) -> None:
        self._client = client
        self._before = read(client)

    def __call__(self, name: str, **labels: str) -> float:
        key = f"hyperdraw_{name}", frozenset(labels.items())
        return read(self._client).get(key, 0) - self._before.get(key, 0)


def value(client: httpx.Client, name: str, **labels: str) -> float:
    return read(client)[f"hyperdraw_{name}", frozenset(labels.items())]


def post(client: httpx.Client, **parameters: Any) -> httpx.Response:
    return client.post(PREDICT, files=[("images", picture) for picture in PICTURES], params=parameters)


def test_counts_are_exact(client: httpx.Client) -> None:
    grown = Growth(client)
    answers = [post(client, seed=seed, ensemble_size=20) for seed in range(3)]
    predictions = [prediction for answer in answers for prediction in answer.json()["predictions"]]
    assert grown("predictions_total", model="digits", role="stable") == len(predictions) == 6
    assert grown("networks_drawn_total", model="digits") == 60
    assert grown("requests_total", route=ROUTE, status="200") == 3
    assert grown("request_seconds_count", route=ROUTE, method="POST", status="200") == 3
    assert (grown("batch_requests_count"), grown("batch_requests_sum")) == (3, 3)
    assert (grown("step_cost_count"), grown("step_cost_sum")) == (3, 120)
    for flag in ("out_of_distribution", "suspect_adversarial"):
        flagged = sum(prediction["flags"][flag]["flagged"] for prediction in predictions)
        assert grown("flags_total", model="digits", role="stable", flag=flag) == flagged
    for measure in ("predictive_entropy", "mutual_information"):
        said = sum(prediction["uncertainty"][measure] for prediction in predictions)
        assert grown(f"{measure}_nats_sum", model="digits") == pytest.approx(said)
        assert grown(f"{measure}_nats_bucket", model="digits", le="+Inf") == 6
    stages = ("queue", "decode", "sampling", "forward", "serialise")
    assert [grown("stage_seconds_count", stage=stage, model="digits") for stage in stages] == [3] * 5
    together = sum(grown("stage_seconds_sum", stage=stage, model="digits") for stage in stages)
    assert 0 < together < grown("request_seconds_sum", route=ROUTE, method="POST", status="200")


def test_the_open_inference_protocol_is_counted_alike(client: httpx.Client) -> None:
    grown = Growth(client)
    pixels = {"name": "images", "shape": [2, 1, 8, 8], "datatype": "UINT8", "data": [7] * 128}
    asked = {"inputs": [pixels], "parameters": {"seed": 7, "ensemble_size": 20}}
    assert client.post("/v2/models/digits/infer", json=asked).status_code == 200
    assert grown("requests_total", route="/v2/models/{model}/infer", status="200") == 1
    assert grown("predictions_total", model="digits", role="stable") == 2
    assert grown("networks_drawn_total", model="digits") == 20
    stages = ("queue", "decode", "sampling", "forward", "serialise")
    assert [grown("stage_seconds_count", stage=stage, model="digits") for stage in stages] == [1] * 5


def test_flags_are_counted_at_the_default_budget(client: httpx.Client) -> None:
    noise = encode(draw_image(size=(8, 8)).effect_spread(9))

    def ask(rate: float) -> tuple[float, int]:
        grown = Growth(client)
        parameters = {"seed": 7, "false_alarm_rate": rate}
        answer = client.post(PREDICT, files=[("images", noise)] * 3, params=parameters).json()
        flagged = [prediction["flags"]["out_of_distribution"]["flagged"] for prediction in answer["predictions"]]
        return grown("flags_total", model="digits", role="stable", flag="out_of_distribution"), sum(flagged)

    counts = [ask(rate) for rate in (0.2, 0.05, 0.01)]
    assert {counted for counted, _ in counts} == {counts[1][1]}
    assert value(client, "false_alarm_rate", model="digits") == 0.05


def test_what_waits_together_is_one_batch(app: FastAPI, client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        service.engine.engine, "STEP_SECONDS", 3600
    )  # which no step here takes, so that batches are large
    engine, grown = app.state.engine, Growth(client)
    with ThreadPoolExecutor() as pool:
        with hold(engine):
            futures = [pool.submit(post, client, ensemble_size=10) for _ in range(4)]
            wait_until(lambda: engine.admission.amount == 80)
            assert value(client, "waiting_cost") == 80
            assert value(client, "waiting_cost_limit") == 500_000
            assert value(client, "active_requests") == 5  # one of which asks for this
            time.sleep(0.1)  # for which each has to wait
        assert {future.result().status_code for future in futures} == {200}
    assert (grown("batch_requests_count"), grown("batch_requests_sum")) == (1, 4)
    assert (grown("step_cost_count"), grown("step_cost_sum")) == (1, 80)
    assert grown("stage_seconds_sum", stage="queue", model="digits") > 0.4
    assert grown("stage_seconds_bucket", stage="queue", model="digits", le="0.1") == 0
    assert value(client, "waiting_cost") == 0
    assert value(client, "active_requests") == 1
    await_rest(engine)


def test_networks_drawn_ahead_are_counted_once(app: FastAPI, client: httpx.Client) -> None:
    grown = Growth(client)
    post(client)
    await_rest(app.state.engine)
    assert grown("networks_drawn_total", model="digits") == 100


def test_who_gets_no_answer(app: FastAPI, client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, grown = app.state.engine, Growth(client)
    with hold(engine):
        ask_and_leave(str(client.base_url), PREDICT, PICTURES[0], lambda: engine.admission.amount > 0)
        wait_until(lambda: grown("requests_total", route=ROUTE, status="499") == 1)
        late = client.post(PREDICT, files={"images": PICTURES[0]}, headers={"X-Request-Timeout": "0.05"})
        assert late.status_code == 504
        monkeypatch.setattr(engine.admission, "limit", 100)
        wait_until(lambda: engine.admission.amount == 0)
        checkpoint = next(iter(app.state.catalog))
        waiting = engine.predict(checkpoint, draw_images(checkpoint, 1), None, 100)
        assert post(client).status_code == 429
    waiting.result(PATIENCE)
    assert grown("cancelled_requests_total", route=ROUTE) == 1
    assert grown("late_requests_total", route=ROUTE) == 1
    assert grown("refused_requests_total", model="digits") == 1
    assert grown("predictions_total", model="digits", role="stable") == 1  # that of `waiting`


def test_weights_that_are_sent(client: httpx.Client) -> None:
    grown = Growth(client)
    size = len(client.get(WEIGHTS, params={"seed": 1, "count": 3}).content)
    assert len(client.get(WEIGHTS, params={"seed": 1, "count": 3}, headers={"Range": "bytes=10-19"}).content) == 10
    assert client.head(WEIGHTS, params={"seed": 1}).status_code == 200
    wait_until(lambda: value(client, "open_downloads") == 0 and value(client, "active_requests") == 1)
    assert grown("weights_sent_bytes_total", model="digits") == size + 10


def test_a_client_that_leaves_a_download(app: FastAPI, client: httpx.Client) -> None:
    grown, route = Growth(client), "/v1/models/{model}/weights"
    with hold(app.state.engine):
        with client.stream("GET", WEIGHTS, params={"seed": 1, "count": 1000}) as response:
            chunks = response.iter_raw()
            header = next(chunks)
            assert value(client, "open_downloads") == 1
        wait_until(lambda: grown("cancelled_requests_total", route=route) == 1)
        wait_until(lambda: value(client, "open_downloads") == 0)
    assert grown("weights_sent_bytes_total", model="digits") == len(header)


def test_a_client_that_leaves_its_own_upload(client: httpx.Client) -> None:
    grown = Growth(client)

    def send() -> Iterator[bytes]:
        yield b"a part"
        raise ConnectionAbortedError

    with pytest.raises(ConnectionAbortedError):
        client.post(PREDICT, content=send(), headers={"Content-Type": "image/png"})
    wait_until(lambda: grown("requests_total", route=ROUTE, status="499") == 1)
    assert grown("cancelled_requests_total", route=ROUTE) == 1


def test_labels_are_bounded(client: httpx.Client) -> None:
    for number in range(3):
        client.get(f"/nowhere/{number}")
        client.post(f"/v1/models/bert{number}/predict")
        client.post(f"/v1/models/bert{number}:reload")
        client.post(f"/v2/repository/models/bert{number}/load")
        client.get(f"/static/{number}.js")
    client.request("PROPFIND", "/nowhere")
    client.get("/docs")
    labels = {label for _, found in read(client) for label in found}
    assert {model for name, model in labels if name == "model"} == {"digits"}
    routes = {route for name, route in labels if name == "route"}
    assert routes >= {"unmatched", "/static", "/docs", ROUTE, "/v1/models/{model}:reload"}
    assert not [route for route in routes if "nowhere" in route or "bert" in route or ".js" in route]
    methods = {method for name, method in labels if name == "method"}
    assert {"GET", "POST", "other"} <= methods <= {"GET", "HEAD", "POST", "other", "hypergan"}


def test_what_is_served(client: httpx.Client) -> None:
    model = client.get("/v1/models/digits").json()
    info = {"model": "digits", "version": model["version"], "method": "hypergan", "role": "stable"}
    assert value(client, "model_info", **info) == 1
    assert value(client, "ready") == 1
    assert read(client)["process_resident_memory_bytes", frozenset()] > 10e6


@pytest.mark.parametrize(("is_open", "status"), [(False, 401), (True, 200)])
def test_where_there_are_keys_they_are_asked_for(checkpoints: Path, tmp_path: Path, is_open: bool, status: int) -> None:
    key, entry = create_key("prometheus", [])
    (tmp_path / "keys.toml").write_text(entry)
    app = create_app(Settings(checkpoints=checkpoints, keys=tmp_path / "keys.toml", open_metrics=is_open))
    with serve(app) as address:
        assert httpx.get(f"{address}/metrics").status_code == status
        assert httpx.get(f"{address}/metrics", headers={"Authorization": f"Bearer {key}"}).status_code == 200


def test_both_formats(client: httpx.Client) -> None:
    plain = client.get("/metrics")
    assert plain.headers["content-type"].startswith("text/plain; version=")
    asked = {"Accept": "application/openmetrics-text; version=1.0.0, text/plain;q=0.5"}
    openmetrics = client.get("/metrics", headers=asked)
    assert openmetrics.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    assert openmetrics.text.endswith("# EOF\n")
    described = client.get("/openapi.json").json()["paths"]["/metrics"]["get"]["responses"]["200"]["content"]
    assert set(described) == {"text/plain", "application/openmetrics-text"}
