"""Models of sequences that are replaced, and a service that ends, while they write."""

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from models.sequences.checkpoint import load_sequence_checkpoint, save_sequence_checkpoint
from service.app import create_app
from service.catalog import Catalog, ConfigurationError
from service.engine.engine import Engine
from service.operation.server import Server
from service.settings import Settings
from service.sizes import count_bytes
from tests.checkpoints import edit, save_curve
from tests.conftest import serve
from tests.sequences import save_writer
from tests.waiting import wait_until


@pytest.fixture
def writers(tmp_path: Path) -> Path:
    save_writer(tmp_path / "writer")
    return tmp_path


def renew(directory: Path) -> str:
    """Writes another version of a checkpoint; returns the version."""
    checkpoint = load_sequence_checkpoint(directory)
    for parameter in checkpoint.sampler.parameters():
        parameter.mul_(1.001)
    save_sequence_checkpoint(directory, checkpoint.config, checkpoint.sampler, "float32")
    return load_sequence_checkpoint(directory).version


def begin(events: Iterator[str]) -> dict[str, Any]:
    """Reads the first event."""
    head: dict[str, Any] = json.loads(next(events).removeprefix("data: "))
    return head


def finish(events: Iterator[str]) -> int:
    """Reads the other events; returns the number of characters."""
    rest = [event.removeprefix("data: ") for event in events if event.startswith("data: ")]
    assert rest[-1] == "[DONE]"
    end = json.loads(rest[-2])
    assert end["completion_tokens"] == len(rest) - 2
    return len(rest) - 2


def test_a_text_ends_on_the_version_that_it_began_on(writers: Path) -> None:
    body = {"max_tokens": 400, "seed": 0, "stream": True}
    with (
        serve(create_app(Settings(checkpoints=writers))) as url,
        httpx.Client(base_url=url) as client,
        client.stream("POST", "/v1/models/writer/generate", json=body) as response,
    ):
        events = response.iter_lines()
        old = begin(events)["version"]
        new = renew(writers / "writer")
        assert client.post("/v1/models/writer:reload").json()["changed"]
        again = client.post("/v1/models/writer/generate", json={"max_tokens": 3}).json()
        assert again["version"] == new != old
        assert finish(events) == 400


def test_texts_are_finished_before_the_service_ends(writers: Path) -> None:
    app = create_app(Settings(checkpoints=writers, port=0))
    server = Server(app, app.state.settings)
    thread = threading.Thread(target=server.run)
    thread.start()
    wait_until(lambda: server.started)
    url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    body = {"max_tokens": 500, "stream": True}
    with httpx.stream("POST", f"{url}/v1/models/writer/generate", json=body) as response:
        events = response.iter_lines()
        begin(events)
        server.should_exit = True
        assert finish(events) == 500
    thread.join()


def test_an_engine_that_ends_ends_texts_with_an_error(writers: Path) -> None:
    app = create_app(Settings(checkpoints=writers))
    with serve(app) as url:
        body = {"max_tokens": 10_000, "stream": True}
        with httpx.stream("POST", f"{url}/v1/models/writer/generate", json=body) as response:
            events = response.iter_lines()
            begin(events)
            app.state.engine.close()
            *_, last, empty = events
    assert empty == ""
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "closing"


def test_too_many_texts(writers: Path) -> None:
    app = create_app(Settings(checkpoints=writers, max_live_networks=3))
    with serve(app) as url, httpx.Client(base_url=url) as client:
        body = {"max_tokens": 10_000, "stream": True}
        with client.stream("POST", "/v1/models/writer/generate", json=body):
            for path, asked in (("generate", {"stream": True}), ("generate", {}), ("score", {"text": "a"})):
                response = client.post(f"/v1/models/writer/{path}", json=asked)
                assert response.status_code == 429
                assert int(response.headers["retry-after"]) >= 1
                assert response.json()["error"]["code"] == "overloaded"
        wait_until(lambda: client.post("/v1/models/writer/score", json={"text": "a"}).status_code == 200)


class TestCatalog:
    def test_the_default_predicts_if_any_model_does(self, engine: Engine, writers: Path) -> None:
        assert [model.name for model in Catalog(writers, engine, None)] == ["writer"]
        save_curve(writers / "zebra")
        assert [model.name for model in Catalog(writers, engine, None)] == ["zebra", "writer"]
        assert [model.name for model in Catalog(writers, engine, "writer")] == ["writer", "zebra"]

    def test_damaged_and_oversized_models_are_refused(self, engine: Engine, writers: Path) -> None:
        save_writer(writers / "damaged")
        edit(writers / "damaged" / "config.json", lambda config: config["input"].update(start="x"))
        catalog = Catalog(writers, engine, None)
        assert "the symbol before a text, 'x', is not among the symbols" in catalog.refused["damaged"]
        size = count_bytes(engine.load_sequences(writers / "writer"))
        with pytest.raises(ConfigurationError, match="more than the"):
            Catalog(writers, engine, None, max_bytes=size - 1)

    def test_networks_whose_outputs_are_not_finite(self, engine: Engine, writers: Path) -> None:
        checkpoint = load_sequence_checkpoint(writers / "writer")
        largest = torch.finfo(torch.float32).max
        checkpoint.sampler.modes["output/bias"].data[:] = largest
        checkpoint.sampler.modes["output/weight"].data[:, 0] = largest  # one of two logits
        checkpoint.sampler.modes["output/weight"].data[:, 1] = -largest
        save_sequence_checkpoint(writers / "bad", checkpoint.config, checkpoint.sampler, "float32")
        catalog = Catalog(writers, engine, None)
        assert catalog.refused == {"bad": "bad: a sampled network gave logits that are not finite"}
