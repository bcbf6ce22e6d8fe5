"""The Python client and its command line, against the real service over real HTTP."""

import asyncio
import io
import json
import re
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

import httpx
import hyperdraw
import numpy as np
import pytest
import torch
from fastapi import FastAPI
from hyperdraw.__main__ import app as command_line
from hyperdraw.inputs import Picture, encode_inputs, encode_png
from hyperdraw.tensors import TensorFile
from PIL import Image
from safetensors.numpy import load, save
from safetensors.torch import load_file
from typer.testing import CliRunner

from models.checkpoint import Checkpoint, CheckpointConfig, Training, save_checkpoint
from models.inputs.vector import VectorSpec
from models.samplers.deep_ensemble import DeepEnsembleConfig
from models.targets.layers import Activation, Linear
from models.targets.target import TargetNetwork
from models.tasks.regression import Regression
from service.app import create_app
from service.operation.access import create_key
from service.settings import Settings
from tests.conftest import serve
from tests.engine import draw_images, hold
from tests.pictures import EXAMPLES, draw_image, encode

Ask = Callable[..., Any]

PICTURE = encode(draw_image(size=(8, 8)))
OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
MODELS = b'{"default": "digits", "models": [], "refused": []}'


def respond(status: int, *headers: str, body: bytes = b"") -> bytes:
    """A whole answer, as it is sent."""
    lines = [f"HTTP/1.1 {status} Phrase", f"Content-Length: {len(body)}", "Connection: close", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def refuse(status: int, code: str = "some_code", *headers: str) -> bytes:
    error = {"error": {"code": code, "message": "It was so.", "hint": "Do otherwise."}}
    return respond(status, *headers, body=json.dumps(error).encode())


class Gateway(socketserver.ThreadingTCPServer):
    """Stands before the service, gives the answers of a script first, and then the service's own.

    Bytes are sent as they are; of a number, that many bytes of the body of the service's answer arrive before the
    connection is cut; None keeps silent.
    """

    daemon_threads = True

    def __init__(self, service: httpx.Client, *script: bytes | int | None) -> None:
        super().__init__(("127.0.0.1", 0), _Passage)
        self.service = service
        self.script = list(script)
        self.requests: list[str] = []
        """Their heads."""
        self.closed = threading.Event()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def header(self, name: str) -> list[str | None]:
        """A header of each request."""
        found = [re.search(rf"^{name}: (.*?)\r$", head, re.MULTILINE | re.IGNORECASE) for head in self.requests]
        return [match[1] if match else None for match in found]


class _Passage(socketserver.StreamRequestHandler):
    server: Gateway

    def handle(self) -> None:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            if not (line := self.rfile.readline()):
                return
            head += line
        self.server.requests.append(head.decode())
        length = self.server.header("content-length")[-1]
        body = self.rfile.read(int(length or 0))
        step = self.server.script.pop(0) if self.server.script else sys.maxsize
        if step is None:
            self.server.closed.wait(20)
        elif isinstance(step, bytes):
            self.wfile.write(step)
        else:
            method, path, _ = head.decode().split(" ", 2)
            lines = [line.split(": ", 1) for line in head.decode().split("\r\n")[1:-2]]
            answer = self.server.service.request(method, path, headers=dict(lines), content=body)
            kept = [f"{name}: {value}" for name, value in answer.headers.items() if name != "connection"]
            self.wfile.write(
                "\r\n".join([f"HTTP/1.1 {answer.status_code} X", *kept, "Connection: close", "", ""]).encode()
            )
            self.wfile.write(answer.content[:step])


@contextmanager
def stand_before(service: httpx.Client, *script: bytes | int | None) -> Iterator[Gateway]:
    with Gateway(service, *script) as gateway:
        thread = threading.Thread(target=gateway.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield gateway
        finally:
            gateway.closed.set()
            gateway.shutdown()
            thread.join()


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hyperdraw.exchange._FIRST_PAUSE", 0.01)


@pytest.fixture(params=["Client", "AsyncClient"])
def ask(request: pytest.FixtureRequest) -> Ask:
    """Asks a service with a client of its own: `ask(address, method, *arguments, options={…}, **parameters)`."""

    def ask_waiting(address: str, method: str, *arguments: Any, options: Any = None, **parameters: Any) -> Any:
        with hyperdraw.Client(address, **(options or {})) as client:
            return getattr(client, method)(*arguments, **parameters)

    def ask_asynchronously(address: str, method: str, *arguments: Any, options: Any = None, **parameters: Any) -> Any:
        async def ask() -> Any:
            async with hyperdraw.AsyncClient(address, **(options or {})) as client:
                return await getattr(client, method)(*arguments, **parameters)

        return asyncio.run(ask())

    return ask_waiting if request.param == "Client" else ask_asynchronously


@pytest.fixture(scope="session")
def address(client: httpx.Client) -> str:
    return str(client.base_url)


def test_the_client_needs_neither_torch_nor_the_service() -> None:
    foreign = ["torch", "fastapi", "pydantic", "service", "models", "training"]
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


def test_requests_say_who_asks(ask: Ask, client: httpx.Client) -> None:
    with stand_before(client) as gateway:
        ask(gateway.address, "models")
    assert gateway.header("User-Agent") == [f"hyperdraw/{version('hyperdraw')}"]


def test_predict_says_what_the_service_says(ask: Ask, address: str, client: httpx.Client) -> None:
    parameters: dict[str, Any] = {
        "seed": 7,
        "ensemble_size": 20,
        "false_alarm_rate": 0.2,
        "coverage": 0.8,
        "members": True,
    }
    answer = ask(address, "predict", [PICTURE, EXAMPLES / "seven.png"], **parameters)
    files = [("images", PICTURE), ("images", (EXAMPLES / "seven.png").read_bytes())]
    said = client.post("/v1/models/digits/predict", files=files, params=parameters).json()

    assert isinstance(answer, hyperdraw.Classification)
    assert vars(answer.model) == said["model"]
    assert {"size": answer.ensemble_size, "seed": answer.seed, "temperature": answer.temperature} == said["ensemble"]
    assert (len(answer), answer.probabilities.shape, answer.classes) == (2, (2, 10), tuple("0123456789"))
    assert answer.members is not None
    assert answer.members.shape == (20, 2, 10)
    predictions = said["predictions"]
    assert answer.labels.tolist() == [each["label"] for each in predictions]
    assert answer.class_indices.tolist() == [each["class_index"] for each in predictions]
    for part, each in zip(answer, predictions, strict=True):
        assert part.labels == each["label"]
        assert part.members is not None
        np.testing.assert_allclose(part.probabilities, each["probabilities"], rtol=1e-5)
        np.testing.assert_allclose(part.members, each["member_probabilities"], atol=1e-6)
        for name, value in each["uncertainty"].items():
            np.testing.assert_allclose(getattr(part.uncertainty, name), value, rtol=1e-4, atol=1e-6)
        assert part.prediction_sets is not None
        held = [name for name, member in zip(part.classes, part.prediction_sets, strict=True) if member]
        assert {"labels": held, "coverage": part.coverage} == each["prediction_set"]
        assert part.flags.keys() == each["flags"].keys()
        for name, flag in part.flags.items():
            found = vars(flag) | {"score": pytest.approx(float(flag.scores), rel=1e-5)}
            assert {key: found[key] for key in each["flags"][name]} == each["flags"][name]

    last = answer[1:]
    assert (len(last), last.labels.tolist()) == (1, answer.labels[1:].tolist())
    np.testing.assert_array_equal(last.members, answer.members[:, 1:])
    with pytest.raises(TypeError, match="no length"):
        len(answer[0])
    with pytest.raises(IndexError):
        answer[2]


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int32", "int64", "float16", "float32", "float64"])
def test_what_a_later_service_adds_is_left_out(client: httpx.Client, dtype: str) -> None:
    said = client.post("/v1/models/digits/predict?format=safetensors&seed=7", files={"images": PICTURE})
    length = int.from_bytes(said.content[:8], "little")
    metadata = json.loads(said.content[8 : 8 + length])["__metadata__"]
    for name in ("model", "ensemble", "task"):
        metadata[name] = json.dumps(json.loads(metadata[name]) | {"novel": 1})
    flags = json.loads(metadata["flags"])
    metadata["flags"] = json.dumps({name: flag | {"novel": 1} for name, flag in flags.items()})
    later = save(load(said.content) | {"novel": np.ones((1, 3), dtype)}, metadata | {"novel": "{}"})
    with stand_before(client, respond(200, body=later)) as gateway, hyperdraw.Client(gateway.address) as asking:
        answer = asking.predict(PICTURE, model="digits")
    assert isinstance(answer, hyperdraw.Classification)
    np.testing.assert_array_equal(answer.probabilities, load(said.content)["probabilities"])
    assert answer.flags.keys() == flags.keys()


def test_what_a_later_service_adds_to_its_descriptions_is_left_out(ask: Ask, client: httpx.Client) -> None:
    said = client.get("/v1/models").json()
    later = {"novel": 1, **said, "models": [{"novel": 1, **model} for model in said["models"]]}
    with stand_before(client, respond(200, body=json.dumps(later).encode())) as gateway:
        assert [model.name for model in ask(gateway.address, "models").models] == ["digits"]


def test_what_was_not_asked_for_is_none(address: str) -> None:
    with hyperdraw.Client(address) as client:
        answer = client.predict(PICTURE)
        again = client.predict(PICTURE, seed=answer.seed)
    assert isinstance(answer, hyperdraw.Classification)
    assert isinstance(again, hyperdraw.Classification)
    assert (answer.members, answer.prediction_sets, answer.coverage) == (None, None, None)
    np.testing.assert_allclose(answer.probabilities, again.probabilities, rtol=1e-4, atol=1e-6)


def test_pictures_may_be_paths_bytes_files_or_pixels(address: str, tmp_path: Path) -> None:
    path = tmp_path / 'a "picture" ✓.png'
    path.write_bytes(PICTURE)
    pixels = np.asarray(Image.open(path))
    with hyperdraw.Client(address) as client, path.open("rb") as file:
        kinds: list[Picture] = [path, str(path), PICTURE, file, io.BytesIO(PICTURE), pixels, pixels[..., None]]
        together = client.predict(kinds, seed=7)
        assert isinstance(together, hyperdraw.Classification)
        stacked = client.predict(np.stack([pixels[..., None]] * 2), seed=7)
        apart = [client.predict(kind, seed=7) for kind in (path, PICTURE, io.BytesIO(PICTURE), pixels)]
    assert [len(answer) for answer in (together, stacked, *apart)] == [7, 2, 1, 1, 1, 1]
    for answer in (together, stacked, *apart):
        assert isinstance(answer, hyperdraw.Classification)
        for part in answer:
            np.testing.assert_allclose(part.probabilities, together[0].probabilities, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 1), (5, 7, 3), (1, 1, 3)])
