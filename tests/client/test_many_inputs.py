"""Predictions of more inputs than a request holds."""

import io
import sys
from typing import Any

import httpx
import hyperdraw
import numpy as np
import pytest
import trio
from numpy.typing import NDArray
from PIL import Image

from tests.client.gateway import PICTURE, Ask, Gateway, refuse, respond, stand_before
from tests.pictures import EXAMPLES, draw_image, encode

RNG = np.random.default_rng(0)

PICTURES = list(RNG.integers(0, 256, (20, 8, 8), np.uint8))
"""The service of the tests takes 8 in a request."""

TRANSPARENT = encode(Image.new("RGBA", (8, 8)))

ALL = sys.maxsize
"""Lets a gateway give the service's own answer."""


def count_predictions(gateway: Gateway) -> int:
    return sum(head.startswith("POST") for head in gateway.requests)


def photograph(width: int, height: int) -> bytes:
    """A large JPEG whose content shows when it becomes smaller."""
    return encode(draw_image("RGB", (width, height)), "JPEG", quality=90)


def collect(ask: Ask, address: str, inputs: Any, **parameters: Any) -> dict[int, Any]:
    found: dict[int, Any] = {}

    def keep(index: int, answer: Any) -> None:
        assert index not in found
        found[index] = answer

    ask(address, "predict_each", inputs, keep, **parameters)
    return found


def test_many_inputs_are_split_and_their_answers_joined(ask: Ask, address: str, client: httpx.Client) -> None:
    options: dict[str, Any] = {"ensemble_size": 20, "coverage": 0.8, "members": True}
    with stand_before(client) as gateway:
        answer = ask(gateway.address, "predict", PICTURES, **options)
    assert count_predictions(gateway) == 3
    assert (len(answer), answer.members.shape, answer.probabilities.shape) == (20, (20, 20, 10), (20, 10))
    for start in range(0, 20, 5):
        part = ask(address, "predict", PICTURES[start : start + 5], seed=answer.seed, **options)
        assert part.model == answer.model
        for found, expected in ((answer[start : start + 5], part),):
            np.testing.assert_allclose(found.probabilities, expected.probabilities, rtol=1e-4, atol=1e-6)
            np.testing.assert_allclose(found.members, expected.members, rtol=1e-4, atol=1e-6)
            np.testing.assert_array_equal(found.prediction_sets, expected.prediction_sets)
            np.testing.assert_allclose(found.uncertainty.energy, expected.uncertainty.energy, rtol=1e-4)
            for name, flag in expected.flags.items():
                np.testing.assert_allclose(found.flags[name].scores, flag.scores, rtol=1e-3, atol=1e-5)
                assert found.flags[name].threshold == flag.threshold


def test_few_inputs_are_one_request(ask: Ask, client: httpx.Client) -> None:
    with stand_before(client) as gateway:
        ask(gateway.address, "predict", PICTURE, model="digits")
        ask(gateway.address, "predict", PICTURES[:8], model="digits")
    assert [head.split(" ")[0] for head in gateway.requests] == ["POST", "GET", "POST"]


def test_rows_are_split(ask: Ask, line_address: str) -> None:
    rows = RNG.normal(size=(600, 2))
    answer = ask(line_address, "predict", rows, seed=7)
    assert answer.mean.shape == (600, 1)
    np.testing.assert_allclose(answer[500:].mean, ask(line_address, "predict", rows[500:], seed=7).mean, rtol=1e-5)


def test_the_size_of_a_body_is_a_limit_too(ask: Ask, client: httpx.Client) -> None:
    large = encode(Image.fromarray(RNG.integers(0, 256, (600, 600), np.uint8)))
    assert 2**20 / 3 < len(large) < 2**20 / 2
    with stand_before(client) as gateway:
        assert len(ask(gateway.address, "predict", [large] * 5)) == 5
    assert count_predictions(gateway) == 3


@pytest.mark.parametrize("several", [False, True])
def test_large_photographs_become_smaller(ask: Ask, address: str, several: bool) -> None:
    large = photograph(1600, 1200)
    small = io.BytesIO()
    Image.open(io.BytesIO(large)).resize((1154, 866)).save(small, "PNG")
    answer = ask(address, "predict", [large, PICTURE] if several else large, seed=7)
    expected = ask(address, "predict", small.getvalue(), seed=7)
    np.testing.assert_allclose(answer.probabilities[0], expected.probabilities[0], atol=0.02)
    assert answer.labels[0] == expected.labels[0]


