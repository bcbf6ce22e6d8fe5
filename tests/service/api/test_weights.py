import asyncio
import json
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from fastapi import FastAPI
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load, load_file
from starlette.types import Message, Receive, Scope, Send

from models.checkpoint import Checkpoint, MethodConfig
from models.model import Model
from models.noise import MEMBER_LIMIT
from service.api.weights_file import DTYPES, WeightsFile, parse_range
from service.engine.engine import Engine
from tests.checkpoints import make_config
from tests.conftest import SMALL_TARGET
from tests.engine import hold
from tests.pictures import draw_image, encode
from tests.samplers import CONFIGS
from tests.waiting import wait_until

WEIGHTS = "/v1/models/digits/weights"


def test_a_downloaded_network_is_the_member_that_predicted(
    client: httpx.Client, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    picture = encode(draw_image(size=(8, 8)))
    parameters = {"seed": "7", "ensemble_size": "5", "members": "true"}
    answer = client.post("/v1/models/digits/predict", files={"images": picture}, params=parameters).json()
    reported = torch.tensor(answer["predictions"][0]["member_probabilities"])

    description = client.get("/v1/models/digits").json()
    namespace: dict[str, Any] = {}
    exec(description["target"]["source"], namespace)
    network = namespace["network"]
    for member in range(5):
        path = tmp_path / "net.safetensors"
        path.write_bytes(client.get(WEIGHTS, params={"seed": 7, "member": member}).content)
        network.load_state_dict(load_file(path), strict=True)
        pixels = torch.tensor(np.asarray(Image.open(BytesIO(picture)))) / 255
        spec = description["input"]
        images = ((pixels - spec["mean"][0]) / spec["std"][0])[None, None]
        with torch.no_grad():
            torch.testing.assert_close(network(images).softmax(-1)[0], reported[member], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("headers", [{}, {"Range": "bytes=0-"}, {"Range": "bytes=3-9"}])
def test_other_servers_get_bytes(app: FastAPI, headers: dict[str, str]) -> None:
    """ASGI has no other type of body, and some servers pickle it."""
    kinds = set()

    async def observe(scope: Scope, receive: Receive, send: Send) -> None:
        async def forward(message: Message) -> None:
            kinds.add(type(message.get("body", b"")))
            await send(message)

        await app(scope, receive, forward)

    async def download() -> int:
        transport = httpx.ASGITransport(app=observe)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            return (await client.get(WEIGHTS, params={"count": 100}, headers=headers)).status_code

    assert asyncio.run(download()) in (200, 206)
    assert kinds == {bytes}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("count", [None, 1, 3, 1000])
def test_file_holds_the_sampled_networks(
    client: httpx.Client, checkpoint: Checkpoint, dtype: str, count: int | None, tmp_path: Path
) -> None:
    parameters: dict[str, str | int] = {"seed": 1, "member": 2, "dtype": dtype}
    if count:
        parameters["count"] = count
    response = client.get(WEIGHTS, params=parameters)
    assert response.status_code == 200
    assert int(response.headers["Content-Length"]) == len(response.content)
    expected = checkpoint.sampler.sample(1, range(2, 2 + (count or 1)))
    loaded = load(response.content)
    for name, tensor in expected.items():
        tensor = tensor.to(DTYPES[dtype])
        torch.testing.assert_close(loaded[name], tensor if count else tensor[0], rtol=1e-2, atol=1e-5)
    assert set(loaded) == set(checkpoint.config.target.parameter_shapes)
    data = sum(tensor.numel() * tensor.itemsize for tensor in loaded.values())
    header = 8 + int.from_bytes(response.content[:8], "little")
    assert len(response.content) == header + data
    assert header % 8 == 0

    (tmp_path / "f").write_bytes(response.content)
    with safe_open(tmp_path / "f", "pt") as file:
        metadata = file.metadata()
    assert metadata["checkpoint"] == "digits"
    assert metadata["version"] == checkpoint.version
    assert metadata["seed"] == "1"
    assert metadata["members"] == f"2-{1 + (count or 1)}"
    assert metadata["target"] == checkpoint.config.target.source
    assert json.loads(metadata["task"])["classes"] == list("0123456789")


def test_fresh_draws_differ_are_not_cached_and_can_be_had_again(client: httpx.Client) -> None:
    first, second = client.get(WEIGHTS), client.get(WEIGHTS)
    assert first.headers["X-Hyperdraw-Seed"] != second.headers["X-Hyperdraw-Seed"]
    assert first.headers["Cache-Control"] == "no-store"
    assert "ETag" not in first.headers
    again = client.get(first.headers["Content-Location"])
    assert again.content == first.content
    assert "immutable" in again.headers["Cache-Control"]


def test_seeded_draws_are_cached_revalidated_and_resumed(client: httpx.Client, checkpoint: Checkpoint) -> None:
    parameters = {"seed": 5, "count": 3}
    whole = client.get(WEIGHTS, params=parameters)
    etag = whole.headers["ETag"]
    assert whole.headers["Cache-Control"] == "private, no-cache"  # the model may be replaced under its name
    pinned = client.get(WEIGHTS, params=parameters | {"version": checkpoint.version})
    assert pinned.headers["Cache-Control"] == "private, max-age=31536000, immutable"

    unchanged = client.get(WEIGHTS, params=parameters, headers={"If-None-Match": f'"other", {etag}'})
    assert unchanged.status_code == 304
    assert unchanged.content == b""
    others: list[dict[str, int | str]] = [{"seed": 6}, {"count": 4}, {"dtype": "float16"}, {"member": 1}]
    for other in others:
        assert client.get(WEIGHTS, params={**parameters, **other}).headers["ETag"] != etag

    head = client.head(WEIGHTS, params=parameters)
    assert head.status_code == 200
    assert head.content == b""
    for name in ("Content-Length", "ETag", "Content-Disposition"):
        assert head.headers[name] == whole.headers[name]

    size = len(whole.content)
    for text, start, stop in (
        ("0-0", 0, 1),
        ("5-2000", 5, 2001),
        ("3000-", 3000, size),
        ("-7", size - 7, size),
        (f"9-{size + 9}", 9, size),
    ):
        part = client.get(WEIGHTS, params=parameters, headers={"Range": f"bytes={text}", "If-Range": etag})
        assert part.status_code == 206
        assert part.headers["Content-Range"] == f"bytes {start}-{stop - 1}/{size}"
        assert part.content == whole.content[start:stop]
    stale = client.get(WEIGHTS, params=parameters, headers={"Range": "bytes=0-0", "If-Range": '"other"'})
    assert (stale.status_code, stale.content) == (200, whole.content)
    outside = client.get(WEIGHTS, params=parameters, headers={"Range": f"bytes={size}-"})
    assert outside.status_code == 416
    assert outside.headers["Content-Range"] == f"bytes */{size}"


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (None, None),
        ("", None),
        ("bytes=", None),
        ("bytes=-", None),
        ("bytes=a-b", None),
        ("bytes=1-2,4-5", None),
        ("items=0-1", None),
        ("bytes=5-2", None),
        ("bytes=²-3", None),
        ("bytes=0-99", (0, 100)),
        ("bytes=0-1000", (0, 100)),
        ("bytes=-1000", (0, 100)),
        ("bytes=99-", (99, 100)),
    ],
)
def test_parse_range(header: str | None, expected: tuple[int, int] | None) -> None:
    assert parse_range(header, 100) == expected