def test_png_holds_the_pixels(shape: tuple[int, ...]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    image = Image.open(io.BytesIO(encode_png(pixels)))
    assert image.mode == ("RGB" if shape[-1] == 3 and len(shape) == 3 else "L")
    np.testing.assert_array_equal(np.asarray(image).reshape(shape), pixels)
    np.testing.assert_array_equal(
        np.asarray(Image.open(io.BytesIO(encode_png(pixels[::-1])))).reshape(shape), pixels[::-1]
    )


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ([], "sequence that is not empty"),
        (np.zeros((0, 3)), "sequence that is not empty"),
        (3, "not int"),
        ([PICTURE, [1.0]], "all be pictures"),
        ([[1.0], [1.0, 2.0]], "all be pictures"),
        ([[float("nan")]], "finite"),
        ([1.0, 2.0], r"an array of \[2\]"),
        (np.zeros((3, 8, 8), np.uint8), "give several as a list"),
        (np.zeros((8, 8, 4), np.uint8), "1 or 3"),
        (np.zeros((0, 8), np.uint8), "must be uint8"),
    ],
)
def test_what_is_neither_pictures_nor_numbers(inputs: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        encode_inputs(inputs)


@pytest.fixture(scope="module")
def line_address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A regression by three networks, not calibrated; the service's address."""
    directory = tmp_path_factory.mktemp("checkpoints")
    sampler = DeepEnsembleConfig(networks=3).build(TargetNetwork((2,), (Linear(4), Activation(), Linear(1)))).eval()
    config = CheckpointConfig(
        method=sampler.config,
        target=sampler.target,
        input=VectorSpec(names=("a", "b"), mean=(0.0, 0.0), std=(1.0, 1.0)),
        task=Regression(names=("y",), mean=(5.0,), std=(2.0,), noise_std=(0.5,)),
        training=Training("test", "none", "digits", 0, 0, 0),
    )
    save_checkpoint(directory / "line", config, sampler, "float32")
    with serve(create_app(Settings(checkpoints=directory))) as address:
        yield address


def test_regression(ask: Ask, line_address: str) -> None:
    rows = [[0.5, -1.0], [2.0, 3.0], [0.0, 1.0]]
    answer = ask(line_address, "predict", np.array(rows), members=True)
    said = httpx.post(
        f"{line_address}/v1/models/line/predict", json={"inputs": rows}, params={"seed": answer.seed}
    ).json()
    assert isinstance(answer, hyperdraw.Regression)
    assert (answer.names, answer.flags, answer.members is not None, len(answer)) == (("y",), {}, True, 3)
    for part, each in zip(ask(line_address, "predict", rows, seed=answer.seed), said["predictions"], strict=True):
        for name, value in each["outputs"]["y"].items():
            np.testing.assert_allclose(getattr(part, name), [value], rtol=1e-4)
    with pytest.raises(hyperdraw.HyperdrawError, match="not understood by this model"):
        ask(line_address, "predict", PICTURE)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("count", [None, 3])
def test_sample(ask: Ask, address: str, checkpoint: Checkpoint, tmp_path: Path, dtype: Any, count: int | None) -> None:
    arrays = ask(address, "sample", "digits", seed=7, member=2, count=count, dtype=dtype)
    tensors = ask(address, "sample_tensors", seed=7, member=2, count=count, dtype=dtype, version=checkpoint.version)
    expected = checkpoint.sampler.sample(7, range(2, 2 + (count or 1)))
    assert list(arrays.weights) == list(tensors.weights) == list(expected)
    for name, tensor in expected.items():
        tensor = (tensor if count else tensor[0]).to(getattr(torch, dtype))
        assert tensors.weights[name].dtype == tensor.dtype
        torch.testing.assert_close(tensors.weights[name], tensor, rtol=1e-2, atol=1e-5)
        assert arrays.weights[name].dtype == (np.float16 if dtype == "float16" else np.float32)
        np.testing.assert_array_equal(arrays.weights[name], tensors.weights[name].float())
    path = tmp_path / "net.safetensors"
    ask(address, "download", path, seed=7, member=2, count=count, dtype=dtype)
    for name, tensor in load_file(path).items():
        assert tensor.dtype == tensors.weights[name].dtype
        assert torch.equal(tensor, tensors.weights[name])
    for sample in (arrays, tensors):
        assert (sample.model, sample.version, sample.seed) == ("digits", checkpoint.version, 7)
        assert sample.members == range(2, 2 + (count or 1))
        assert sample.metadata["target"] == checkpoint.config.target.source


def test_fresh_samples_differ_and_can_be_had_again(address: str) -> None:
    with hyperdraw.Client(address) as client:
        first, second = client.sample(), client.sample()
        again = client.sample(seed=first.seed)
    assert first.seed != second.seed
    for name, array in first.weights.items():
        np.testing.assert_array_equal(array, again.weights[name])


@pytest.mark.parametrize("cut", [0, 3, 700, 5000, 30_000])
def test_downloads_that_break_are_resumed(ask: Ask, client: httpx.Client, tmp_path: Path, cut: int) -> None:
    whole = client.get("/v1/models/digits/weights", params={"seed": 7, "count": 50})
    later = [cut * 2, 1] if cut else []
    with stand_before(client, cut, refuse(429, "overloaded", "Retry-After: 0"), *later) as gateway:
        seen: list[tuple[int, int | None]] = []
        path = tmp_path / "net.safetensors"
        path.write_bytes(b"old")
        file = ask(
            gateway.address, "download", path, "digits", seed=7, count=50, progress=lambda *state: seen.append(state)
        )
    assert path.read_bytes() == whole.content
    assert list(tmp_path.iterdir()) == [path]
    assert seen[-1] == (len(whole.content), len(whole.content))
    assert file == hyperdraw.Download(
        path, len(whole.content), "digits", whole.headers["X-Hyperdraw-Version"], 7, range(50)
    )
    asked = [None, cut, cut, cut * 3, cut * 3 + 1] if cut else [None, None, None]
    ranges = [None if start is None else f"bytes={start}-" for start in asked]
    assert gateway.header("Range") == ranges
    assert gateway.header("If-Range") == [text and whole.headers["ETag"] for text in ranges]
    load_file(path)


def test_samples_that_break_are_resumed(ask: Ask, client: httpx.Client, address: str) -> None:
    whole = ask(address, "sample", seed=7, count=50)
    with stand_before(client, 5, 4000, 4000) as gateway:
        resumed = ask(gateway.address, "sample", "digits", seed=7, count=50, options={"retries": 1})
    assert gateway.header("Range") == [None, "bytes=5-", "bytes=4005-", "bytes=8005-"]
    for name, array in whole.weights.items():
        np.testing.assert_array_equal(resumed.weights[name], array)


def test_a_download_begins_again_where_the_networks_are_others_now(
    ask: Ask, client: httpx.Client, tmp_path: Path
) -> None:
    other = save({"a": np.arange(9, dtype=np.float32)})
    identity = ("X-Hyperdraw-Seed: 7", "X-Hyperdraw-Version: other", 'ETag: "other"')
    with stand_before(client, 5000, respond(200, *identity, body=other)) as gateway:
        file = ask(gateway.address, "download", tmp_path / "net", "digits", seed=7, count=50)
    assert (tmp_path / "net").read_bytes() == other
    assert (file.version, file.size) == ("other", len(other))


def test_another_part_than_was_asked_for_is_not_taken(ask: Ask, client: httpx.Client, tmp_path: Path) -> None:
    etag = client.head("/v1/models/digits/weights", params={"seed": 7, "count": 50}).headers["ETag"]
    wrong = respond(206, f"ETag: {etag}", "Content-Range: bytes 0-9/20000", body=b"0123456789")
    with stand_before(client, 5000, wrong) as gateway, pytest.raises(hyperdraw.InvalidAnswer):
        ask(gateway.address, "download", tmp_path / "net", "digits", seed=7, count=50)


def test_a_download_that_fails_leaves_what_was_there(ask: Ask, client: httpx.Client, tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    path.write_bytes(b"old")
    with stand_before(client, 5000, refuse(500)) as gateway, pytest.raises(hyperdraw.ServiceError):
        ask(gateway.address, "download", path, "digits", seed=7, count=50)
    with stand_before(client, 5000, 0, 0, 0) as gateway, pytest.raises(hyperdraw.ConnectionFailed):
        ask(gateway.address, "download", path, "digits", seed=7, count=50, options={"retries": 2})
    assert len(gateway.requests) == 3
    assert (path.read_bytes(), list(tmp_path.iterdir())) == (b"old", [path])
    with (
        stand_before(client, respond(200, "Content-Type: text/html", body=b"<html>")) as gateway,
        pytest.raises(hyperdraw.InvalidAnswer, match="Is the address right"),
    ):
        ask(gateway.address, "download", path, "digits")
    assert (path.read_bytes(), list(tmp_path.iterdir())) == (b"old", [path])
    with pytest.raises(FileNotFoundError):
        ask(gateway.address, "download", tmp_path / "nowhere" / "net")


def test_the_service_is_asked_again_when_it_has_time(ask: Ask, client: httpx.Client) -> None:
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=1.5), usegmt=True)
    script = (
        refuse(503, "closing"),
        refuse(429, "overloaded", "Retry-After: 1"),
        refuse(503, "x", f"Retry-After: {soon}"),
    )
    with stand_before(client, *script, 10) as gateway:
        start = time.monotonic()
        answer = ask(gateway.address, "predict", PICTURE, model="digits", seed=7)
        assert time.monotonic() - start > 1
    assert len(answer) == 1
    left = [float(text or 0) for text in gateway.header("X-Request-Timeout")]
    assert len(left) == 5
    assert left == sorted(left, reverse=True)
    assert 59 < left[0] <= 60
    assert left[0] - left[-1] > 1


