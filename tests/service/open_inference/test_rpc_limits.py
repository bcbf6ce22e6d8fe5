"""What gRPC refuses, and when calls end."""

import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi import FastAPI
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException

from service.__main__ import serve as serve_settings
from service.app import create_app
from service.catalog import ConfigurationError
from service.errors import ServiceError
from service.settings import Settings
from tests.engine import await_idle, hold
from tests.keys import write_keys
from tests.rpcs import MESSAGES, SERVICE, call, give, grpc, make_request, read_request, serve, stream, triton
from tests.waiting import PATIENCE, wait_until

StatusCode = grpc.StatusCode
Request = MESSAGES["ModelInferRequest"]
SHUTTING_DOWN = "The service is shutting down. Ask another instance, or try again later."


@pytest.fixture(scope="module")
def rpc_app(checkpoints: Path) -> FastAPI:
    """An app that takes little, and has little patience with messages."""
    limits: dict[str, Any] = {"max_body_bytes": 2**20, "max_inputs": 8, "body_timeout": 0.3, "keep_alive": 1}
    return create_app(Settings(checkpoints=checkpoints, **limits))


def refuse(address: str, message: Any, procedure: str = "ModelInfer", **metadata: str) -> tuple[Any, str]:
    """The code and the text with which a call is refused."""
    with pytest.raises(grpc.RpcError) as caught:
        call(address, message, procedure, **metadata)
    return caught.value.code(), caught.value.details()


@pytest.mark.parametrize(
    ("code", "model", "others"),
    [
        ("NOT_FOUND", "bert", {}),
        ("NOT_FOUND", "digits", {"model_version": "1"}),
        ("INVALID_ARGUMENT", "digits", {"parameters": {"speed": {"int64_param": 9}}}),
        ("INVALID_ARGUMENT", "digits", {"parameters": {"seed": {"int64_param": -1}}}),
        ("INVALID_ARGUMENT", "digits", {"parameters": {"seed": {"bool_param": True}}}),
        ("INVALID_ARGUMENT", "digits", {"parameters": {"ensemble_size": {"uint64_param": 10**6}}}),
        ("INVALID_ARGUMENT", "digits", {"parameters": {"ensemble_size": {"string_param": "auto"}}}),
        ("INVALID_ARGUMENT", "digits", {"outputs": [{"name": "colour"}]}),
        ("INVALID_ARGUMENT", "digits", {"raw_input_contents": [b"123"]}),
        ("INVALID_ARGUMENT", "digits", {"inputs": [{"name": "images", "datatype": "INT32", "shape": [1, 1, 8, 8]}]}),
        ("INVALID_ARGUMENT", "digits", {"inputs": [{"name": "images", "datatype": "UINT8", "shape": [9, 1, 8, 8]}]}),
        ("DEADLINE_EXCEEDED", "digits", {"parameters": {"timeout": {"int64_param": 1}}}),
    ],
)
def test_errors_are_those_of_the_rest_form(
    rpc_app: FastAPI, addresses: tuple[str, str], code: str, model: str, others: dict[str, Any]
) -> None:
    image = {"name": "images", "datatype": "UINT8", "shape": [1, 1, 8, 8]}
    given: dict[str, Any] = {"inputs": [image], "raw_input_contents": [bytes(64)], "model_version": "", **others}
    parameters = {name: value for name, choice in given.get("parameters", {}).items() for value in choice.values()}
    tensor = {**given["inputs"][0], "parameters": {"binary_data_size": len(given["raw_input_contents"][0])}}
    body = {"inputs": [tensor], "outputs": given.get("outputs", []), "parameters": parameters}
    version = f"/versions/{given['model_version']}" if given["model_version"] else ""
    files = httpx.Request("POST", "http://test", json=body).content
    with hold(rpc_app.state.engine):  # so that nothing is answered in time
        answer = httpx.post(
            f"{addresses[0]}/v2/models/{model}{version}/infer",
            content=files + given["raw_input_contents"][0],
            headers={"Inference-Header-Content-Length": str(len(files))},
        )
        assert answer.is_error
        assert refuse(addresses[1], Request(model_name=model, **given)) == (StatusCode[code], answer.json()["error"])


