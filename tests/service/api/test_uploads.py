"""Bodies that would cost much more than they weigh."""

import base64
import json
import resource
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from service.api.multipart import MOST_HEADER_BYTES, BodyPart, MultipartError, count_parts, read_boundary, split_parts
from service.api.uploads import OTHER_VALUES, ImagesBody, RowsBody, validate_json
from service.app import create_app
from service.decoding.pool import Decoder
from service.errors import ServiceError
from service.settings import Settings
from tests.conftest import serve
from tests.costs import bound_time
from tests.engine import await_idle, hold, stop_processes
from tests.pictures import draw_image, encode
from tests.waiting import PATIENCE, wait_until

PREDICT = "/v1/models/digits/predict"
INFER = "/v2/models/digits/infer"
INDEX = "/v2/repository/index"
PICTURE = encode(draw_image(size=(8, 8)))
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def roomy(checkpoints: Path) -> FastAPI:
    """An app with the usual limits."""
    return create_app(Settings(checkpoints=checkpoints))


@pytest.fixture(scope="module")
def roomy_client(roomy: FastAPI) -> Iterator[httpx.Client]:
    with serve(roomy) as address, httpx.Client(base_url=address) as client:
        yield client


@contextmanager
def bounded(client: httpx.Client, mebibytes: float = 200.0) -> Iterator[None]:
    """Meanwhile little processor time and memory are taken, and liveness is answered."""
    done = threading.Event()

    def look() -> None:
        with httpx.Client(base_url=client.base_url) as other:
            while not done.wait(0.02):
                assert other.get("/healthz").status_code == 200

    looking = threading.Thread(target=look)
    looking.start()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with bound_time():
        yield
    done.set()
    looking.join()
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024 < mebibytes


WRONG = {
    "numbers for images": (PREDICT, b'{"images": [' + b"1," * 500_000 + b"1]}"),
    "keys": (PREDICT, b"{" + b",".join(b'"%d":1' % n for n in range(90_000)) + b"}"),
    "nesting": (PREDICT, b'{"images": ' + b"[" * 1_000_000 + b"}"),
    "a long number": (PREDICT, b'{"images": [' + b"1" * 1_000_000 + b"]}"),
    "empty strings": (PREDICT, b'{"images": [' + b'"",' * 300_000 + b'""]}'),
    "numbers for tensors": (INFER, b'{"inputs": [' + b"1," * 500_000 + b"1]}"),
    "keys of parameters": (INFER, b'{"parameters": {' + b",".join(b'"%d":1' % n for n in range(90_000)) + b"}}"),
    "dimensions": (INFER, b'{"inputs": [{"name":"images","datatype":"UINT8","shape":[' + b"a," * 500_000 + b"1]}]}"),
    "outputs": (INFER, b'{"inputs": [], "outputs": [' + b"1," * 500_000 + b"1]}"),
    "keys of an index": (INDEX, b"{" + b",".join(b'"%d":1' % n for n in range(90_000)) + b"}"),
    "numbers for an index": (INDEX, b"[" + b"1," * 500_000 + b"1]"),
}


@pytest.mark.parametrize(("path", "content"), WRONG.values(), ids=WRONG)
def test_wrong_json_costs_little(roomy_client: httpx.Client, path: str, content: bytes) -> None:
    with bounded(roomy_client):
        response = roomy_client.post(path, content=content, headers=JSON)
    assert response.status_code in (400, 413, 422)
    assert len(response.content) < 2_000


def test_the_first_wrong_element_ends_the_validation() -> None:
    for schema, body in ((ImagesBody, b'{"images": [1, 2, 3]}'), (RowsBody, b'{"inputs": [1, 2, 3]}')):
        with pytest.raises(ServiceError) as caught:
            validate_json(body, schema, "", 100)
        cause = caught.value.__cause__
        assert cause is not None
        assert len(cause.errors()) <= 2  # type: ignore[attr-defined]  # it is pydantic's


def test_values_are_counted_before_they_are_built() -> None:
    images = json.dumps({"images": ["data:image/png;base64,AAAA"] * 3}).encode()
    assert len(validate_json(images, ImagesBody, "", 7).images) == 3
    with pytest.raises(ServiceError, match="more than 6 values"):
        validate_json(images, ImagesBody, "", 6)
    many = json.dumps({str(number): 1 for number in range(OTHER_VALUES + 1)}).encode()
    with pytest.raises(ServiceError, match=f"more than {OTHER_VALUES} fields"):
        validate_json(many, ImagesBody, "", 10**6)