def test_what_cannot_wait_is_refused_and_then_answered(ask: Ask, checkpoints: Path) -> None:
    app = create_app(Settings(checkpoints=checkpoints, max_queue=100))
    (checkpoint,) = app.state.catalog
    with serve(app) as address:
        with hold(app.state.engine):
            waiting = app.state.engine.predict(checkpoint, draw_images(checkpoint, 3), None, 30)
            with pytest.raises(hyperdraw.Overloaded) as caught:
                ask(address, "predict", PICTURE, ensemble_size=20, options={"retries": 0})
        assert (caught.value.status, caught.value.code) == (429, "overloaded")
        assert caught.value.retry_after is not None
        assert caught.value.retry_after >= 1
        waiting.result(60)
        assert len(ask(address, "predict", PICTURE, ensemble_size=20)) == 1


def test_retries_are_bounded(ask: Ask, client: httpx.Client) -> None:
    with stand_before(client, *[refuse(503)] * 5) as gateway, pytest.raises(hyperdraw.Overloaded):
        ask(gateway.address, "models", options={"retries": 2})
    assert len(gateway.requests) == 3
    with (
        stand_before(client, refuse(429, "overloaded", "Retry-After: 30")) as gateway,
        pytest.raises(hyperdraw.Overloaded) as caught,
    ):
        ask(gateway.address, "models", timeout=5)
    assert caught.value.retry_after == 30
    assert len(gateway.requests) == 1