def test_large_pixels_become_smaller_and_keep_their_orientation(address: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    sent = io.BytesIO()
    draw_image("RGB", (1600, 1200)).save(sent, "JPEG", exif=exif)
    with hyperdraw.Client(address) as client:
        answer = client.predict(
            [photograph(1600, 1200), sent.getvalue(), np.asarray(draw_image("L", (1600, 1200)))], seed=7
        )
    assert isinstance(answer, hyperdraw.Classification)
    upright, turned, pixels = answer.probabilities
    assert np.abs(upright - turned).max() > 0.01
    np.testing.assert_allclose(upright, pixels, atol=0.02)


def test_without_pillow_large_photographs_are_explained(
    ask: Ask, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = photograph(2000, 1500)  # of which a JPEG counts half
    monkeypatch.setitem(sys.modules, "PIL", None)
    for inputs in (large, [PICTURE, large]):
        with pytest.raises(hyperdraw.InvalidRequest, match=r"pixels.*pip install pillow"):
            ask(address, "predict", inputs)
    assert len(ask(address, "predict", [PICTURE] * 9)) == 9


def test_a_refused_input_is_named_by_its_number(ask: Ask, address: str) -> None:
    with pytest.raises(hyperdraw.InvalidRequest, match=r"image 13 \(bytes\) has transparent pixels"):
        ask(address, "predict", [*PICTURES[:13], TRANSPARENT, *PICTURES[13:]])


def test_a_refused_input_ends_only_itself(ask: Ask, address: str, line_address: str) -> None:
    inputs: list[Any] = [*PICTURES[:10], TRANSPARENT, "nowhere.png", [1.0], np.zeros((8, 8), bool), *PICTURES[10:]]
    found = collect(ask, address, iter(inputs), seed=7, together=4)
    assert sorted(found) == list(range(24))
    assert {index: type(answer) for index, answer in found.items() if isinstance(answer, Exception)} == {
        10: hyperdraw.InvalidRequest,
        11: FileNotFoundError,
        12: ValueError,
        13: ValueError,
    }
    assert "image 10 (bytes) has transparent pixels" in str(found[10])
    assert "digits takes pictures" in str(found[12])
    expected = ask(address, "predict", PICTURES, seed=7)
    answered: list[NDArray[Any]] = [found[index].probabilities for index in sorted(set(found) - {10, 11, 12, 13})]
    np.testing.assert_allclose(answered, expected.probabilities, rtol=1e-4, atol=1e-6)

    rows: list[Any] = [[1.0, 2.0], {"b": 2, "a": 1}, {"a": 1}, [1.0], [1e30, 0.0], PICTURE]
    numbers = collect(ask, line_address, rows, seed=7)
    assert numbers[0].mean == numbers[1].mean
    assert "lacks the column b" in str(numbers[2])
    assert "Row 3 has 1 value(s), not 2" in str(numbers[3])
    assert "a in row 4 is 1e+30" in str(numbers[4])
    assert "line takes rows of numbers" in str(numbers[5])


def test_a_version_that_is_not_served_ends_the_call(ask: Ask, address: str) -> None:
    with pytest.raises(hyperdraw.NotFound, match="is not served"):
        collect(ask, address, PICTURES, version="0" * 64)


@pytest.mark.parametrize("parameters", [{"ensemble_size": 5000}, {"coverage": 2}, {"model": "other"}])
def test_what_no_input_causes_ends_the_call(ask: Ask, address: str, parameters: dict[str, Any]) -> None:
    with pytest.raises(hyperdraw.ServiceError):
        collect(ask, address, PICTURES, **parameters)
    with pytest.raises(hyperdraw.ServiceError):
        ask(address, "predict", PICTURES, **parameters)


def test_a_failure_ends_all_requests(ask: Ask, client: httpx.Client) -> None:
    with stand_before(client, ALL, *[refuse(401)] * 4) as gateway, pytest.raises(hyperdraw.Unauthorized):
        collect(ask, gateway.address, PICTURES * 10, together=1)
    assert count_predictions(gateway) <= 8


def test_a_busy_service_is_asked_as_often_as_it_takes(ask: Ask, client: httpx.Client) -> None:
    with stand_before(client, ALL, *[refuse(429)] * 9) as gateway:
        found = collect(ask, gateway.address, PICTURES, options={"retries": 1})
    assert not any(isinstance(answer, Exception) for answer in found.values())
    with stand_before(client, ALL, refuse(429)) as gateway, pytest.raises(hyperdraw.Overloaded):
        collect(ask, gateway.address, PICTURES, options={"retries": 0})


def test_a_smaller_limit_of_a_proxy_divides_requests(ask: Ask, client: httpx.Client) -> None:
    too_large = respond(413, body=b"<html>")
    with stand_before(client, ALL, too_large, ALL, too_large) as gateway:
        assert len(ask(gateway.address, "predict", PICTURES[:8], seed=7)) == 8
    assert count_predictions(gateway) == 5


def test_a_service_without_published_limits_gets_one_request(ask: Ask, client: httpx.Client) -> None:
    listed = client.get("/v1/models").json()
    del listed["limits"]
    older = respond(200, body=httpx.Response(200, json=listed).content)
    with stand_before(client, older) as gateway:
        assert len(ask(gateway.address, "predict", PICTURES[:8])) == 8
    assert count_predictions(gateway) == 1


def test_trio_asks_many_inputs_too(address: str) -> None:
    async def ask() -> hyperdraw.Classification | hyperdraw.Regression:
        async with hyperdraw.AsyncClient(address) as client:
            return await client.predict([*PICTURES, EXAMPLES / "seven.png"])

    assert len(trio.run(ask)) == 21


@pytest.mark.parametrize("name", ["parallel", "together"])
def test_numbers_of_requests_are_positive(name: str) -> None:
    with hyperdraw.Client("http://127.0.0.1:9") as asking, pytest.raises(ValueError, match=f"{name} is 0"):
        asking.predict_each([PICTURE], print, **{name: 0})  # type: ignore[arg-type]
