"""What a service logs of its answers, over both protocols."""

import base64
import io
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from fastapi import FastAPI
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr

from models.inputs.image import ImageSpec
from models.inputs.pixels import decode_image
from models.model import Model
from models.predictions.prediction import FEATURE_DISTANCE
from models.predictions.stopping import StoppingRule
from models.predictions.surprise import measure_surprise
from service.app import create_app
from service.catalog import ConfigurationError
from service.settings import Settings
from tests.checkpoints import save_curve, save_table
from tests.conftest import serve
from tests.keys import write_keys
from tests.pictures import draw_image, encode
from tests.service.recording.test_events import Receiver, receiver
from tests.waiting import wait_until

__all__ = ["receiver"]  # a fixture

PREDICT, INFER = "/v1/models/digits/predict", "/v2/models/digits/infer"
PICTURES = [encode(draw_image(size=(side, side))) for side in (8, 24)]
FILES = [("images", picture) for picture in PICTURES]


@contextmanager
def logging_to(destination: object, checkpoints: Path, **settings: Any) -> Iterator[httpx.Client]:
    app = create_app(Settings(checkpoints=checkpoints, prediction_log=SecretStr(str(destination)), **settings))
    with serve(app) as address, httpx.Client(base_url=address) as client:
        yield client


def read(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for path in sorted(folder.iterdir()) for line in path.read_text().splitlines()]


def count(client: httpx.Client) -> dict[str, float]:
    families = text_string_to_metric_families(client.get("/metrics").text)
    (family,) = [family for family in families if family.name == "hyperdraw_logged_predictions"]
    return {s.labels["outcome"]: s.value for s in family.samples if s.name.endswith("_total")}


def test_a_record_says_what_was_answered(checkpoints: Path, tmp_path: Path, model: Model) -> None:
    asked = {"seed": 7, "coverage": 0.9, "false_alarm_rate": 0.1}
    with logging_to(tmp_path, checkpoints) as client:
        answer = client.post(PREDICT, files=FILES, params=asked)
        packed = client.post(PREDICT, files=FILES, params={**asked, "format": "safetensors"})
        wait_until(lambda: count(client)["written"] == 4)
    told, records = answer.json(), read(tmp_path)
    calibration, density = model.calibration, model.checkpoint.density
    assert calibration is not None
    assert density is not None
    assert isinstance(model.input, ImageSpec)
    images = torch.stack([decode_image(picture, model.input, 10**6, "") for picture in PICTURES])
    levels = calibration.for_size(told["ensemble"]["size"]).levels[FEATURE_DISTANCE]
    surprises = measure_surprise(density.measure_distance(model.input.prepare(images)), levels).tolist()
    for response, own in ((answer, records[:2]), (packed, records[2:])):
        for index, (record, prediction) in enumerate(zip(own, told["predictions"], strict=True)):
            assert record["request_id"] == response.headers["x-request-id"]
            assert (record["index"], record["model"]) == (index, "digits")
            assert (record["version"], record["method"]) == (told["model"]["version"], told["model"]["method"])
            ensemble = told["ensemble"]
            assert (record["seed"], record["ensemble_size"]) == (7, ensemble["size"])
            assert (record["precision"], record["temperature"]) == ("float32", ensemble["temperature"])
            surprise = record["uncertainty"].pop("distance_surprise")
            assert record["uncertainty"] == prediction["uncertainty"]
            assert surprise == pytest.approx(surprises[index])
            assert record["prediction"] == {k: v for k, v in prediction.items() if k != "uncertainty"}
            assert record["prediction"]["flags"]["out_of_distribution"]["false_alarm_rate"] == 0.1
            assert record["prediction"]["prediction_set"]["coverage"] == 0.9
            assert not {"key", "input"} & record.keys()


def test_the_other_protocol_is_logged_alike(checkpoints: Path, tmp_path: Path) -> None:
    data = [base64.b64encode(picture).decode() for picture in PICTURES]
    tensor = {"name": "encoded_images", "shape": [2], "datatype": "BYTES", "data": data}
    with logging_to(tmp_path, checkpoints) as client:
        client.post(PREDICT, files=FILES, params={"seed": 7})
        client.post(INFER, json={"inputs": [tensor], "parameters": {"seed": 7}}, headers={"X-Request-ID": "mine"})
    first, second = read(tmp_path)[:2], read(tmp_path)[2:]
    assert [record.pop("request_id") for record in second] == ["mine", "mine"]
    for record in [*first, *second]:
        record.pop("time")
        record.pop("request_id", None)
    assert first == second