@pytest.mark.parametrize("code", ["model_refused", "device_fault"])
def test_what_only_people_can_mend_is_not_waited_for(ask: Ask, client: httpx.Client, code: str) -> None:
    with (
        stand_before(client, refuse(503, code, "Retry-After: 0")) as gateway,
        pytest.raises(hyperdraw.ServiceError) as caught,
    ):
        ask(gateway.address, "predict", PICTURE, model="digits")
    assert len(gateway.requests) == 1
    assert (type(caught.value), caught.value.status, caught.value.code) == (hyperdraw.ServiceError, 503, code)


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


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, hyperdraw.InvalidRequest),
        (401, hyperdraw.Unauthorized),
        (403, hyperdraw.Unauthorized),
        (404, hyperdraw.NotFound),
        (409, hyperdraw.InvalidRequest),
        (500, hyperdraw.ServiceError),
        (502, hyperdraw.ServiceError),
        (504, hyperdraw.DeadlineExceeded),
    ],
)
def test_other_refusals_are_raised_at_once(
    ask: Ask, client: httpx.Client, status: int, kind: type[hyperdraw.HyperdrawError]
) -> None:
    with stand_before(client, refuse(status)) as gateway, pytest.raises(hyperdraw.HyperdrawError) as caught:
        ask(gateway.address, "models")
    assert len(gateway.requests) == 1
    assert type(caught.value) is kind
    assert (caught.value.message, caught.value.hint) == ("It was so.", "Do otherwise.")
    if isinstance(caught.value, hyperdraw.ServiceError):
        assert (caught.value.status, caught.value.code) == (status, "some_code")


