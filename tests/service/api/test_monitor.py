"""What the service says about the streams of its models' inputs."""

from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from prometheus_client.parser import text_string_to_metric_families

from service.app import create_app
from service.catalog import ConfigurationError
from service.settings import Settings
from tests.checkpoints import save_table
from tests.conftest import serve
from tests.drift import draw_scores
from tests.keys import write_keys
from tests.pictures import draw_image, encode

PICTURES = [("images", encode(draw_image(size=(8, 8)))) for _ in range(3)]
URL = "/v1/models/digits/monitor"


def read_metrics(client: httpx.Client) -> dict[tuple[str, str], float]:
    """Metrics of drift, by their names and flags."""
    families = text_string_to_metric_families(client.get("/metrics").text)
    samples = [sample for family in families for sample in family.samples if family.name.startswith("hyperdraw_drift")]
    return {(sample.name.removeprefix("hyperdraw_drift_"), sample.labels["flag"]): sample.value for sample in samples}


def test_predictions_are_counted(client: httpx.Client) -> None:
    before = client.post(f"{URL}:reset").json()
    assert before["inputs"] == 0
    answers = [client.post("/v1/models/digits/predict", files=PICTURES).json() for _ in range(2)]
    predictions = [prediction for answer in answers for prediction in answer["predictions"]]
    known = client.get(URL).json()
    assert known["model"] == answers[0]["model"]
    assert known["inputs"] == 6
    assert known["since"] == before["since"]
    assert known["level"] == 0.01
    for flag, own in known["flags"].items():
        assert own["flagged"] == sum(prediction["flags"][flag]["flagged"] for prediction in predictions)
        assert own["lower"] <= own["share"] <= own["upper"]
        assert sum(own["counts"]) == 6
        assert own["bets"] == 6
        assert own["false_alarm_rate"] == 0.05
        assert len(own["counts"]) == len(known["rates"]) + 1
    predicted = {own["label"]: own["inputs"] for own in known["classes"]}
    assert predicted == {label: [p["label"] for p in predictions].count(label) for label in predicted}
    assert sum(own["test_share"] for own in known["classes"]) == pytest.approx(1)
    assert sum(bucket["inputs"] for bucket in known["history"]) == 6


def test_a_change_is_told_exported_and_forgotten(client: httpx.Client, app: FastAPI) -> None:
    client.post(f"{URL}:reset")
    digits = app.state.catalog.resolve("digits")
    app.state.monitor.measure(digits, draw_scores(digits, 50), 1)
    assert read_metrics(client)["alarm", "out_of_distribution"] == 0
    app.state.monitor.measure(digits, draw_scores(digits, 50, foreign=True), 2)
    known = client.get(URL).json()["flags"]["out_of_distribution"]
    assert 50 < known["alarm"]["inputs"] < 60
    metrics = read_metrics(client)
    assert metrics["alarm", "out_of_distribution"] == 1
    assert metrics["log10", "out_of_distribution"] == pytest.approx(known["log10_martingale"])
    assert metrics["watched_since_seconds", "out_of_distribution"] == client.get(URL).json()["since"]
    assert client.post("/v1/models/digits:reload").json()["changed"] is False
    assert client.get(URL).json()["inputs"] == 0
    assert read_metrics(client)["alarm", "out_of_distribution"] == 0


def test_what_is_known_survives_a_restart(checkpoints: Path, tmp_path: Path) -> None:
    settings = Settings(checkpoints=checkpoints, monitor_folder=tmp_path / "new" / "folder", drift_level=0.001)
    known = []
    for _ in range(2):
        with serve(create_app(settings)) as address, httpx.Client(base_url=address) as client:
            client.post("/v1/models/digits/predict", files=PICTURES)
            known.append(client.get(URL).json())
    assert [answer["inputs"] for answer in known] == [3, 6]
    assert known[0]["since"] == known[1]["since"]
    assert known[0]["level"] == 0.001


def test_only_an_administrator_begins_anew(checkpoints: Path, tmp_path: Path) -> None:
    keys = write_keys(tmp_path / "keys.toml", reader=["predict"], boss=["admin"])
    app = create_app(Settings(checkpoints=checkpoints, keys=tmp_path / "keys.toml"))
    with serve(app) as address, httpx.Client(base_url=address) as client:
        statuses = [
            client.request(method, path, headers={"Authorization": f"Bearer {keys[name]}"}).status_code
            for name in ("reader", "boss")
            for method, path in (("GET", URL), ("POST", f"{URL}:reset"))
        ]
        assert statuses == [200, 403, 200, 200]
        assert client.get(URL).status_code == 401


def test_models_without_calibration_or_of_nothing(tmp_path: Path) -> None:
    save_table(tmp_path / "people")
    with serve(create_app(Settings(checkpoints=tmp_path))) as address, httpx.Client(base_url=address) as client:
        known = client.get("/v1/models/people/monitor").json()
        assert known["flags"] == {}
        assert known["rates"] == []
        assert [own["test_share"] for own in known["classes"]] == [None] * 3
        assert client.get("/v1/models/nobody/monitor").json()["error"]["code"] == "unknown_model"


def test_a_folder_that_cannot_be_made_is_named(checkpoints: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="--monitor-folder must name a directory"):
        create_app(Settings(checkpoints=checkpoints, monitor_folder=tmp_path / "file"))
