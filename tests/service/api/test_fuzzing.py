"""Requests that nobody would write: by the description of the API, of broken images and tensors, with odd headers."""

import io
import json
import re
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
import schemathesis
from fastapi import FastAPI
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from PIL import Image
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi import checks

from models.checkpoint import Checkpoint
from service.engine.engine import Engine
from tests import ROOT
from tests.costs import IMPATIENT, check_costs
from tests.engine import await_idle
from tests.faults.conftest import MODEL, start_service
from tests.pictures import draw_image, encode
from tests.waiting import PATIENCE, wait_until

MAY_DIFFER = [
    not_a_server_error,  # which is asserted, but for deadlines
    checks.positive_data_acceptance,  # a schema cannot say which of its inputs a model takes
    checks.unsupported_method,  # HEAD is answered where GET is
]

with_client = settings(
    max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@pytest.fixture(autouse=True)
def no_work_is_left(app: FastAPI) -> Iterator[None]:
    yield
    engine: Engine = app.state.engine
    await_idle(engine)
    assert engine.fault is None
    wait_until(lambda: app.state.streams == 0)


def test_all_answers_are_as_the_description_says(client: httpx.Client, checkpoint: Checkpoint) -> None:
    """No server error, and no status, type or content that is not documented; on a model that exists, as a rule."""
    description = client.get("/openapi.json").json()
    for operation in (operation for path in description["paths"].values() for operation in path.values()):
        operation.pop("security", None)  # as this service has no keys
    schema = schemathesis.openapi.from_dict(description)
    operations = list(schema.get_all_operations())
    assert len(operations) > 20
    for found in operations:
        assert isinstance(found, Ok)
        operation = found.ok()

        @settings(with_client, max_examples=6)
        @given(case=operation.as_strategy() | operation.as_strategy(generation_mode=GenerationMode.NEGATIVE))
        def ask(case: schemathesis.Case[Any]) -> None:
            if len(case.path_parameters.get("model", "")) % 4:
                case.path_parameters["model"] = "digits"
            if "version" in case.path_parameters:
                case.path_parameters["version"] = checkpoint.version
            if case.operation.path.endswith("/weights"):
                case.headers.pop("X-Request-Timeout", None)  # which breaks off what is late
            response = case.call(base_url=str(client.base_url), timeout=PATIENCE)
            assert response.status_code < 500 or response.status_code == 504, response.text
            refused = [checks.negative_data_rejection] if 400 <= response.status_code < 500 else []  # be it by 413
            case.validate_response(response, excluded_checks=[*MAY_DIFFER, *refused])

        ask()


def check_refused_or_answered(response: httpx.Response) -> None:
    assert response.status_code in {200, 400, 403, 404, 405, 408, 413, 415, 416, 422, 429}, response.text
    if response.status_code >= 400:
        (error,) = response.json().values()
        assert error if isinstance(error, str) else set(error) == {"code", "message", "hint"}


GOOD = [encode(draw_image("RGB"), kind) for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")]


@st.composite
def broken_images(draw: st.DrawFn) -> bytes:
    """A good image of which some bytes were changed, left out or put in."""
    content = bytearray(draw(st.sampled_from(GOOD)))
    for _ in range(draw(st.integers(1, 5))):
        position = draw(st.integers(0, len(content) - 1))
        content[position : position + draw(st.integers(0, 8))] = draw(st.binary(max_size=8))
    return bytes(content[: draw(st.integers(1, len(content)))])


@with_client
@given(content=st.one_of(broken_images(), st.binary(max_size=200)))
def test_broken_images(client: httpx.Client, content: bytes) -> None:
    check_refused_or_answered(
        client.post("/v1/models/digits/predict", params={"ensemble_size": "2"}, files={"images": content})
    )


@with_client
@given(
    mode=st.sampled_from(["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "F"]),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    kind=st.sampled_from(["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"]),
)
def test_images_of_all_kinds(client: httpx.Client, mode: str, size: tuple[int, int], kind: str) -> None:
    file = io.BytesIO()
    try:
        Image.new(mode, size).save(file, kind)
    except (OSError, KeyError, ValueError):
        assume(False)
    check_refused_or_answered(
        client.post("/v1/models/digits/predict", params={"ensemble_size": "2"}, files={"images": file.getvalue()})
    )


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@with_client
@given(body=st.one_of(json_values, st.fixed_dictionaries({"images": json_values})))
def test_json_of_all_kinds(client: httpx.Client, body: Any) -> None:
    headers = {"Content-Type": "application/json"}
    content = json.dumps(body)  # NaN and Infinity as Python writes them
    check_refused_or_answered(client.post("/v1/models/digits/predict", content=content, headers=headers))
    check_refused_or_answered(client.post("/v2/models/digits/infer", content=content))


@st.composite
def broken_tensors(draw: st.DrawFn) -> tuple[bytes, dict[str, str]]:
    """A request of the Open Inference Protocol in binary, some of whose numbers do not fit."""
    count = draw(st.integers(0, 3))
    data = np.zeros((count, 1, 8, 8), np.uint8).tobytes()[: draw(st.integers(0, 200))]
    tensor = {
        "name": draw(st.sampled_from(["images", "encoded_images", "inputs"])),
        "shape": draw(st.lists(st.integers(-1, 2**64), max_size=5) | st.just([count, 1, 8, 8])),
        "datatype": draw(st.sampled_from(["UINT8", "BYTES", "FP32", "INT64", "FP128"])),
        "parameters": {"binary_data_size": draw(st.integers(-1, 300) | st.just(len(data)) | st.just(2**63))},
    }
    message = json.dumps({"inputs": [tensor], "parameters": {"ensemble_size": 2}}).encode()
    length = draw(st.just(len(message)) | st.integers(-1, 1000))
    return message + data, {"Inference-Header-Content-Length": str(length)}


@with_client
@given(request=broken_tensors())
def test_broken_tensors(client: httpx.Client, request: tuple[bytes, dict[str, str]]) -> None:
    content, headers = request
    check_refused_or_answered(client.post("/v2/models/digits/infer", content=content, headers=headers))


HEADERS = (
    "Accept Accept-Encoding Authorization Content-Encoding Content-Type If-None-Match If-Range Origin Range "
    "traceparent X-Forwarded-For X-Request-ID X-Request-Timeout"
)
header_values = st.text(st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f"), max_size=60)
likely_values = st.sampled_from(["bytes=0-9", "bytes=-5", "bytes=9-", "multipart/form-data; boundary=a", "gzip", "1e9"])


@with_client
@given(headers=st.dictionaries(st.sampled_from(HEADERS.split()), header_values | likely_values, max_size=5))
def test_headers_of_all_kinds(client: httpx.Client, headers: dict[str, str]) -> None:
    raw = [(name.encode(), value.strip().encode("latin-1")) for name, value in headers.items()]
    for method, path in (("GET", "/v1/models/digits/weights?seed=1"), ("POST", "/v1/models/digits/predict")):
        response = client.request(method, path, headers=raw, content=GOOD[0] if method == "POST" else None)
        if response.status_code not in (206, 304):
            check_refused_or_answered(response)


@with_client
@given(
    query=st.dictionaries(
        st.sampled_from(["seed", "member", "count", "dtype", "ensemble_size", "members", "coverage", "format", "x"]),
        st.integers().map(str) | st.floats().map(str) | st.text(max_size=10),
        max_size=4,
    )
)
def test_parameters_of_all_kinds(client: httpx.Client, query: dict[str, str]) -> None:
    asked = int(query["count"]) if re.fullmatch(r"\d+", query.get("count", ""), re.ASCII) else 0
    assume(not 50 < asked <= 1000)  # which would be large answers, and no errors
    check_refused_or_answered(client.get("/v1/models/digits/weights", params=query))
    response = client.post("/v1/models/digits/predict", params=query, files={"images": GOOD[0]})
    check_refused_or_answered(response)


def test_hostile_requests_cost_little() -> None:
    """Each within its budget of processor time and memory; `make faults` sends more of them, with nothing beside it."""
    with start_service(*IMPATIENT, checkpoints=ROOT / "checkpoints" / MODEL) as service:
        check_costs(service, 15, seed=2)