@pytest.mark.parametrize("header", ["bytes=100-", "bytes=-0", "bytes=200-300"])
def test_parse_range_outside(header: str) -> None:
    with pytest.raises(ValueError, match="outside the file of"):
        parse_range(header, 100)


@pytest.mark.parametrize(
    ("parameters", "status", "message"),
    [
        ({"count": 0}, 422, "count"),
        ({"count": 1001}, 422, "count is 1001"),
        ({"count": 10**9}, 422, "count is 1000000000"),
        ({"member": -1}, 422, "member"),
        ({"member": MEMBER_LIMIT}, 422, "member"),
        ({"member": MEMBER_LIMIT - 1, "count": 2}, 422, "digits has no member 4294967296"),
        ({"seed": "many"}, 422, "seed"),
        ({"seed": 2**63}, 422, "seed"),
        ({"dtype": "int8"}, 422, "dtype"),
        ({"version": "0" * 64}, 404, "Version '000"),
        ({"members": 3}, 422, "members"),
    ],
)
def test_bad_parameters(client: httpx.Client, parameters: dict[str, str], status: int, message: str) -> None:
    response = client.get(WEIGHTS, params=parameters)
    assert response.status_code == status
    assert message in response.json()["error"]["message"]


def test_the_last_addresses_exist(client: httpx.Client) -> None:
    response = client.get(WEIGHTS, params={"seed": 2**63 - 1, "member": MEMBER_LIMIT - 1})
    assert response.status_code == 200


