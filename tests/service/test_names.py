"""Models by whatever name a directory can have."""

import io
import json
import logging
import os
import re
import shutil
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import httpx
import numpy as np
import pytest
import tritonclient.http
from hyperdraw import Client
from prometheus_client.parser import text_string_to_metric_families
from tritonclient.utils import np_to_triton_dtype

from service.app import create_app
from service.names import check_name, escape, write_disposition
from service.operation.logs import make_formatter
from service.settings import LogFormat, Settings
from tests.conftest import serve
from tests.pictures import draw_image, encode

GOOD = [
    "写真",
    "☃",
    "😀",
    "é",
    "e\N{COMBINING ACUTE ACCENT}",
    "עברית",
    'a"b',
    "a'b",
    "a\\b",
    "a\\nb",
    "a%2Fb",
    "a%b",
    "a?b",
    "a#b",
    "a:b",
    "a;b=c",
    "a,b",
    "a&b",
    "a+b",
    "a b",
    " a",
    "a ",
    "a.",
    "~a",
    "{model}",
    "<b>",
    "predict",
    "v1",
    "versions",
    "ready",
    "a:reload:b",
    "n" * 255,
    "写" * 85,
]
BAD = {
    b"caf\xe9": "is not UTF-8",
    b"\xff": "is not UTF-8",
    b"\xed\xa0\x80": "is not UTF-8",
    b"a\nb": "contains control characters",
    b"a\r\nX: b": "contains control characters",
    b"a\x1b[31mb": "contains control characters",
    b"a\x7f": "contains control characters",
    "a\u0085b".encode(): "contains control characters",
    "a\u2028b".encode(): "contains control characters",
    b"a:reload": "names an action",
    b"stats": "another meaning in paths",
}
PICTURE: dict[str, Any] = {"content": encode(draw_image(size=(8, 8))), "headers": {"Content-Type": "image/png"}}


