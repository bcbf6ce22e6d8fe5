"""Examples of checkpoints, as the service offers them."""

import os
from pathlib import Path

import httpx
import pytest
import torch

from models.checkpoint import load_checkpoint
from models.examples import FOLDER, save_examples
from models.model import Model
from service.app import create_app
from service.catalog import Catalog
from service.engine.engine import Engine
from service.settings import Settings
from tests.conftest import serve
from tests.examples import make_example
from tests.keys import write_keys

ADDRESS = "/v1/models/digits/examples"


def test_examples_are_described_and_sent(store: Path, tmp_path: Path) -> None:
    version = load_checkpoint(store / "digits").version
    example, photo = make_example(), make_example("photo.jpg", kind="JPEG")
    save_examples(store / "digits", [example, photo])
    keys = write_keys(tmp_path / "keys.toml", reader=[])
    with (
        serve(create_app(Settings(checkpoints=store, keys=tmp_path / "keys.toml"))) as address,
        httpx.Client(base_url=address, headers={"Authorization": f"Bearer {keys['reader']}"}) as client,
    ):
        described = client.get("/v1/models/digits").json()
        assert described["version"] == version  # which does not depend on them
        assert described["examples"][0] == {
            "file": "stroke.png",
            "media_type": "image/png",
            "caption": "a stroke",
            "source": "drawn for the tests",
            "licence": "Apache-2.0",
        }
        assert [each["file"] for each in described["examples"]] == ["stroke.png", "photo.jpg"]

        sent = client.get(f"{ADDRESS}/stroke.png")
        assert (sent.status_code, sent.content) == (200, example.content)
        assert sent.headers["content-type"] == "image/png"
        assert sent.headers["cache-control"] == "no-cache"
        assert sent.headers["x-content-type-options"] == "nosniff"
        assert client.get(f"{ADDRESS}/photo.jpg").headers["content-type"] == "image/jpeg"
        again = client.get(f"{ADDRESS}/stroke.png", headers={"If-None-Match": sent.headers["etag"]})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", sent.headers["etag"])
        head = client.head(f"{ADDRESS}/stroke.png")
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["content-length"] == str(len(example.content))

        for name in ("other.png", "examples.json", "%2e%2e%2fconfig.json", "a" * 5000):
            missing = client.get(f"{ADDRESS}/{name}")
            assert missing.status_code == 404
            assert len(missing.text) < 500
        error = client.get(f"{ADDRESS}/other.png").json()["error"]
        assert error == {
            "code": "unknown_example",
            "message": "digits has no example 'other.png'.",
            "hint": "Its examples are stroke.png, photo.jpg.",
        }
        assert client.get("/v1/models/other/examples/stroke.png").json()["error"]["code"] == "unknown_model"
        assert httpx.get(f"{address}{ADDRESS}/stroke.png").status_code == 401
        answer = client.get("/openapi.json").json()["paths"]["/v1/models/{model}/examples/{file}"]["get"]["responses"]
        assert set(answer["200"]["content"]) == {"image/png", "image/jpeg", "image/webp"}


def test_examples_are_reloaded_though_the_version_stays(store: Path, engine: Engine) -> None:
    catalog = Catalog(store, engine, None)
    before = catalog.resolve("digits")
    assert before.examples == ()
    save_examples(store / "digits", [make_example()])
    loaded, changed = catalog.reload("digits")
    assert isinstance(loaded, Model)
    assert not changed
    assert loaded.version == before.version
    assert loaded.examples == catalog.resolve("digits").examples == (make_example(),)
    save_examples(store / "digits", [make_example(caption="another")])
    catalog.refresh()
    assert catalog.resolve("digits").examples[0].entry.caption == "another"
    (store / "digits" / "metrics.json").write_text('{"measured": "anew"}')
    catalog.refresh()
    assert catalog.resolve("digits").metrics == {"measured": "anew"}
    answer = engine.predict(
        loaded, torch.zeros(1, *loaded.input.shape, dtype=torch.uint8), None, 2
    )  # of a request that began before
    assert len(answer.result().prediction.members) == 2


def test_a_changed_file_is_seen_and_a_damaged_one_refused(store: Path, engine: Engine) -> None:
    save_examples(store / "digits", [make_example()])
    catalog = Catalog(store, engine, None)
    path = store / "digits" / FOLDER / "stroke.png"
    path.write_bytes(b"not an image")  # in place
    os.utime(path, ns=(1, 1))
    catalog.refresh()
    assert catalog.resolve("digits").examples == (make_example(),)
    with pytest.raises(Exception, match=r"stroke\.png: is not a PNG, JPEG or WebP file"):
        catalog.reload("digits")