@pytest.mark.parametrize("name", ["", "stats", "digits/config", "digits/versions/1", "../health/live"])
def test_names_are_no_paths(address: str, name: str) -> None:
    code, text = refuse(address, MESSAGES["ModelMetadataRequest"](name=name), "ModelMetadata")
    assert code == StatusCode.NOT_FOUND
    assert "There is no model" in text
    assert not call(address, MESSAGES["ModelReadyRequest"](name=name), "ModelReady").ready


def test_versions_are_no_paths(address: str) -> None:
    request = MESSAGES["ModelMetadataRequest"](name="digits", version="1/ready")
    assert refuse(address, request, "ModelMetadata")[0] == StatusCode.NOT_FOUND


IMAGE = {"name": "images", "datatype": "UINT8", "shape": [1, 1, 8, 8]}


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (b"\x0f", "not a valid ModelInferRequest"),
        (Request(inputs=[IMAGE], raw_input_contents=[b"", b""]), "2 raw contents for 1 inputs"),
        (
            Request(inputs=[{**IMAGE, "contents": {"uint_contents": [1]}}], raw_input_contents=[b"1"]),
            "contents as well",
        ),
        (Request(inputs=[{**IMAGE, "contents": {"uint_contents": [300]}}]), "300 out of bounds for uint8"),
        (
            Request(model_name="digits", inputs=[{**IMAGE, "contents": {"bool_contents": [True]}}]),
            "The data has 0 bytes",
        ),
        (b"\x2a\x00" * 1001, "more than 1000 inputs, raw contents and outputs"),
        (b"\x32\x00" * 1001, "more than 1000 inputs, raw contents and outputs"),
        (b"\x3a\x00" * 1001, "more than 1000 inputs, raw contents and outputs"),
        (Request(inputs=[{"shape": [1] * 2**19}]), "more than 262144 bytes without the contents"),
        (Request(parameters={f"{k:06}": {"bool_param": True} for k in range(2**15)}), "more than 262144 bytes without"),
    ],
)
def test_messages_that_say_nothing_of_use(address: str, message: Any, text: str) -> None:
    code, details = refuse(address, message)
    assert code == StatusCode.INVALID_ARGUMENT
    assert text in details


def test_many_elements_must_be_raw() -> None:
    request = Request(inputs=[{**IMAGE, "contents": {"uint_contents": bytes(2**20 + 1)}}])
    with pytest.raises(ServiceError, match="1048577 elements are too many; send them in raw contents"):
        read_request("ModelInfer", request.SerializeToString())


@pytest.mark.parametrize("compression", ["NoCompression", "Gzip"])
def test_messages_may_only_be_so_large(address: str, compression: str) -> None:
    how = grpc.Compression[compression]
    with grpc.insecure_channel(address) as channel, pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(f"/{SERVICE}/ModelInfer")(bytes(2**24), PATIENCE, compression=how)
    assert caught.value.code() == StatusCode.RESOURCE_EXHAUSTED
    assert "larger than max" in caught.value.details()


@pytest.mark.parametrize(("procedure", "seconds"), [("ModelInfer", "0.3"), ("ModelStreamInfer", "1")])
def test_clients_must_not_be_slow(address: str, procedure: str, seconds: str) -> None:
    silent = threading.Event()
    with grpc.insecure_channel(address) as channel, pytest.raises(grpc.RpcError) as caught:
        next(channel.stream_stream(f"/{SERVICE}/{procedure}")(iter(silent.wait, True), PATIENCE))
    silent.set()
    assert caught.value.code() == StatusCode.DEADLINE_EXCEEDED
    assert caught.value.details() == f"No message had arrived after {seconds} s."


