"""Writing and scoring text over HTTP."""

import json
import math
import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from fastapi import FastAPI
from hypothesis import given, settings
from hypothesis import strategies as st

from models.checkpoint_files import digest_config
from models.sequences.calibration import PassageCalibration, SizeThresholds
from models.sequences.checkpoint import load_sequence_checkpoint, save_passage_calibration
from service.api.sequence_schemas import GenerateAnswer, ScoreAnswer
from service.app import create_app
from service.settings import Settings
from tests.checkpoints import save_curve
from tests.conftest import serve
from tests.connections import find_address
from tests.rounding import allow_rounding
from tests.sequences import LSTM, SPEC, save_writer
from tests.waiting import PATIENCE, wait_until
from training.sequences.text import score_text

GENERATE, SCORE = "/v1/models/writer/generate", "/v1/models/writer/score"


@pytest.fixture(scope="module")
def writers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("writers")
    save_writer(directory / "writer")
    save_writer(directory / "lstm", modes=1, size=LSTM)
    save_curve(directory / "curve")
    save_writer(directory / "calibrated")
    sizes = (SizeThresholds(2, "surprisal", (2.0, 0.0)),)
    digest = digest_config(directory / "calibrated")
    save_passage_calibration(directory / "calibrated", PassageCalibration(digest, 100, 50, (0.05, 0.2), sizes))
    return directory


@pytest.fixture(scope="module")
def app(writers: Path) -> FastAPI:
    return create_app(Settings(checkpoints=writers))


@pytest.fixture(scope="module")
def client(app: FastAPI) -> Iterator[httpx.Client]:
    with serve(app) as address, httpx.Client(base_url=address) as client:
        yield client


def post(client: httpx.Client, path: str, body: object) -> dict[str, Any]:
    response = client.post(path, json=body)
    assert response.status_code == 200, response.text
    content: dict[str, Any] = response.json()
    return content


def read_events(content: str) -> list[Any]:
    """The data of server-sent events, without the last, which is not JSON."""
    *events, last, end = content.split("\n\n")
    assert (last, end) == ("data: [DONE]", "")
    return [json.loads(event.removeprefix("data: ")) for event in events if not event.startswith(":")]


def await_idle(app: FastAPI) -> None:
    wait_until(lambda: not any(app.state.engine.streams.count().values()))


def read_metric(client: httpx.Client, name: str) -> float:
    (value,) = re.findall(rf"^{re.escape(name)} (.*)$", client.get("/metrics").text, re.M) or ["0"]
    return float(value)


class TestWriting:
    def test_an_answer(self, client: httpx.Client, writers: Path) -> None:
        body = {"prompt": "ab\né", "max_tokens": 30, "seed": 3, "changes": True, "temperature": 0.7}
        answer = post(client, GENERATE, body)
        GenerateAnswer.model_validate(answer, strict=True)
        assert answer["model"] == "writer"
        assert answer["version"] == load_sequence_checkpoint(writers / "writer").version
        assert (answer["seed"], answer["members"], answer["prompt_tokens"]) == (3, [0, 1, 2], 4)
        assert answer["unknown"] == ["é"]
        assert answer["finish_reason"] == "length"
        assert len(answer["text"]) == 30
        assert answer["text"] == "".join(token["text"] for token in answer["tokens"])
        assert all(len(token["changes"]) == 4 for token in answer["tokens"])
        assert answer == allow_rounding(post(client, GENERATE, body))

    def test_what_is_written_is_scored_alike(self, client: httpx.Client) -> None:
        """Also by another ensemble's size, and whatever the temperature."""
        for choice in ({"ensemble_size": 2}, {"member": 1}, {}):
            body = {"max_tokens": 20, "temperature": 3, **choice}
            written = post(client, GENERATE, body)
            scored = post(client, SCORE, {"text": written["text"], "seed": written["seed"], **choice})
            assert scored["members"] == written["members"]
            for told, again in zip(written["tokens"], scored["tokens"], strict=True):
                assert told.pop("text") == again.pop("text")
                assert told == pytest.approx(again, rel=1e-4, abs=1e-5)

    def test_without_a_seed_each_text_is_another(self, client: httpx.Client) -> None:
        first, second = (post(client, GENERATE, {}) for _ in range(2))
        assert len(first["text"]) == 200
        assert first["text"] != second["text"]
        assert post(client, GENERATE, {"seed": first["seed"]}) == allow_rounding(first)

    def test_events(self, client: httpx.Client) -> None:
        body = {"prompt": "abba", "max_tokens": 50, "seed": 5, "changes": True, "stop": ["ab", "\n"]}
        whole = post(client, GENERATE, body)
        response = client.post(GENERATE, json={**body, "stream": True})
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.headers["cache-control"] == "no-cache"
        assert response.headers["x-accel-buffering"] == "no"
        head, *symbols, end = read_events(response.text)
        assert head == {key: whole[key] for key in ("model", "version", "seed", "members", "prompt_tokens", "unknown")}
        assert symbols == [{"index": index, **allow_rounding(token)} for index, token in enumerate(whole["tokens"])]
        assert end == {"finish_reason": whole["finish_reason"], "completion_tokens": len(whole["tokens"])}

    @settings(max_examples=30)
    @given(
        seed=st.integers(0, 20),
        stops=st.lists(st.text("abcd \n", min_size=1, max_size=4), min_size=1, max_size=4),
        streams=st.booleans(),
    )
    def test_no_part_of_a_stop_string_leaks(
        self, client: httpx.Client, seed: int, stops: list[str], streams: bool
    ) -> None:
        body: dict[str, Any] = {"prompt": "ab", "max_tokens": 25, "seed": seed}
        whole = post(client, GENERATE, body)["text"]
        ends = [(whole.find(stop) + len(stop), whole.find(stop)) for stop in stops if stop in whole]
        expected = whole[: min(ends)[1]] if ends else whole  # the first to be complete; of several, the longest
        body["stop"] = stops[0] if len(stops) == 1 else stops
        if streams:
            _, *symbols, end = read_events(client.post(GENERATE, json={**body, "stream": True}).text)
            assert "".join(symbol["text"] for symbol in symbols) == expected
        else:
            end = post(client, GENERATE, body)
            assert end["text"] == expected == "".join(token["text"] for token in end["tokens"])
        assert end["finish_reason"] == ("stop" if ends else "length")

    def test_the_symbol_for_others_is_never_written(self, client: httpx.Client) -> None:
        for temperature in (0, 1, 10):
            assert SPEC.symbols[6] not in post(client, GENERATE, {"temperature": temperature, "seed": 1})["text"]


