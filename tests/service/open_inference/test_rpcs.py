"""The Open Inference Protocol over gRPC, by the client that Triton's users have."""

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi import FastAPI
from numpy.typing import NDArray
from tritonclient.http import InferenceServerClient
from tritonclient.http import InferRequestedOutput as HttpOutput
from tritonclient.utils import InferenceServerException

from models.checkpoint import Checkpoint
from service.app import create_app
from service.settings import Settings
from tests import ROOT
from tests.rpcs import MESSAGES, SERVICE, call, give, grpc, make_request, read_array, stream, triton
from tests.tensors import PICTURES
from tests.tensors import give as give_http

FILES = np.array(PICTURES, dtype=object)


@pytest.fixture(scope="module")
def rpc_app(checkpoints: Path) -> FastAPI:
    return create_app(Settings(checkpoints=checkpoints, max_body_bytes=2**20, max_inputs=8))


@pytest.fixture
def http(addresses: tuple[str, str]) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=addresses[0]) as client:
        yield client


@pytest.fixture
def rest(addresses: tuple[str, str]) -> Iterator[InferenceServerClient]:
    """Triton's client for the REST form."""
    with InferenceServerClient(addresses[0].removeprefix("http://")) as client:
        yield client


@pytest.fixture
def rpcs(address: str) -> Iterator[Any]:
    """Triton's client for gRPC."""
    with triton.InferenceServerClient(address) as client:
        yield client


def compare(array: NDArray[Any], expected: NDArray[Any]) -> None:
    """Requests with the same seed may be computed in other blocks, which round differently."""
    if expected.dtype.kind == "f":
        np.testing.assert_allclose(array, expected, rtol=1e-4, atol=1e-6, strict=True)
    else:
        np.testing.assert_array_equal(array, expected, strict=True)


def test_messages_are_those_of_tritons_client() -> None:
    from tritonclient.grpc import model_config_pb2, service_pb2

    theirs = {**service_pb2.DESCRIPTOR.message_types_by_name, **model_config_pb2.DESCRIPTOR.message_types_by_name}
    compared = []

    def compare_kinds(own: Any, other: Any) -> None:
        for field in own.fields:
            like = other.fields_by_name[field.name]
            assert (field.number, field.type, field.is_repeated) == (like.number, like.type, like.is_repeated)
            assert (field.containing_oneof is None) == (like.containing_oneof is None)
            if field.enum_type:
                numbers = {value.name: value.number for value in like.enum_type.values}
                assert {value.name: value.number for value in field.enum_type.values}.items() <= numbers.items()
            compared.append(field.full_name)
        for kind in own.nested_types:
            compare_kinds(kind, other.nested_types_by_name[kind.name])

    for name, kind in MESSAGES.items():
        if name != "ModelInferOutline":
            compare_kinds(kind.DESCRIPTOR, theirs[name])
    assert len(compared) > 80
    outline = MESSAGES["ModelInferOutline"].DESCRIPTOR.fields
    numbers = theirs["ModelInferRequest"].fields_by_name
    assert [(field.name, field.number) for field in outline] == [
        (name, numbers[name].number) for name in ("inputs", "outputs", "raw_input_contents")
    ]


def test_the_compiled_protocol_is_current() -> None:
    """It has the names and numbers of the text. `make proto` compiles it."""
    text = re.sub("//.*", "", (ROOT / "service/open_inference/inference.proto").read_text())
    descriptor = MESSAGES["ModelInferRequest"].DESCRIPTOR.file

    def list_numbers(kind: Any) -> Iterator[tuple[str, int]]:
        yield from ((field.name, field.number) for field in kind.fields)
        for nested in kind.nested_types:
            if not nested.GetOptions().map_entry:
                yield from list_numbers(nested)

    compiled = [pair for kind in descriptor.message_types_by_name.values() for pair in list_numbers(kind)]
    compiled += [(v.name, v.number) for kind in descriptor.enum_types_by_name.values() for v in kind.values]
    written = [(name, int(number)) for name, number in re.findall(r"(\w+) = (\d+);", text)]
    assert sorted(compiled) == sorted(written)
    assert re.findall(r"rpc (\w+)\(", text) == list(descriptor.services_by_name["GRPCInferenceService"].methods_by_name)


def test_server_and_models_tell_what_they_are(rpcs: Any, rest: InferenceServerClient, checkpoint: Checkpoint) -> None:
    assert rpcs.is_server_live()
    assert rpcs.is_server_ready()
    assert rpcs.is_model_ready("digits", checkpoint.version)
    assert not rpcs.is_model_ready("digits", "1")
    assert not rpcs.is_model_ready("bert")
    assert rpcs.get_server_metadata(as_json=True) == rest.get_server_metadata()
    model = rpcs.get_model_metadata("digits")
    expected = rest.get_model_metadata("digits")
    assert (model.name, list(model.versions), model.platform) == ("digits", [checkpoint.version], expected["platform"])
    for tensors, described in ((model.inputs, expected["inputs"]), (model.outputs, expected["outputs"])):
        assert [{"name": t.name, "datatype": t.datatype, "shape": list(t.shape)} for t in tensors] == described
    assert rpcs.get_model_metadata("digits", checkpoint.version) == model
    config = rpcs.get_model_config("digits").config
    assert (config.name, config.max_batch_size) == ("digits", 8)
    assert [(t.name, t.data_type, list(t.dims), t.optional) for t in config.input] == [
        ("images", 2, [1, 8, 8], True),
        ("encoded_images", 13, [], True),
    ]
    assert (config.output[0].name, config.output[0].data_type, list(config.output[0].dims)) == (
        "probabilities",
        11,
        [10],
    )
    (entry,) = rpcs.get_model_repository_index().models
    assert (entry.name, entry.version, entry.state) == ("digits", checkpoint.version, "READY")
    rpcs.load_model("digits")
    with pytest.raises(InferenceServerException, match="UNIMPLEMENTED"):
        rpcs.unload_model("digits")