def test_only_so_many_calls_and_connections_are_open(checkpoints: Path, pixels: NDArray[np.uint8]) -> None:
    app, silent = create_app(Settings(checkpoints=checkpoints, max_connections=1)), threading.Event()

    def ask_once() -> Iterator[bytes]:
        yield make_request(pixels[:1]).SerializeToString()
        silent.wait()

    own = [("grpc.use_local_subchannel_pool", 1)]  # or both channels would share a connection
    with (
        serve(app) as (_, _, address),
        grpc.insecure_channel(address) as first,
        grpc.insecure_channel(address, own) as second,
    ):
        held = first.stream_stream(f"/{SERVICE}/ModelStreamInfer")(ask_once())
        next(held)  # so that the server knows of it

        def is_refused(channel: Any, code: Any) -> bool:
            try:
                return not channel.unary_unary(f"/{SERVICE}/ServerLive")(b"", PATIENCE)
            except grpc.RpcError as error:
                return bool(error.code() == code)

        assert is_refused(first, StatusCode.RESOURCE_EXHAUSTED)
        assert is_refused(second, StatusCode.UNAVAILABLE)
        assert held.is_active()
        silent.set()


@pytest.mark.parametrize("ending", ["cancel", "deadline"])
def test_work_is_dropped_when_a_client_leaves(rpc_app: FastAPI, addresses: tuple[str, str], ending: str) -> None:
    engine = rpc_app.state.engine

    def count() -> int:
        line = f'hyperdraw_cancelled_requests_total{{route="/{SERVICE}/ModelInfer"}} '
        found = [row for row in httpx.get(f"{addresses[0]}/metrics").text.splitlines() if row.startswith(line)]
        return int(float(found[0].split()[1])) if found else 0

    before = count()
    request = make_request(np.zeros((1, 1, 8, 8), np.uint8)).SerializeToString()
    with hold(engine), grpc.insecure_channel(addresses[1]) as channel:
        ask = channel.unary_unary(f"/{SERVICE}/ModelInfer").future
        asked = ask(request, 0.3 if ending == "deadline" else PATIENCE)
        wait_until(lambda: engine.admission.amount > 0)
        if ending == "cancel":
            asked.cancel()
        await_idle(engine)
    wait_until(lambda: count() == before + 1)


def test_a_full_queue_is_told(rpc_app: FastAPI, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = rpc_app.state.engine
    monkeypatch.setattr(engine.admission, "limit", 100)
    image = make_request(np.zeros((1, 1, 8, 8), np.uint8))
    with ThreadPoolExecutor(1) as pool, hold(engine):
        first = pool.submit(call, address, image)
        wait_until(lambda: engine.admission.amount > 0)
        with pytest.raises(grpc.RpcError) as caught:
            call(address, image)
    first.result(PATIENCE)
    assert caught.value.code() == StatusCode.RESOURCE_EXHAUSTED
    assert int(dict(caught.value.trailing_metadata())["retry-after"]) > 0


@pytest.fixture(scope="module")
def guarded(checkpoints: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, dict[str, str]]]:
    """The address of a service with keys, and the keys; that of bob may ask once a day."""
    path = tmp_path_factory.mktemp("keys") / "keys.toml"
    keys = write_keys(path, reader=["weights"], alice=["predict"], bob=["predict"])
    path.write_text(path.read_text() + 'requests = "1/day"\n')
    with serve(create_app(Settings(checkpoints=checkpoints, keys=path))) as (_, _, address):
        yield address, {name: f"Bearer {key}" for name, key in keys.items()}


def test_keys_are_those_of_http(guarded: tuple[str, dict[str, str]], pixels: NDArray[np.uint8]) -> None:
    address, keys = guarded
    request = make_request(pixels)
    assert call(address, b"", "ServerReady").ready
    assert refuse(address, request) == (
        StatusCode.UNAUTHENTICATED,
        "An API key is required. Send a key as the header Authorization: Bearer KEY.",
    )
    assert refuse(address, request, authorization="Bearer guess")[0] == StatusCode.UNAUTHENTICATED
    assert refuse(address, b"", "ModelConfig")[0] == StatusCode.UNAUTHENTICATED
    assert refuse(address, request, authorization=keys["reader"])[0] == StatusCode.PERMISSION_DENIED
    load = MESSAGES["RepositoryModelLoadRequest"](model_name="digits")
    assert refuse(address, load, "RepositoryModelLoad", authorization=keys["alice"])[0] == StatusCode.PERMISSION_DENIED
    assert call(address, request, authorization=keys["alice"]).outputs