class TestScoring:
    def test_scores_are_those_of_training(self, client: httpx.Client, writers: Path) -> None:
        text = "abba é cad\nbé"
        answer = post(client, SCORE, {"text": text, "seed": 4, "changes": True})
        ScoreAnswer.model_validate(answer, strict=True)
        sampler = load_sequence_checkpoint(writers / "writer").sampler
        latents, symbols = sampler.draw_latents(4, range(3)), torch.tensor(SPEC.encode(text))
        expected = score_text(sampler, latents, SPEC.start_number, symbols, "scoring")
        bits = expected.surprisal / math.log(2)
        assert [token["bits"] for token in answer["tokens"]] == pytest.approx(bits.tolist(), rel=1e-4)
        assert answer["bits"] == pytest.approx(bits.sum().item(), rel=1e-5)
        assert answer["bits_per_character"] == pytest.approx(bits.mean().item(), rel=1e-5)
        assert answer["entropy"] == pytest.approx(expected.entropy.mean().item() / math.log(2), rel=1e-5)
        assert answer["disagreement"] == pytest.approx(expected.disagreement.mean().item() / math.log(2), rel=1e-4)
        assert answer["symbols"] == len(text)
        assert "".join(token["text"] for token in answer["tokens"]) == text
        assert answer["unknown"] == ["é"]
        assert [token.get("unknown") for token in answer["tokens"]] == [True if c == "é" else None for c in text]
        assert answer["tokens"][0]["changes"] == [0, 0, 0, 0]


class TestForeignPassages:
    """The model `calibrated` is so for ensembles of two networks alone."""

    def test_passages_above_the_threshold_are_foreign(self, client: httpx.Client) -> None:
        text = "abba cad\n" * 30
        answer = post(client, "/v1/models/calibrated/score", {"text": text, "seed": 4, "ensemble_size": 2})
        ScoreAnswer.model_validate(answer, strict=True)
        foreign, bits = answer["foreign"], [token["bits"] for token in answer["tokens"]]
        assert foreign["passage"] == 100
        assert foreign["score"] == "surprisal"
        assert foreign["false_alarm_rate"] == 0.05
        for start, passage in zip((0, 100), foreign["passages"], strict=True):
            assert passage["start"] == start
            assert passage["value"] == pytest.approx(sum(bits[start : start + 100]) / 100, rel=1e-4)
            assert passage["foreign"] == (passage["value"] > foreign["threshold"])
        strict = {"text": text, "seed": 4, "ensemble_size": 2, "false_alarm_rate": 0.2}
        other = post(client, "/v1/models/calibrated/score", strict)["foreign"]
        assert other["threshold"] == 0
        assert all(passage["foreign"] for passage in other["passages"])

    def test_short_texts_have_no_passage(self, client: httpx.Client) -> None:
        answer = post(client, "/v1/models/calibrated/score", {"text": "abba", "ensemble_size": 2})
        assert answer["foreign"]["passages"] == []

    def test_other_ensembles_are_not_judged(self, client: httpx.Client) -> None:
        assert "foreign" not in post(client, "/v1/models/calibrated/score", {"text": "abba", "member": 1, "seed": 1})
        assert "foreign" not in post(client, SCORE, {"text": "abba"})

    def test_rates_that_were_not_calibrated_are_refused(self, client: httpx.Client) -> None:
        for path, message in ((SCORE, "writer has no calibration."), ("/v1/models/calibrated/score", "not calibrated")):
            response = client.post(path, json={"text": "abba", "false_alarm_rate": 0.001})
            assert response.status_code == 422
            assert message in response.json()["error"]["message"]