@pytest.mark.parametrize("count", [256, 257, 258, 2000])
def test_as_many_images_as_may_be_and_no_more(roomy_client: httpx.Client, count: int) -> None:
    """By whatever form, the limit that is named is the limit there is."""
    encoded = base64.b64encode(PICTURE).decode()
    tensor = {"name": "encoded_images", "shape": [count], "datatype": "BYTES", "data": [encoded] * count}
    responses = [
        roomy_client.post(PREDICT, files=[("images", PICTURE)] * count, params={"ensemble_size": 1}),
        roomy_client.post(PREDICT, json={"images": [encoded] * count}, params={"ensemble_size": 1}),
        roomy_client.post(INFER, json={"inputs": [tensor], "parameters": {"ensemble_size": 1}}),
    ]
    for response in responses:
        if count <= 256:
            assert response.status_code == 200
        else:
            assert response.status_code == 413
            assert "256" in response.text or "more than" in response.text
            assert "257" not in response.text or count == 257


NEAR = b"--BBB\r\nContent-Disposition: form-data; name=images; filename=a\r\n\r\n"
BROKEN = {
    "near boundaries": NEAR + b"\r\n--BBBx" * 4_000_000 + b"\r\n--BBB--",
    "nearer boundaries": NEAR + b"\r\n--BB" * 5_000_000 + b"\r\n--BBB--",
    "returns": NEAR + b"\r" * 30_000_000 + b"\r\n--BBB--",
    "empty parts": b"\r\n--BBB" * 4_000_000,
    "parts without an end": NEAR * 400_000,
    "endless headers": b"--BBB\r\n" + b"a: b\r\n" * 5_000_000,
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
def test_large_multipart_bodies_cost_little(roomy_client: httpx.Client, content: bytes) -> None:
    with bounded(roomy_client, mebibytes=300):  # of 32 MB
        headers = {"Content-Type": "multipart/form-data; boundary=BBB"}
        response = roomy_client.post(PREDICT, content=content, headers=headers)
    assert response.status_code in (413, 422)


def test_multipart_bodies_are_taken_apart() -> None:
    body = (
        b'--a b\r\nContent-Disposition: form-data; name="images"; filename="x;y.png"\r\nContent-Type: image/png\r\n\r\n'
        b"one\r\n--a\r\n\r\ntwo\r\n--a b \t\r\ncontent-disposition: form-data; name=text\r\n\r\n\r\n--a b--\r\nepilogue"
    )
    boundary = read_boundary('multipart/form-data; boundary="a b"')
    assert list(split_parts(body, boundary)) == [
        BodyPart("images", "x;y.png", b"one\r\n--a\r\n\r\ntwo"),
        BodyPart("text", None, b""),
    ]
    assert count_parts(body, boundary) == 2
    name = "写真.png".encode()
    (part,) = split_parts(
        b'--a\r\nContent-Disposition: form-data; name="n"; filename="%b"\r\n\r\n\r\n--a--' % name, b"a"
    )
    assert part.filename == "写真.png"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "does not begin"),
        (b"--b\r\n", "does not begin"),
        (b"--a", "not followed by the end of its line"),
        (b"--ab\r\n\r\n", "not followed by the end of its line"),
        (b"--a\r\nno headers", "do not end with an empty line"),
        (b"--a\r\n" + b"x: y\r\n" * MOST_HEADER_BYTES + b"\r\n\r\n--a--", "or are too long"),
        (b"--a\r\nContent-Disposition: form-data; name=x\r\n\r\ncontent", "does not end"),
        (b"--a\r\nContent-Disposition: form-data\r\n\r\n\r\n--a--", "no name"),
        (b"--a\r\nContent-Type: image/png\r\n\r\n\r\n--a--", "no name"),
        (b"--a\r\nContent-Disposition: form-data; name*=undefined''x; filename=y\r\n\r\n\r\n--a--", "no name|be read"),
        (b"--a\r\nContent-Disposition: form-data; name=x; filename*=undefined''y\r\n\r\n\r\n--a--", "be read"),
    ],
)
def test_multipart_bodies_that_are_malformed(body: bytes, message: str) -> None:
    with pytest.raises(MultipartError, match=message):
        list(split_parts(body, b"a"))


@pytest.mark.parametrize(
    "content_type",
    [
        "multipart/form-data",
        "multipart/form-data; boundary=",
        "multipart/form-data; boundary=" + "a" * 71,
        "multipart/form-data; boundary=\xe9",
        "multipart/form-data; boundary*=undefined''a",
        "multipart/form-data; boundary*=nonsense''a\xff",
    ],
)
def test_boundaries_that_are_none(client: httpx.Client, content_type: str) -> None:
    with pytest.raises(MultipartError):
        read_boundary(content_type)
    headers = [(b"Content-Type", content_type.encode("latin-1"))]
    response = client.post(PREDICT, content=b"--a\r\n\r\n\r\n--a--", headers=headers)
    assert (response.status_code, response.json()["error"]["code"]) == (422, "invalid_multipart")