def test_strangers_are_not_listened_to(guarded: tuple[str, dict[str, str]]) -> None:
    """They are refused before they have sent a message."""
    silent = threading.Event()
    for procedure in ("ModelInfer", "ModelStreamInfer"):
        with grpc.insecure_channel(guarded[0]) as channel, pytest.raises(grpc.RpcError) as caught:
            next(channel.stream_stream(f"/{SERVICE}/{procedure}")(iter(silent.wait, True), PATIENCE))
        assert caught.value.code() == StatusCode.UNAUTHENTICATED
    silent.set()


def test_quotas_are_those_of_http(guarded: tuple[str, dict[str, str]], pixels: NDArray[np.uint8]) -> None:
    address, keys = guarded
    tensor, headers = give(pixels), {"authorization": keys["bob"]}
    (first, _), (_, second) = stream(address, [("digits", tensor, {}), ("digits", tensor, {})], headers)
    assert first.as_numpy("label") is not None
    used = "Key 'bob' may use 1 requests per day, and none is left."
    assert second.message().startswith(used)
    code, text = refuse(address, make_request(pixels), authorization=keys["bob"])
    assert code == StatusCode.RESOURCE_EXHAUSTED
    assert text.startswith(used)


def test_a_server_that_stops_finishes_calls_and_ends_streams(checkpoints: Path, pixels: NDArray[np.uint8]) -> None:
    app = create_app(Settings(checkpoints=checkpoints))
    image, tensor = make_request(pixels[:1]), give(pixels[:1])
    got: list[Any] = []
    with (
        ThreadPoolExecutor(1) as pool,
        serve(app) as (server, _, address),
        triton.InferenceServerClient(address) as client,
    ):
        client.start_stream(lambda result, error: got.append(error or result))
        client.async_stream_infer("digits", [tensor])
        wait_until(lambda: len(got) == 1)
        app.state.draining = True
        assert not client.is_server_ready()
        assert not client.is_model_ready("digits")
        with hold(app.state.engine):
            asked = pool.submit(call, address, image)
            wait_until(lambda: app.state.engine.admission.amount > 0)
            server.should_exit = True

            def is_closed() -> bool:
                try:
                    return not call(address, b"", "ServerLive")
                except grpc.RpcError as error:
                    return bool(error.code() == StatusCode.UNAVAILABLE)

            wait_until(is_closed)
        assert asked.result(PATIENCE).outputs
        wait_until(lambda: len(got) == 2)
    assert isinstance(got[0], triton.InferResult)
    assert isinstance(got[1], InferenceServerException)
    assert got[1].message() == SHUTTING_DOWN


def test_a_call_that_lasts_too_long_at_the_end_is_told_so(checkpoints: Path, pixels: NDArray[np.uint8]) -> None:
    app = create_app(Settings(checkpoints=checkpoints, drain_timeout=1))
    with ThreadPoolExecutor(1) as pool, serve(app) as (server, _, address), hold(app.state.engine):
        asked = pool.submit(refuse, address, make_request(pixels))
        wait_until(lambda: app.state.engine.admission.amount > 0)
        server.should_exit = True
        assert asked.result(PATIENCE) == (StatusCode.UNAVAILABLE, SHUTTING_DOWN)


def test_grpc_needs_its_extra(checkpoints: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "service.open_inference.rpcs")
    monkeypatch.setitem(sys.modules, "grpc", None)
    with pytest.raises(ConfigurationError, match=r"hyperdraw-server\[grpc\]"):
        serve_settings(Settings(checkpoints=checkpoints, port=0, grpc_port=0))