class TestRefusals:
    @pytest.mark.parametrize(
        ("body", "message"),
        [
            ({"max_tokens": 10**9}, "max_tokens: Input should be less than or equal to 10000."),
            ({"max_tokens": 0}, "max_tokens: Input should be greater than or equal to 1."),
            ({"temperature": -1}, "temperature: Input should be greater than or equal to 0."),
            ({"temperature": "hot"}, "temperature: Input should be a valid number."),
            ({"top_p": 0}, "top_p: Input should be greater than 0."),
            ({"top_k": 0}, "top_k: Input should be greater than or equal to 1."),
            ({"stop": ["a"] * 10_000}, "stop: List should have at most 16 items after validation, not 10000."),
            ({"stop": ""}, "stop.0: String should have at least 1 character."),
            ({"stop": ["a" * 101]}, "stop.0: String should have at most 100 characters."),
            ({"prompt": "a" * 20_001}, "prompt: String should have at most 20000 characters."),
            ({"prompt": None}, "prompt: Input should be a valid string."),
            ({"member": 0, "ensemble_size": 1}, "the body: member and ensemble_size exclude each other."),
            ({"member": 3}, "writer has no member 3."),
            ({"ensemble_size": 4}, "writer has only 3 networks; 4 were requested."),
            ({"ensemble_size": 65}, "ensemble_size: Input should be less than or equal to 64."),
            ({"seed": -1}, "seed: Input should be greater than or equal to 0."),
            ({"images": []}, "images: Extra inputs are not permitted."),
            ([], "the body: Input should be an object."),
        ],
    )
    def test_bodies(self, client: httpx.Client, body: Any, message: str) -> None:
        response = client.post(GENERATE, json=body)
        assert response.status_code == 422
        assert response.json()["error"]["message"] == message
        assert response.json()["error"]["hint"]

    @pytest.mark.parametrize("content", [b'{"temperature": NaN}', b'{"temperature": 1e999}', b'{"prompt": "\\ud800"}'])
    def test_what_is_no_json(self, client: httpx.Client, content: bytes) -> None:
        assert client.post(GENERATE, content=content).status_code == 422

    def test_a_text_must_not_be_empty(self, client: httpx.Client) -> None:
        assert client.post(SCORE, json={"text": ""}).status_code == 422
        assert client.post(SCORE, json={}).status_code == 422
        assert client.post(SCORE, content=b"text", headers={"Content-Type": "text/plain"}).status_code == 415

    def test_weights_that_do_not_change(self, client: httpx.Client) -> None:
        response = client.post("/v1/models/lstm/score", json={"text": "a", "changes": True})
        assert response.status_code == 422
        assert response.json()["error"]["message"] == "The weights of lstm, an LSTM, do not change."
        assert len(post(client, "/v1/models/lstm/generate", {"max_tokens": 5})["tokens"]) == 5

    @pytest.mark.parametrize(
        ("method", "path"),
        [
            *[("POST", f"/v1/models/writer/{path}") for path in ("attack", "walk")],
            *[("GET", f"/v2/models/writer{path}") for path in ("", "/ready", "/config", "/stats")],
            ("POST", "/v2/models/writer/infer"),
        ],
    )
    def test_a_model_of_sequences_is_no_other(self, client: httpx.Client, method: str, path: str) -> None:
        response = client.request(method, path)
        assert response.status_code == (400 if path.startswith("/v2") else 422)
        assert "writer is a model of sequences." in response.text
        assert "/v1/models/writer/generate" in response.text

    def test_other_models_do_not_write(self, client: httpx.Client) -> None:
        for path in ("generate", "score"):
            error = client.post(f"/v1/models/curve/{path}", json={"text": "a"}).json()["error"]
            assert error["code"] == "wrong_kind"
            assert error["hint"] == "The models of sequences are calibrated, lstm, writer."


