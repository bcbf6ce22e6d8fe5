"""Both Python clients, against the real service over real HTTP."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx
import hyperdraw
import pytest

from models.examples import save_examples
from service.app import create_app
from service.operation.access import create_key
from service.settings import Settings
from tests.client.gateway import MODELS, PICTURE, Ask, refuse, respond, stand_before
from tests.conftest import serve
from tests.examples import make_example


def test_the_client_needs_neither_torch_nor_the_service() -> None:
    foreign = ["torch", "pandas", "PIL", "pyarrow", "fastapi", "pydantic", "service", "models", "training"]
    code = f"import sys, hyperdraw, hyperdraw.__main__; print([m for m in {foreign} if m in sys.modules])"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"


def test_both_clients_have_the_same_methods() -> None:
    names = {name for name in vars(hyperdraw.Client) if not name.startswith("_")}
    assert names == {name for name in vars(hyperdraw.AsyncClient) if not name.startswith("_")}
    assert hyperdraw.Client.predict.__doc__ == hyperdraw.AsyncClient.predict.__doc__


def test_models(ask: Ask, address: str, client: httpx.Client) -> None:
    answer = ask(address, "models")
    assert (answer.default, [model.name for model in answer.models], answer.refused) == ("digits", ["digits"], {})
    said = client.get("/v1/models/digits").json()
    for name in ("digits", None):
        model = ask(address, "model", name)
        assert {key: getattr(model, key) for key in said} == said
    assert ask(address, "ready") is True


def test_examples_are_described_and_downloaded(
    ask: Ask, address: str, client: httpx.Client, checkpoints: Path, tmp_path: Path
) -> None:
    shutil.copytree(checkpoints / "digits", tmp_path / "digits")
    save_examples(tmp_path / "digits", [make_example()])
    with serve(create_app(Settings(checkpoints=tmp_path))) as another:
        (described,) = ask(another, "model").examples
        assert (described["file"], described["licence"]) == ("stroke.png", "Apache-2.0")
        assert ask(another, "example", "stroke.png") == make_example().content
    with pytest.raises(hyperdraw.NotFound, match=r"digits has no example '\.\./config\.json'|Not Found"):
        ask(address, "example", "../config.json", "digits")
    earlier = client.get("/v1/models/digits").json()
    del earlier["examples"]
    with stand_before(client, respond(200, body=json.dumps(earlier).encode())) as gateway:
        assert ask(gateway.address, "model", "digits").examples == ()


def test_requests_say_who_asks(ask: Ask, client: httpx.Client) -> None:
    with stand_before(client) as gateway:
        ask(gateway.address, "models")
    assert gateway.header("User-Agent") == [f"hyperdraw/{version('hyperdraw')}"]


def test_what_a_later_service_adds_to_its_descriptions_is_left_out(ask: Ask, client: httpx.Client) -> None:
    said = client.get("/v1/models").json()
    later = {"novel": 1, **said, "models": [{"novel": 1, **model} for model in said["models"]]}
    with stand_before(client, respond(200, body=json.dumps(later).encode())) as gateway:
        assert [model.name for model in ask(gateway.address, "models").models] == ["digits"]


@pytest.mark.parametrize("address", ["127.0.0.1:8000", "ftp://host", "", "http://", "file:///etc"])
@pytest.mark.parametrize("kind", [hyperdraw.Client, hyperdraw.AsyncClient])
def test_what_is_no_address(kind: type, address: str) -> None:
    with pytest.raises(ValueError, match="is not a URL"):
        kind(address)


@pytest.mark.parametrize("key", ["secret\n", "sec ret", "ключ", ""])
@pytest.mark.parametrize("kind", [hyperdraw.Client, hyperdraw.AsyncClient])
def test_what_is_no_key_is_not_shown(kind: type, key: str) -> None:
    with pytest.raises(ValueError, match="the API key must be") as caught:
        kind("http://127.0.0.1:8000", api_key=key)
    assert not key or key.strip() not in str(caught.value)


def test_keys_and_reloads(ask: Ask, checkpoints: Path, tmp_path: Path) -> None:
    key, entry = create_key("operator", ["admin"])
    (tmp_path / "keys.toml").write_text(entry)
    with serve(create_app(Settings(checkpoints=checkpoints, keys=tmp_path / "keys.toml"))) as address:
        answer = ask(address, "reload", "digits", options={"api_key": key})
        assert (answer.model.name, answer.changed) == ("digits", False)
        for options in ({}, {"api_key": key[:-1]}):
            with pytest.raises(hyperdraw.Unauthorized) as caught:
                ask(address, "models", options=options)
            assert (caught.value.status, caught.value.code) == (401, "unauthorized")
        with pytest.raises(hyperdraw.Unauthorized, match="scope predict"):
            ask(address, "predict", PICTURE, options={"api_key": key})


def test_a_reload_is_not_repeated_when_nobody_knows_whether_it_arrived(ask: Ask, client: httpx.Client) -> None:
    with stand_before(client, b"") as gateway, pytest.raises(hyperdraw.ConnectionFailed):
        ask(gateway.address, "reload", "digits")
    assert len(gateway.requests) == 1
    with stand_before(client, refuse(503)) as gateway:
        assert not ask(gateway.address, "reload", "digits").changed
    assert len(gateway.requests) == 2


@pytest.mark.parametrize("gone", [refuse(404, "unknown_model"), refuse(503, "model_refused")])
def test_a_default_that_is_gone_is_looked_up_anew(client: httpx.Client, tmp_path: Path, gone: bytes) -> None:
    former = respond(200, body=MODELS.replace(b"digits", b"former"))
    calls: dict[str, Callable[[hyperdraw.Client], Any]] = {
        "": lambda asking: asking.model(),
        "/predict": lambda asking: asking.predict(PICTURE),
        "/weights": lambda asking: asking.download(tmp_path / "net", seed=7),
    }
    for path, call in calls.items():
        with stand_before(client, former) as gateway, hyperdraw.Client(gateway.address) as asking:
            gateway.script += [refuse(500)]
            with pytest.raises(hyperdraw.ServiceError, match="It was so"):
                call(asking)
            gateway.script += [gone]
            call(asking)
            call(asking)
        asked = [head.split(" ")[1].partition("?")[0] for head in gateway.requests]
        one, other = f"/v1/models/former{path}", f"/v1/models/digits{path}"
        assert asked == ["/v1/models", one, one, "/v1/models", other, other]


def test_a_default_that_was_never_there_is_said(client: httpx.Client) -> None:
    former = respond(200, body=MODELS.replace(b"digits", b"former"))
    with stand_before(client, former) as gateway, hyperdraw.Client(gateway.address) as asking:
        with pytest.raises(hyperdraw.NotFound, match="no model 'former'"):
            asking.model()
        assert len(gateway.requests) == 2
        with pytest.raises(hyperdraw.NotFound, match="no model 'other'"):
            asking.model("other")
        assert asking.model().name == "digits"