def test_the_service_s_own_refusals(ask: Ask, address: str) -> None:
    with pytest.raises(hyperdraw.NotFound, match="no model 'ä b\\?'"):
        ask(address, "model", "ä b?")
    with pytest.raises(hyperdraw.InvalidRequest, match=r"ensemble_size is 5000\. It may be at most 1000\."):
        ask(address, "predict", PICTURE, ensemble_size=5000)
    with pytest.raises(hyperdraw.InvalidRequest, match="at most 8"):
        ask(address, "predict", [PICTURE] * 9)
    with pytest.raises(hyperdraw.NotFound, match="not served"):
        ask(address, "sample", version="0" * 64)


@pytest.mark.parametrize(
    "answer",
    [
        respond(200, body=b"<html>"),
        respond(200, body=b"{}"),
        respond(200, body=b"[]"),
        respond(200, body=b'{"default": "digits", "models": [{}], "refused": []}'),
        respond(302, "Location: http://elsewhere"),
        respond(500, body=b"<html>Internal Server Error"),
        respond(206, "Content-Range: bytes 0-0/5", body=b"x"),
    ],
)
def test_what_no_such_service_says(ask: Ask, client: httpx.Client, answer: bytes) -> None:
    with stand_before(client, answer) as gateway, pytest.raises(hyperdraw.HyperdrawError):
        ask(gateway.address, "models")
    assert len(gateway.requests) == 1