@pytest.fixture(scope="module")
def client(checkpoints: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    store = tmp_path_factory.mktemp("names")
    for name in [*map(os.fsencode, GOOD), *BAD]:
        shutil.copytree(checkpoints / "digits", store / os.fsdecode(name))
    (store / ".hidden").mkdir()
    with (
        serve(create_app(Settings(checkpoints=store))) as address,
        httpx.Client(base_url=address) as client,
    ):
        yield client


def path_of(name: str) -> str:
    return f"/v1/models/{quote(name, safe='')}"


def test_all_are_listed_and_those_that_cannot_be_served_say_why(client: httpx.Client) -> None:
    listed = client.get("/v1/models").raise_for_status().json()
    assert sorted(model["name"] for model in listed["models"]) == sorted(GOOD)
    refused = {entry["name"]: entry["reason"] for entry in listed["refused"]}
    shown = {escape(os.fsdecode(name)): reason for name, reason in BAD.items()}
    assert refused.keys() == shown.keys()
    assert {r"caf\xe9", r"a\nb", r"a\x1b[31mb", "a:reload"} <= refused.keys()
    for name, reason in shown.items():
        assert reason in refused[name]
    index = client.post("/v2/repository/index").raise_for_status().json()
    assert sorted(model["name"] for model in index) == sorted([*GOOD, *shown])


@pytest.mark.parametrize("name", GOOD, ids=lambda name: name[:20])
def test_every_route_knows_the_name(client: httpx.Client, name: str) -> None:
    path = path_of(name)
    assert client.get(path).raise_for_status().json()["name"] == name
    answer = client.post(f"{path}/predict?ensemble_size=2", **PICTURE).raise_for_status().json()
    assert answer["model"]["name"] == name
    assert client.post(f"{path}:reload").raise_for_status().json()["model"]["name"] == name
    assert client.get(f"/v2/models/{quote(name, safe='')}").raise_for_status().json()["name"] == name
    assert client.get(f"/v2/models/{quote(name, safe='')}/ready").raise_for_status().json()["name"] == name
    for method in ("GET", "HEAD"):
        response = client.request(method, f"{path}/weights")
        assert response.status_code == 200
        assert read_filename(response) == name.replace("\\", "_") + f"-seed{seed_of(response)}-member0.safetensors"
        location = response.headers["content-location"]
        assert location.isascii()
        assert unquote(location.partition("?")[0]) == f"/v1/models/{name}/weights"
        again = client.get(location).raise_for_status()
        assert seed_of(again) == seed_of(response)
        if method == "GET":
            length = int.from_bytes(again.content[:8], "little")
            assert json.loads(again.content[8 : 8 + length])["__metadata__"]["checkpoint"] == name
            assert again.content == response.content


def seed_of(response: httpx.Response) -> str:
    return response.headers["x-hyperdraw-seed"]


def read_filename(response: httpx.Response) -> str:
    """As RFC 6266 has it read: the name in UTF-8 before the one for all."""
    header = response.headers["content-disposition"]
    assert header.isascii()
    found = re.fullmatch(r"attachment; filename=\"([^\"\\]*)\"(?:; filename\*=UTF-8''([\w.~%-]*))?", header)
    assert found
    plain, extended = found.groups()
    return unquote(extended) if extended else plain


def test_metrics_know_the_names(client: httpx.Client) -> None:
    for accept in ("text/plain", "application/openmetrics-text"):
        response = client.get("/metrics", headers={"Accept": accept}).raise_for_status()
        assert "# HELP hyperdraw_model_info" in response.text
    families = text_string_to_metric_families(client.get("/metrics").text)
    named = [s.labels["model"] for family in families if family.name == "hyperdraw_model_info" for s in family.samples]
    assert sorted(named) == sorted(GOOD)


@pytest.mark.parametrize("name", ["写真", 'a"b', "a%2Fb", "a?b", "a b", "n" * 255], ids=lambda name: name[:20])
def test_clients_know_the_names(client: httpx.Client, name: str) -> None:
    with tritonclient.http.InferenceServerClient(client.base_url.netloc.decode()) as triton:
        assert triton.is_model_ready(name)
        assert triton.get_model_metadata(name)["name"] == name
        images = np.zeros((1, 1, 8, 8), np.uint8)
        asked = tritonclient.http.InferInput("images", images.shape, np_to_triton_dtype(images.dtype))
        asked.set_data_from_numpy(images)
        assert triton.infer(name, [asked], parameters={"ensemble_size": 2}).get_response()["model_name"] == name
    with Client(str(client.base_url)) as ours:
        assert ours.model(name).name == name


@pytest.mark.parametrize("name", ["a\nb", "a\r\nX: b", "a:reload", "stats", "caf\udce9", ".hidden"])
def test_what_cannot_be_served_cannot_be_loaded_either(client: httpx.Client, name: str) -> None:
    quoted = quote(os.fsencode(name), safe="")
    response = client.post(f"/v1/models/{quoted}:reload")
    assert response.status_code in (404, 409), response.text
    assert set(response.json()["error"]) == {"code", "message", "hint"}
    assert client.get("/v1/models").status_code == 200


@pytest.mark.parametrize("name", ["", "\ud800", "a\0b", "stats", "x:reload"])
def test_names_that_are_refused(name: str) -> None:
    assert check_name(name)


def test_file_names_in_headers_are_ascii_and_hold_no_paths() -> None:
    assert write_disposition("a-1.bin") == 'attachment; filename="a-1.bin"'
    assert write_disposition("100%.bin") == "attachment; filename=\"100_.bin\"; filename*=UTF-8''100%25.bin"
    expected = "attachment; filename=\"..____.bin\"; filename*=UTF-8''.._%22%E5%86%99%22.bin"
    assert write_disposition('..\\"写".bin') == expected


@pytest.mark.parametrize("log_format", ["console", "json"])
@pytest.mark.parametrize("name", BAD)
def test_logs_keep_names_within_their_line(name: bytes, log_format: LogFormat) -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(make_formatter(log_format))
    text = os.fsdecode(name)
    record = logging.LogRecord("x", logging.ERROR, "", 0, "%s is refused", (text,), None)
    record.path = text
    handler.handle(record)
    if log_format == "json":
        assert json.loads(stream.getvalue())["path"] == text
        assert not any(character < " " for character in stream.getvalue().rstrip("\n"))
    else:
        (line,) = stream.getvalue().splitlines()
        assert not any(unicodedata.category(character) in ("Cc", "Zl", "Zp") for character in line)