def test_lists(client: httpx.Client) -> None:
    listed = client.get("/v1/models").json()
    assert listed["default"] == "curve"  # which predicts
    assert [model["name"] for model in listed["models"]] == ["curve", "calibrated", "lstm", "writer"]
    writer = listed["models"][3]
    assert writer["task"] == {"kind": "sequence", "names": ["next character"]}
    assert writer["input"]["kind"] == "text"
    assert writer["input"]["symbols"] == list(SPEC.symbols)
    assert writer["sampler"]["ensemble_size"] == 3
    described = client.get("/v1/models/writer").json()
    assert described.items() >= writer.items()
    assert described["target"]["size"]["cell"] == "hyper_lstm"
    assert "writer" not in client.get("/v2/models/stats").text + client.post("/v2/repository/index").text
    assert client.get("/v1/models/writer/examples/a.png").status_code == 404


class TestLeaving:
    @pytest.mark.parametrize("streams", [False, True])
    def test_work_ends_when_the_client_leaves(self, app: FastAPI, client: httpx.Client, streams: bool) -> None:
        await_idle(app)
        before = read_metric(client, 'hyperdraw_symbols_total{model="writer"}')
        body = json.dumps({"max_tokens": 10_000, "stream": streams}).encode()
        head = f"POST {GENERATE} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
        with socket.create_connection(find_address(str(client.base_url)), PATIENCE) as connection:
            connection.sendall(head.encode() + body)
            wait_until(lambda: app.state.engine.streams.count()["writer"])
            if streams:
                assert connection.recv(100)
        await_idle(app)
        assert read_metric(client, 'hyperdraw_symbols_total{model="writer"}') - before < 10_000

    def test_a_client_that_does_not_read(self, app: FastAPI, client: httpx.Client, monkeypatch: Any) -> None:
        """It blocks nobody, and is not written to without end."""
        await_idle(app)
        monkeypatch.setattr("service.engine.streams.MOST_HELD", 64)
        body = json.dumps({"max_tokens": 10_000, "stream": True, "changes": True, "seed": 0}).encode()
        head = f"POST {GENERATE} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
        with socket.socket() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.connect(find_address(str(client.base_url)))
            connection.sendall(head.encode() + body)
            wait_until(lambda: app.state.engine.streams.count()["writer"])
            wait_until(lambda: not app.state.engine._scheduler.live)  # it waits for the client
            assert app.state.engine.streams.count()["writer"] == 3
            assert len(post(client, GENERATE, {"max_tokens": 100})["text"]) == 100
        await_idle(app)

    def test_deadlines(self, app: FastAPI, client: httpx.Client) -> None:
        body, headers = {"max_tokens": 10_000}, {"X-Request-Timeout": "0.05"}
        response = client.post(GENERATE, json=body, headers=headers)
        assert response.status_code == 504
        response = client.post(GENERATE, json={**body, "stream": True}, headers=headers)
        assert response.status_code == 200
        *_, last, end = response.text.split("\n\n")
        assert end == ""
        assert json.loads(last.removeprefix("data: "))["error"]["code"] == "deadline_exceeded"
        await_idle(app)


def test_many_at_once_beside_predictions(client: httpx.Client) -> None:
    bodies = [{"prompt": "ab" * seed, "max_tokens": 40 + seed, "seed": seed} for seed in range(6)]
    expected = [post(client, GENERATE, body)["text"] for body in bodies]
    written: dict[int, str] = {}

    def write(seed: int) -> None:
        _, *symbols, _ = read_events(client.post(GENERATE, json={**bodies[seed], "stream": True}).text)
        written[seed] = "".join(symbol["text"] for symbol in symbols)

    threads = [threading.Thread(target=write, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for _ in range(10):
        assert client.post("/v1/models/curve/predict", json={"inputs": [[1.0]]}).status_code == 200
    for thread in threads:
        thread.join()
    assert [written[seed] for seed in range(6)] == expected


def test_metrics(app: FastAPI, client: httpx.Client) -> None:
    await_idle(app)
    names = [
        'hyperdraw_symbols_total{model="writer"}',
        'hyperdraw_first_symbol_seconds_count{model="writer"}',
        'hyperdraw_stage_seconds_count{model="writer",stage="sequence"}',
    ]
    before = [read_metric(client, name) for name in names]
    post(client, GENERATE, {"prompt": "abc", "max_tokens": 30})
    wait_until(lambda: [read_metric(client, n) - b for n, b in zip(names, before, strict=True)] == [30, 1, 1])
    assert read_metric(client, 'hyperdraw_live_networks{model="writer"}') == 0
    assert read_metric(client, "hyperdraw_waiting_symbols") == 0