def test_nobody_there(ask: Ask, client: httpx.Client) -> None:
    with stand_before(client) as gateway:
        address = gateway.address
    with pytest.raises(hyperdraw.ConnectionFailed, match=rf"{address} does not answer.*hyperdraw-serve"):
        ask(address, "models", options={"retries": 1})
    assert ask(address, "ready") is False
    with stand_before(client, refuse(503)) as gateway:
        assert ask(gateway.address, "ready") is False


def test_the_service_has_no_answer_in_time(ask: Ask, app: FastAPI, address: str) -> None:
    with hold(app.state.engine), pytest.raises(hyperdraw.DeadlineExceeded, match=r"within 0\.\d+ s"):
        ask(address, "predict", PICTURE, model="digits", timeout=0.2)
    assert len(ask(address, "predict", PICTURE)) == 1


def test_no_answer_in_time(ask: Ask, client: httpx.Client) -> None:
    for timeout in ({"timeout": 0.2}, {"options": {"timeout": 0.2}}):
        with stand_before(client, None) as gateway, pytest.raises(hyperdraw.DeadlineExceeded, match=r"within 0\.2 s"):
            ask(gateway.address, "models", **timeout)
    with stand_before(client, respond(200, body=MODELS)[:-1]) as gateway, pytest.raises(hyperdraw.DeadlineExceeded):
        ask(gateway.address, "download", "unused", timeout=0)


@pytest.mark.parametrize("address", ["127.0.0.1:8000", "ftp://host", "", "http://", "file:///etc"])
@pytest.mark.parametrize("kind", [hyperdraw.Client, hyperdraw.AsyncClient])
def test_what_is_no_address(kind: type, address: str) -> None:
    with pytest.raises(ValueError, match="is no URL"):
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


CONTENT = save(
    {
        "a": np.arange(6, dtype=np.float32).reshape(2, 3),
        "b": np.array([True, False]),
        "c": np.zeros((0, 4), np.float16),
    },
    {"x": "y"},
)