def test_work_for_a_client_that_left_stops(app: FastAPI, client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.api.weights_file._BYTES_PER_DRAW", 4096)
    draws = 0
    sample = app.state.engine.sample

    def count_draws(*arguments: object) -> object:
        nonlocal draws
        draws += 1
        return sample(*arguments)

    monkeypatch.setattr(app.state.engine, "sample", count_draws)
    parameters = {"seed": 1, "count": 1000}
    client.get(WEIGHTS, params=parameters)
    needed, draws = draws, 0
    with client.stream("GET", WEIGHTS, params=parameters) as response:
        next(response.iter_raw())
    wait_until(lambda: app.state.streams == 0)
    assert 0 < draws < needed


def test_memory_does_not_grow_with_the_number_of_networks(model: Model) -> None:
    """Every draw is bounded, and the header is known before any."""
    file = WeightsFile(model, 0, range(10**6), True, "float32")
    assert file.size == len(file.header) + 4 * model.target.num_weights * 10**6
    assert len(file.header) < 4096


@pytest.mark.parametrize("method", CONFIGS.values(), ids=CONFIGS.keys())
def test_every_method_can_be_downloaded(method: MethodConfig) -> None:
    """Whatever the layout in memory of what its generator makes."""
    sampler = method.build(SMALL_TARGET).eval().requires_grad_(False)
    checkpoint = Model(Checkpoint("network", "1", make_config(sampler), sampler, None, None))
    engine = Engine(torch.device("cpu"))
    file = WeightsFile(checkpoint, 7, range(2, 40), stacked=True, dtype="float32")

    async def read() -> bytes:
        return b"".join([bytes(part) async for part in file.stream(engine, 0, file.size)])

    content = asyncio.run(read())
    engine.close()
    assert len(content) == file.size
    for name, tensor in sampler.sample(7, range(2, 40)).items():
        torch.testing.assert_close(load(content)[name], tensor, rtol=1e-5, atol=1e-6)


def test_a_download_that_is_too_late_is_broken_off(app: FastAPI, client: httpx.Client) -> None:
    headers = {"X-Request-Timeout": "0.2"}
    with hold(app.state.engine), pytest.raises(httpx.RemoteProtocolError):
        client.get(WEIGHTS, headers=headers)
    wait_until(lambda: app.state.streams == 0)
    assert client.get(WEIGHTS).status_code == 200


@pytest.mark.parametrize("header", ["*", "{etag}", "W/{etag}", '"other", W/{etag}', '"other",*'])
def test_tags_are_compared_weakly(client: httpx.Client, header: str) -> None:
    etag = client.head(WEIGHTS, params={"seed": 1}).headers["etag"]
    response = client.get(WEIGHTS, params={"seed": 1}, headers={"If-None-Match": header.format(etag=etag)})
    assert (response.status_code, response.content) == (304, b"")
    for other in ('"other"', f"x{etag}", etag.strip('"')):
        response = client.get(WEIGHTS, params={"seed": 1}, headers={"If-None-Match": other})
        assert response.status_code == 200
    assert client.get("/static/app.js", headers={"If-None-Match": "*"}).status_code == 304
