"""Pictures and rows of numbers that the client takes, and those that it rejects."""

import io
from pathlib import Path
from typing import Any

import hyperdraw
import numpy as np
import pytest
from hyperdraw.inputs import Picture, encode_inputs, encode_png
from PIL import Image

from tests.client.gateway import PICTURE, Ask
from tests.pictures import EXAMPLES

SEVEN = str(EXAMPLES / "seven.png")


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
        ([], "non-empty sequence"),
        (np.zeros((0, 3)), "non-empty sequence"),
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


@pytest.mark.parametrize(
    "inputs",
    [
        np.zeros((8, 8), bool),
        np.zeros((8, 8), np.int64),
        np.zeros((8, 8), np.uint16),
        np.zeros((2, 8, 8, 1), np.int32),
        np.zeros((8, 8), complex),
        np.zeros((8, 8), object),
        np.zeros((8, 8, 1), np.float32),
        np.zeros((2, 8, 8, 1), np.float64),
        np.array(3.0),
        [np.zeros((8, 8), np.float32)] * 2,
        [np.zeros((8, 8), np.int64)] * 2,
        [np.zeros((8, 8), np.float32), np.zeros((9, 9), np.float32)],
        [SEVEN, np.zeros((8, 8), np.float32)],
    ],
    ids=str,
)
def test_arrays_of_the_wrong_kind_are_explained_before_anybody_is_asked(inputs: Any) -> None:
    with (
        hyperdraw.Client("http://127.0.0.1:9") as asking,
        pytest.raises(ValueError, match=r"uint8|a picture") as caught,
    ):
        asking.predict(inputs)
    if isinstance(inputs, np.ndarray) and inputs.ndim:
        assert f"{inputs.dtype} {list(inputs.shape)}" in str(caught.value)


def test_what_is_no_number_at_all_is_explained() -> None:
    with hyperdraw.Client("http://127.0.0.1:9") as asking:
        with pytest.raises(ValueError, match="rows of equally many numbers"):
            asking.predict([[10**400]])
        with pytest.raises(ValueError, match="binary mode"), Path(__file__).open() as file:
            asking.predict(file)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=r"not Picture; numpy\.asarray may"):
            asking.predict(type("Picture", (), {"__array__": None})())


def test_the_inputs_of_another_kind_of_model_are_explained(ask: Ask, address: str, line_address: str) -> None:
    with pytest.raises(hyperdraw.InvalidRequest) as caught:
        ask(address, "predict", np.zeros((8, 8), np.float32))
    assert caught.value.hint == "digits takes pictures, not rows of numbers: files, or pixels as arrays of uint8."
    assert caught.value.status == 422
    with pytest.raises(hyperdraw.InvalidRequest) as caught:
        ask(line_address, "predict", PICTURE)
    assert caught.value.hint == "line takes rows of numbers, not pictures: a, b."
    with pytest.raises(hyperdraw.InvalidRequest, match=r"1000\."):
        ask(address, "predict", PICTURE, ensemble_size=5000)


def test_bytes_of_any_kind_are_pictures(ask: Ask, address: str) -> None:
    assert len(ask(address, "predict", [bytearray(PICTURE), memoryview(PICTURE), PICTURE])) == 3