@pytest.mark.parametrize("step", [1, 7, 50, 1000])
def test_tensors_arrive_in_any_pieces(step: int) -> None:
    file = TensorFile()
    file.start(None)
    file.write(CONTENT[: len(CONTENT) // 2])
    file.start(len(CONTENT))
    for offset in range(0, len(CONTENT), step):
        file.write(CONTENT[offset : offset + step])
    file.finish()
    arrays = file.arrays()
    assert file.metadata == {"x": "y"}
    for name, array in load(CONTENT).items():
        np.testing.assert_array_equal(arrays[name], array)


def forge(header: Any, data: bytes = bytes(8)) -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"<html><body>",
        CONTENT[:-1],
        CONTENT + b"x",
        CONTENT[:20],
        bytes(8),
        forge([]),
        forge({"a": 3}),
        forge({"a": {}}),
        forge({"a": {"dtype": "F128", "shape": [1], "data_offsets": [0, 16]}}, bytes(16)),
        forge({"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}}),
        forge({"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}),
        forge({"a": {"dtype": "F32", "shape": [-1, -2], "data_offsets": [0, 8]}}),
        forge({"a": {"dtype": "F32", "shape": [10**15], "data_offsets": [0, 4 * 10**15]}}),
        forge({"a": {"dtype": "F32", "shape": ["x"], "data_offsets": ["x", 8]}}),
    ],
)
def test_what_is_no_file_of_tensors(content: bytes) -> None:
    file = TensorFile()
    file.start(len(content))
    with pytest.raises(hyperdraw.InvalidAnswer):  # noqa: PT012 (either call may find out)
        file.write(content)
        file.finish()


class TestCommandLine:
    """`hyperdraw`."""

    PICTURE: ClassVar[str] = str(EXAMPLES / "seven.png")

    def run(self, *arguments: str, code: int = 0, **environment: str) -> str:
        """What it prints."""
        result = CliRunner().invoke(command_line, arguments, env={"HYPERDRAW_URL": None, **environment})
        assert result.exit_code == code, result.output
        assert code or not result.stderr
        return result.stderr if code else result.stdout

    def test_predict_draws_uncertainty(self, address: str) -> None:
        arguments = ["--url", address, "--seed", "7", "--ensemble-size", "20", "--coverage", "0.8"]
        text = self.run("predict", self.PICTURE, str(EXAMPLES / "house.png"), *arguments)
        first, second, legend = text.split("\n\n")
        with hyperdraw.Client(address) as client:
            answer = client.predict([self.PICTURE, EXAMPLES / "house.png"], seed=7, ensemble_size=20, members=True)
        assert isinstance(answer, hyperdraw.Classification)
        for shown, part in zip((first, second), answer, strict=True):
            assert part.members is not None
            lines = shown.splitlines()
            assert lines[0].endswith(f"→  {part.labels}")
            rows = lines[2:12]
            votes = np.bincount(part.members.argmax(-1), minlength=10)
            low, high = np.quantile(part.members, (0.05, 0.95), axis=0)
            for k, row in enumerate(rows):
                *_, share, band, count = row.split()
                assert row.startswith(str(k))
                assert (share, int(count)) == (f"{part.probabilities[k]:.1%}", votes[k])
                assert band == f"{low[k]:.1%}–{high[k]:.1%}"
                filled = sum(row.count(character) for character in "█▓")
                assert filled == round(float(part.probabilities[k]) * 32)
            assert f"{part.uncertainty.mutual_information:.3g} epistemic" in shown
            assert "prediction set (coverage 0.8): " in shown
            flag = part.flags["out_of_distribution"]
            assert ("not out of distribution" in shown) != flag.flagged
            assert f"{flag.scores:.3g} {'>' if flag.flagged else '≤'} {flag.threshold:.3g}" in shown
        assert "20 networks of digits, seed 7" in legend
        assert "quantile, before the temperature" in legend
        assert "\x1b" not in text  # is no terminal
        assert max(map(len, text.splitlines())) <= 80

    def test_one_network_shows_no_disagreement(self, address: str) -> None:
        text = self.run("predict", self.PICTURE, "--url", address, "--seed", "7", "--ensemble-size", "1")
        shown, legend = text.split("\n\n")
        assert shown.splitlines()[1].split() == ["probability"]
        assert "░" not in shown.partition("uncertainty")[0]
        assert "1 network of digits, seed 7" in legend
        assert "nobody to disagree with" in legend

    def test_json_is_for_machines(self, address: str) -> None:
        house = str(EXAMPLES / "house.png")
        arguments = ["predict", self.PICTURE, house, "--json", "--seed", "7", "--coverage", "0.8"]
        shown = json.loads(self.run(*arguments, HYPERDRAW_URL=address))
        with hyperdraw.Client(address) as client:
            answer = client.predict([self.PICTURE, house], seed=7, coverage=0.8)
        assert isinstance(answer, hyperdraw.Classification)
        assert answer.prediction_sets is not None
        assert (shown["inputs"], shown["seed"]) == ([self.PICTURE, house], 7)
        assert (shown["labels"], shown["class_indices"]) == (answer.labels.tolist(), answer.class_indices.tolist())
        np.testing.assert_allclose(shown["probabilities"], answer.probabilities, rtol=1e-4, atol=1e-6)
        assert shown["prediction_sets"] == answer.prediction_sets.tolist()
        flag = shown["flags"]["out_of_distribution"]
        assert flag["flagged"] == answer.flags["out_of_distribution"].flagged.tolist()

    def test_sample_writes_a_file(self, address: str, client: httpx.Client, tmp_path: Path) -> None:
        out = str(tmp_path / "net.safetensors")
        result = CliRunner().invoke(
            command_line,
            [
                "sample",
                "--url",
                address,
                "--out",
                out,
                "--seed",
                "7",
                "--member",
                "2",
                "--count",
                "3",
                "--dtype",
                "float16",
            ],
        )
        parameters: dict[str, Any] = {"seed": 7, "member": 2, "count": 3, "dtype": "float16"}
        assert Path(out).read_bytes() == client.get("/v1/models/digits/weights", params=parameters).content
        assert f"Wrote {out}: members 2 to 4 of seed 7, digits at version" in result.stdout

    @pytest.mark.parametrize("width", ["80", "20"])
    def test_names_of_models_are_never_cut(self, address: str, width: str) -> None:
        assert re.search(r"^digits +", self.run("models", "--url", address, COLUMNS=width), re.M)

    def test_models_are_listed(self, address: str) -> None:
        assert re.search(r"digits +hypergan +fresh draws +1 × 8 × 8 +10 classes", self.run("models", "--url", address))

    def test_reload_says_whether_it_changed(self, address: str) -> None:
        assert "digits still is at version" in self.run("reload", "digits", "--url", address)

    def test_numbers_are_listed_and_models_of_them_refuse_pictures(self, line_address: str) -> None:
        assert re.search(r"line +deep_ensemble +3 +a, b +y", self.run("models", "--url", line_address))
        assert "takes numbers" in self.run("predict", self.PICTURE, "--url", line_address, code=1)

    def test_numbers_are_predicted_from_numbers(self, line_address: str) -> None:
        with hyperdraw.Client(line_address) as client:
            answer = client.predict([[0.5, -1.0], [-2.0, 3.0]], seed=7)
        assert isinstance(answer, hyperdraw.Regression)
        arguments = ["predict", "--numbers", "0.5,-1", "--numbers", "-2,3", "--seed", "7", "--url", line_address]
        first, second, legend = self.run(*arguments).split("\n\n")
        for shown, name, part in zip((first, second), ("0.5,-1", "-2,3"), answer, strict=True):
            lines = shown.splitlines()
            assert lines[:2] == [name, f"y = {part.mean[0]:.4g} ± {part.standard_deviation[0]:.4g}"]
            assert f"{part.noise_variance[0]:.3g} aleatoric" in lines[2]
            assert f"{part.epistemic_variance[0]:.3g} epistemic" in lines[2]
        assert "3 networks of line, seed 7" in legend
        shown = json.loads(self.run(*arguments, "--json"))
        np.testing.assert_allclose(shown["standard_deviation"], answer.standard_deviation, rtol=1e-4)

    def test_the_terminal_is_not_steered_by_names(
        self, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)  # a long path is broken over lines
        path = Path("\x1b[31m[bold]x.png")
        path.write_bytes(PICTURE)
        assert "�[31m[bold]x.png" in self.run("predict", str(path), "--url", address)

    @pytest.mark.parametrize(
        ("arguments", "code", "message"),
        [
            (["predict", "nowhere.png"], 1, "No such file or directory: 'nowhere.png'"),
            (["predict", PICTURE, "--ensemble-size", "5000"], 1, "ensemble_size is 5000. It may be at most 1000."),
            (["predict", PICTURE, "--model", "other"], 1, "no model 'other'"),
            (["predict", PICTURE, "--url", "http://127.0.0.1:9"], 1, "http://127.0.0.1:9 does not answer"),
            (["sample", "--out", "nowhere/net"], 1, "No such file or directory"),
            (["sample", "--out", "net", "--version", "0"], 2, "No such option"),
            (["predict", PICTURE, "--url", "ftp://host"], 2, "ftp://host is no URL"),
            (["predict", PICTURE, "--seed", "-1"], 2, "--seed"),
            (["predict"], 2, "either images, or --numbers"),
            (["predict", PICTURE, "--numbers", "1,2"], 2, "either images, or --numbers"),
            (["predict", "--numbers", "1,x"], 2, "no row of numbers"),
            (["predict", "--numbers", "nan"], 2, "finite numbers"),
            (["predict", "--numbers", "1", "--numbers", "1,2"], 2, "rows of as many numbers"),
            (["predict", "--numbers", "1,2"], 1, "images: Field required"),
            (["predict", PICTURE, "--api-key", "secret "], 2, "API key must be"),
            (["paint"], 2, "No such command"),
        ],
    )
    def test_mistakes_are_explained(self, address: str, arguments: list[str], code: int, message: str) -> None:
        text = self.run(*arguments, code=code, HYPERDRAW_URL=address)
        assert message in text
        assert "Traceback" not in text
        if code == 1:
            assert text.startswith("Error: ")
            assert text.count("\n") == 1
        if "does not answer" in message:
            assert "hyperdraw-serve" in text