def test_the_character_set_of_a_body_means_nothing(client: httpx.Client) -> None:
    """Files have none; a strange one once was a server error."""
    body = NEAR + PICTURE + b"\r\n--BBB--"
    for charset in ("undefined", "utf-16", "idna", "x" * 1000):
        headers = {"Content-Type": f"multipart/form-data; charset={charset}; boundary=BBB"}
        assert client.post(PREDICT, content=body, headers=headers).status_code == 200


def test_nothing_is_spooled_to_disk(roomy_client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile._TemporaryFileWrapper", None)
    monkeypatch.setattr("tempfile.tempdir", "/nowhere")
    large = encode(draw_image(size=(8, 8))) + bytes(5 * 2**20)
    assert roomy_client.post(PREDICT, files={"images": large}).status_code == 200


def test_bodies_together_hold_so_much(checkpoints: Path) -> None:
    """More is told to come again; what a request held is free when it ends, however it does."""
    app = create_app(Settings(checkpoints=checkpoints, max_held_bytes=2**20, body_timeout=2))
    go_on = threading.Event()
    with serve(app) as address, httpx.Client(base_url=address) as client:

        def send_slowly() -> Iterator[bytes]:
            yield bytes(900_000)
            go_on.wait(PATIENCE)
            yield b"x"

        slow: list[int] = []
        sending = threading.Thread(
            target=lambda: slow.append(httpx.post(address + PREDICT, content=send_slowly()).status_code)
        )
        sending.start()
        wait_until(lambda: "\nhyperdraw_held_bytes 900000.0\n" in client.get("/metrics").text)
        refused = client.post(PREDICT, content=bytes(200_000))
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "overloaded")
        assert int(refused.headers["retry-after"]) >= 1
        wait_until(lambda: client.post(PREDICT, content=bytes(200_000)).status_code == 422)  # as the body is late
        go_on.set()
        sending.join()
        assert slow == [408]
        assert client.post(PREDICT, content=PICTURE + bytes(900_000)).status_code == 200


def test_a_deadline_begins_with_the_request(roomy: FastAPI, roomy_client: httpx.Client) -> None:
    """Whatever it is spent on: a body that arrives, images that are decoded, or networks."""

    def send_slowly() -> Iterator[bytes]:
        yield PICTURE[:10]
        time.sleep(0.5)
        yield PICTURE[10:]

    late = roomy_client.post(PREDICT, content=send_slowly(), headers={"X-Request-Timeout": "0.2"})
    assert (late.status_code, late.json()["error"]["code"]) == (504, "deadline_exceeded")
    with stop_processes(roomy.state.decoder):
        late = roomy_client.post(PREDICT, content=PICTURE, headers={"X-Request-Timeout": "0.2"})
        assert (late.status_code, late.json()["error"]["code"]) == (504, "deadline_exceeded")
        await_idle(roomy.state.decoder)
    assert roomy_client.post(PREDICT, content=PICTURE).status_code == 200


def test_a_request_cannot_ask_for_more_time_than_there_is(checkpoints: Path) -> None:
    app = create_app(Settings(checkpoints=checkpoints, request_timeout=0.3))
    with serve(app) as address, hold(app.state.engine):
        headers = {"X-Request-Timeout": "86400", "Content-Type": "image/png"}
        late = httpx.post(address + PREDICT, content=PICTURE, headers=headers)
        assert late.status_code == 504
        assert "0.3 s" in late.json()["error"]["message"]
        data = base64.b64encode(PICTURE).decode()
        tensor = {"name": "encoded_images", "shape": [1], "datatype": "BYTES", "data": [data]}
        body = {"inputs": [tensor], "parameters": {"timeout": 86_400_000_000}}
        assert httpx.post(address + INFER, json=body).status_code == 504


def test_pixels_of_a_request_are_bounded(checkpoints: Path) -> None:
    picture = encode(draw_image(size=(100, 100)))
    with serve(create_app(Settings(checkpoints=checkpoints, max_request_pixels=25_000))) as address:
        for count, status in ((2, 200), (3, 413)):
            answer = httpx.post(address + PREDICT, files=[("images", picture)] * count)
            assert answer.status_code == status
        assert answer.json()["error"]["code"] == "too_many_pixels"
        assert "30,000 pixels" in answer.json()["error"]["message"]


def test_images_that_take_too_long_say_so(checkpoints: Path) -> None:
    app = create_app(Settings(checkpoints=checkpoints, decoders=1))
    decoder: Decoder = app.state.decoder
    with serve(app) as address, stop_processes(decoder):
        decoder._seconds = 0.1
        answer = httpx.post(address + PREDICT, files={"images": PICTURE})
        assert (answer.status_code, answer.json()["error"]["code"]) == (422, "invalid_image")
        assert "longer than 0.1 s" in answer.json()["error"]["message"]
        decoder._seconds = PATIENCE
        assert httpx.post(address + PREDICT, files={"images": PICTURE}).status_code == 200