def test_answers_are_those_of_the_rest_form(rpcs: Any, rest: InferenceServerClient, pixels: NDArray[np.uint8]) -> None:
    asked = {"seed": 7, "ensemble_size": 20, "false_alarm_rate": 0.1, "coverage": 0.9}
    expected = rest.infer("digits", [give_http(pixels)], parameters=asked, request_id="7")
    got = rpcs.infer("digits", [give(pixels)], parameters=asked, request_id="7")
    answer, response = expected.get_response(), got.get_response()
    assert (response.id, response.model_name, response.model_version) == ("7", "digits", answer["model_version"])
    assert [output.name for output in response.outputs] == [output["name"] for output in answer["outputs"]]
    for output in answer["outputs"]:
        assert got.get_output(output["name"]).datatype == output["datatype"]
        compare(got.as_numpy(output["name"]), expected.as_numpy(output["name"]))
    parameters = {n: getattr(p, p.WhichOneof("parameter_choice")) for n, p in response.parameters.items()}
    assert parameters == answer["parameters"]


@pytest.mark.parametrize("compression", [None, "gzip", "deflate"])
def test_files_and_outputs_are_chosen(rpcs: Any, rest: InferenceServerClient, compression: str | None) -> None:
    names, asked = ["label", "members", "out_of_distribution"], {"seed": 3, "ensemble_size": 12}
    outputs = [triton.InferRequestedOutput(name) for name in names]
    best = triton.InferRequestedOutput("probabilities", class_count=2)
    got = rpcs.infer(
        "digits",
        [give(FILES, "encoded_images")],
        outputs=[*outputs, best],
        parameters=asked,
        compression_algorithm=compression,
        timeout=60_000_000,
    )
    wanted = [*(HttpOutput(name) for name in names), HttpOutput("probabilities", class_count=2)]
    expected = rest.infer("digits", [give_http(FILES, "encoded_images")], outputs=wanted, parameters=asked)
    for name in (*names, "probabilities"):
        compare(got.as_numpy(name), expected.as_numpy(name))
    assert got.as_numpy("members").shape == (len(PICTURES), 12, 10)


def test_elements_may_be_in_the_field_of_their_type(rpcs: Any, address: str, pixels: NDArray[np.uint8]) -> None:
    for array, name in ((pixels, "images"), (FILES, "encoded_images")):
        expected = rpcs.infer("digits", [give(array, name)], parameters={"seed": 7})
        response = call(address, make_request(array, name, parameters={"seed": {"int64_param": 7}}))
        for name in ("probabilities", "label"):
            compare(read_array(response, name), expected.as_numpy(name))


def test_aio(address: str, pixels: NDArray[np.uint8]) -> None:
    from tritonclient.grpc.aio import InferenceServerClient

    async def ask() -> None:
        async with InferenceServerClient(address) as client:
            assert await client.is_server_ready()
            results = await asyncio.gather(
                *[client.infer("digits", [give(pixels)], parameters={"seed": s}) for s in (1, 1)]
            )
            compare(*[result.as_numpy("probabilities") for result in results])

    asyncio.run(ask())


def test_a_stream_is_answered_in_its_order(address: str, rpcs: Any, pixels: NDArray[np.uint8]) -> None:
    tensor = give(pixels)
    asked = [("digits", tensor, {"seed": seed}) for seed in range(4)]
    asked[2:2] = [("bert", tensor, {}), ("digits", tensor, {"speed": 1})]
    got = stream(address, asked)
    assert [result and result.get_response().id for result, _ in got] == ["0", "1", None, None, "4", "5"]
    for seed, (result, _) in enumerate(pair for pair in got if pair[0]):
        expected = rpcs.infer("digits", [tensor], parameters={"seed": seed}).as_numpy("probabilities")
        compare(result.as_numpy("probabilities"), expected)
    for (_, error), parameters, model in ((got[2], {}, "bert"), (got[3], {"speed": 1}, "digits")):
        with pytest.raises(InferenceServerException) as caught:
            rpcs.infer(model, [tensor], parameters=parameters)
        assert error.message() == caught.value.message()


def test_calls_are_counted_and_have_an_id(
    http: httpx.Client, rpcs: Any, address: str, pixels: NDArray[np.uint8]
) -> None:
    def count(status: int) -> float:
        labels = f'{{route="/{SERVICE}/ModelInfer",status="{status}"}}'
        found = re.search(rf"^hyperdraw_requests_total{re.escape(labels)} (\S+)$", http.get("/metrics").text, re.M)
        return float(found[1]) if found else 0.0

    before, inferred = [count(200), count(404)], rpcs.get_inference_statistics("digits").model_stats[0].inference_count
    with grpc.insecure_channel(address) as channel:
        ask = channel.unary_unary(f"/{SERVICE}/ModelInfer")
        _, answered = ask.with_call(make_request(pixels).SerializeToString(), metadata=(("x-request-id", "mine"),))
        with pytest.raises(grpc.RpcError) as caught:
            ask(MESSAGES["ModelInferRequest"](model_name="bert").SerializeToString())
    assert dict(answered.trailing_metadata()) == {"x-request-id": "mine"}
    assert re.fullmatch("[0-9a-f]{32}", dict(caught.value.trailing_metadata())["x-request-id"])
    assert [count(200), count(404)] == [before[0] + 1, before[1] + 1]
    assert rpcs.get_inference_statistics().model_stats[0].inference_count == inferred + len(pixels)
