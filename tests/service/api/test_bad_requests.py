"""Requests for predictions that cannot be answered."""

import json
from typing import Any

import httpx
import pytest

from models.noise import SEED_LIMIT
from tests.pictures import draw_image, encode, forge_png

PREDICT = "/v1/models/digits/predict"
PICTURES = [encode(draw_image(size=(8, 8))), encode(draw_image("RGB"), "JPEG"), encode(draw_image("RGB"), "WEBP")]


PNG = {"Content-Type": "image/png"}
GOOD: dict[str, Any] = {"content": PICTURES[0], "headers": PNG}


def json_body(value: object) -> dict[str, Any]:
    return {"content": json.dumps(value), "headers": {"Content-Type": "application/json"}}


def parts(*files: tuple[str, bytes]) -> dict[str, Any]:
    return {"files": [(name, ("x.png", content)) for name, content in files]}


BAD_REQUESTS: dict[str, tuple[str, dict[str, Any], int, str, str]] = {
    "unknown model": ("/v1/models/bert/predict", GOOD, 404, "unknown_model", "There is no model 'bert'"),
    "traversal": ("/v1/models/..%2f..%2fetc/predict", GOOD, 404, "not_found", ""),
    "size 0": (f"{PREDICT}?ensemble_size=0", GOOD, 422, "invalid_parameter", "ensemble_size"),
    "size −1": (f"{PREDICT}?ensemble_size=-1", GOOD, 422, "invalid_parameter", "ensemble_size"),
    "size 10⁹": (f"{PREDICT}?ensemble_size=1000000000", GOOD, 422, "invalid_parameter", "1000000000"),
    "size many": (f"{PREDICT}?ensemble_size=many", GOOD, 422, "invalid_parameter", "'many'"),
    "seed −1": (f"{PREDICT}?seed=-1", GOOD, 422, "invalid_parameter", "seed"),
    "seed past 2⁶³": (f"{PREDICT}?seed={SEED_LIMIT}", GOOD, 422, "invalid_parameter", "seed"),
    "seed of 5,000 digits": (f"{PREDICT}?seed={'9' * 5000}", GOOD, 422, "invalid_parameter", "seed"),
    "misspelt parameter": (f"{PREDICT}?ensemblesize=3", GOOD, 422, "invalid_parameter", "ensemblesize"),
    "no body": (PREDICT, {}, 422, "invalid_image", "the body is empty"),
    "other body": (
        PREDICT,
        {"content": b"a=1", "headers": {"Content-Type": "text/plain"}},
        415,
        "unsupported_media",
        "",
    ),
    "no image": (PREDICT, {"content": b"no image", "headers": PNG}, 422, "invalid_image", "not a PNG, JPEG, WebP"),
    "bomb": (PREDICT, {"content": forge_png(60_000, 60_000), "headers": PNG}, 413, "image_too_large", "too large"),
    "0×0": (PREDICT, {"content": forge_png(0, 0), "headers": PNG}, 422, "invalid_image", "decoded"),
    "one bad among good": (
        PREDICT,
        parts(("images", PICTURES[0]), ("images", PICTURES[0][:50])),
        422,
        "invalid_image",
        "image 1 (x.png)",
    ),
    "empty part": (PREDICT, parts(("images", b"")), 422, "invalid_image", "image 0 (x.png) is empty"),
    "other part": (PREDICT, parts(("image", PICTURES[0])), 422, "unknown_part", "'image'"),
    "text field": (
        PREDICT,
        {"data": {"images": "x"}, "files": {"images": PICTURES[0]}},
        422,
        "unknown_part",
        "'images', is text",
    ),
    "too many": (PREDICT, parts(*[("images", PICTURES[0])] * 9), 413, "too_many_images", "9 images"),
    "far too many": (PREDICT, parts(*[("images", PICTURES[0])] * 99), 413, "too_many_images", "99 images"),
    "no boundary": (
        PREDICT,
        {"content": b"x", "headers": {"Content-Type": "multipart/form-data"}},
        422,
        "invalid_multipart",
        "boundary",
    ),
    "broken multipart": (
        PREDICT,
        {"content": b"--b\r\nnonsense", "headers": {"Content-Type": "multipart/form-data; boundary=b"}},
        422,
        "",
        "multipart",
    ),
    "too large": (PREDICT, {"content": bytes(2**20 + 1), "headers": PNG}, 413, "body_too_large", "too large"),
    "compressed": (
        PREDICT,
        {"content": PICTURES[0], "headers": {**PNG, "Content-Encoding": "gzip"}},
        415,
        "unsupported_encoding",
        "'gzip'",
    ),
    "no JSON": (PREDICT, {**json_body(0), "content": b"{"}, 422, "invalid_json", "Invalid JSON"),
    "JSON of another shape": (PREDICT, json_body({"image": "x"}), 422, "invalid_json", "images: Field required"),
    "no images": (PREDICT, json_body({"images": []}), 422, "invalid_json", "at least 1 item"),
    "numbers for images": (PREDICT, json_body({"images": [7]}), 422, "invalid_json", "images.0"),
    "wrong base64": (PREDICT, json_body({"images": ["@@@@"]}), 422, "invalid_base64", "image 0 is not base64"),
    "cut base64": (PREDICT, json_body({"images": ["abcde"]}), 422, "invalid_base64", "image 0 is not base64"),
    "data URL": (PREDICT, json_body({"images": ["data:image/png;base64,AAAA"]}), 422, "invalid_base64", "base64"),
    "unicode base64": (PREDICT, json_body({"images": ["é" * 8]}), 422, "invalid_base64", "image 0"),
    "empty base64": (PREDICT, json_body({"images": [""]}), 422, "invalid_image", "image 0 is empty"),
}


@pytest.mark.parametrize("case", BAD_REQUESTS)
def test_bad_requests_get_a_clear_answer_and_the_service_goes_on(client: httpx.Client, case: str) -> None:
    path, request, status, code, message = BAD_REQUESTS[case]
    response = client.post(path, **request)
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"code", "message", "hint"}
    assert code in error["code"]
    assert message in error["message"]
    assert error["hint"]
    assert client.post(PREDICT, **GOOD).status_code == 200


def test_a_body_that_only_says_its_length_in_the_end_is_limited_too(client: httpx.Client) -> None:
    response = client.post(PREDICT, content=(bytes(2**16) for _ in range(20)), headers=PNG)
    assert response.status_code == 413


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/nowhere", 404), ("GET", PREDICT, 405)])
def test_unknown_paths_and_methods_answer_in_the_same_shape(
    client: httpx.Client, method: str, path: str, status: int
) -> None:
    response = client.request(method, path)
    assert response.status_code == status
    assert set(response.json()["error"]) == {"code", "message", "hint"}