def test_inputs_are_logged_only_if_asked(checkpoints: Path, tmp_path: Path) -> None:
    with logging_to(tmp_path, checkpoints, log_inputs=True) as client:
        client.post(PREDICT, files=FILES)
    records = read(tmp_path)
    images = [Image.open(io.BytesIO(base64.b64decode(record["input"]["image"]))) for record in records]
    assert [(image.format, image.size, image.mode) for image in images] == [("PNG", (8, 8), "L")] * 2
    assert images[0].tobytes() == draw_image(size=(8, 8)).tobytes()


def test_attacks_and_refusals_are_not_logged(checkpoints: Path, tmp_path: Path) -> None:
    with logging_to(tmp_path, checkpoints) as client:
        for action in ("attack?steps=1", "walk?points=2"):
            answer = client.post(f"/v1/models/digits/{action}", files=FILES[:1], params={"ensemble_size": 2})
            assert answer.status_code in (200, 422)
        assert client.post(PREDICT, files={"images": b"no picture"}).status_code == 422
        assert count(client) == {"written": 0, "dropped": 0, "failed": 0}
    assert not list(tmp_path.iterdir())


def test_numbers_and_rows_are_logged_by_name(tmp_path: Path) -> None:
    save_curve(tmp_path / "models" / "curve")
    save_table(tmp_path / "models" / "people")
    row = {"age": None, "sex": "f", "since": "2020-03-01"}
    with logging_to(tmp_path / "log", tmp_path / "models", log_inputs=True) as client:
        told = client.post("/v1/models/curve/predict", json={"inputs": [[0.5]]}).json()
        assert client.post("/v1/models/people/predict", json={"inputs": [row]}).status_code == 200
    number, person = read(tmp_path / "log")
    assert number["input"] == {"row": {"x": 0.5}}
    assert number["prediction"]["outputs"] == told["predictions"][0]["outputs"]
    assert number["uncertainty"].keys() == {"relative_deviation"}
    assert person["input"] == {"row": row}
    assert person["prediction"]["label"] in ("Bonn", "Rome", "Ulm")


def test_ensembles_that_grow_are_logged_one_by_one(
    grown: tuple[Path, StoppingRule, list[bytes]], tmp_path: Path
) -> None:
    store, _, images = grown
    files = [("images", image) for image in images]
    with logging_to(tmp_path / "log", store) as client:
        told = client.post(PREDICT, files=files, params={"seed": 7, "ensemble_size": "auto"}).json()
    records = read(tmp_path / "log")
    assert [record["index"] for record in records] == list(range(len(images)))
    sizes = [record["ensemble_size"] for record in records]
    assert sizes == [one["ensemble"]["size"] for one in told["predictions"]]
    assert len({*sizes}) > 1
    assert [record["temperature"] for record in records] == [
        one["ensemble"]["temperature"] for one in told["predictions"]
    ]


def test_a_key_is_logged_by_its_name(checkpoints: Path, tmp_path: Path) -> None:
    keys = write_keys(tmp_path / "keys.toml", alice=["predict"])
    with logging_to(tmp_path / "log", checkpoints, keys=tmp_path / "keys.toml", open_metrics=True) as client:
        client.post(PREDICT, files=FILES, headers={"Authorization": f"Bearer {keys['alice']}"})
    assert [record["key"] for record in read(tmp_path / "log")] == ["alice", "alice"]
    assert keys["alice"] not in "".join(path.read_text() for path in (tmp_path / "log").iterdir())


def test_a_receiver_that_hangs_delays_no_answer(checkpoints: Path, receiver: Receiver) -> None:
    receiver.answers.clear()
    app = create_app(Settings(checkpoints=checkpoints, prediction_log=SecretStr(receiver.address), log_inputs=True))
    log = app.state.log
    log._most_bytes = 100_000  # a few answers
    with serve(app) as address, httpx.Client(base_url=address) as client:
        start, slowest = time.perf_counter(), 0.0
        while count(client)["dropped"] < 4:
            began = time.perf_counter()
            assert client.post(PREDICT, files=FILES).status_code == 200
            slowest = max(slowest, time.perf_counter() - began)
        assert log._bytes <= 100_000
        assert time.perf_counter() - start < 30
        assert slowest < 5  # a request takes milliseconds, and the receiver answers never
        assert count(client)["written"] == 0
        receiver.answers.set()
        wait_until(lambda: count(client)["written"] > 0)
    kinds = {event.get_type() for event in receiver.events}
    assert len(kinds) == 2


def test_a_log_that_cannot_be_is_refused(checkpoints: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match=r"predictions cannot be logged to .*file: File exists"):
        create_app(Settings(checkpoints=checkpoints, prediction_log=SecretStr(str(tmp_path / "file"))))
    with pytest.raises(ConfigurationError, match="--prediction-log"):
        create_app(Settings(checkpoints=checkpoints, log_inputs=True))


def test_nothing_is_logged_unless_asked(app: FastAPI) -> None:
    assert app.state.log is None
