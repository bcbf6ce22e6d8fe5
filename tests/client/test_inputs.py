"""Pictures and rows of numbers that the client takes, and those that it rejects."""

import datetime
import io
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import hyperdraw
import numpy as np
import pandas
import pytest
import torch
from hyperdraw.inputs import Inputs, Picture, encode_input, list_inputs
from hyperdraw.pictures import encode_png
from numpy.typing import NDArray
from PIL import Image

from tests.client.gateway import PICTURE, Ask
from tests.pictures import EXAMPLES, draw_image

SEVEN = str(EXAMPLES / "seven.png")

NOBODY = "http://127.0.0.1:9"

COLOURS = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)

GREY = COLOURS[..., 0]


def decode(inputs: Inputs) -> list[NDArray[np.uint8]]:
    """The pixels that the client would send."""
    items = [encode_input(index, value, None) for index, value in enumerate(list_inputs(inputs))]
    return [np.asarray(Image.open(io.BytesIO(item.content))) for item in items]


def test_pictures_may_be_paths_bytes_files_or_pixels(address: str, tmp_path: Path) -> None:
    path = tmp_path / 'a "picture" ✓.png'
    path.write_bytes(PICTURE)
    pixels = np.asarray(Image.open(path))
    with hyperdraw.Client(address) as client, path.open("rb") as file:
        kinds: list[Picture] = [path, str(path), PICTURE, file, io.BytesIO(PICTURE), pixels, Image.open(path)]
        together = client.predict(kinds, seed=7)
        assert isinstance(together, hyperdraw.Classification)
        stacked = client.predict(np.stack([pixels[..., None]] * 2), seed=7)
        apart = [client.predict(kind, seed=7) for kind in (path, PICTURE, io.BytesIO(PICTURE), pixels)]
    assert [len(answer) for answer in (together, stacked, *apart)] == [7, 2, 1, 1, 1, 1]
    for answer in (together, stacked, *apart):
        assert isinstance(answer, hyperdraw.Classification)
        for part in answer:
            np.testing.assert_allclose(part.probabilities, together[0].probabilities, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("convert", [lambda pixels: pixels, torch.tensor], ids=["numpy", "torch"])
def test_pixels_of_arrays_and_tensors(convert: Callable[[Any], Any]) -> None:
    colours, shares, first = COLOURS, COLOURS / 255, np.moveaxis(COLOURS, -1, 0).copy()
    one: list[Any] = [colours, colours.astype(np.int64), colours.astype(np.int16), shares, shares.astype(np.float32)]
    for pixels in [*one, *([each] for each in [*one, first, first.astype(np.float64) / 255])]:
        given = [convert(pixels[0])] if isinstance(pixels, list) else convert(pixels)
        (found,) = decode(given)
        np.testing.assert_array_equal(found, colours)
    for several in (np.stack([colours] * 2), np.stack([first] * 4), np.stack([shares] * 5)):
        pictures = decode(convert(several))
        assert len(pictures) == len(several)
        np.testing.assert_array_equal(pictures[1], colours)
    for grey in (GREY, GREY[None], GREY[..., None], GREY[None] / 255, [GREY / 255], [GREY.astype(np.int32)]):
        given = [convert(grey[0])] if isinstance(grey, list) else convert(grey)
        np.testing.assert_array_equal(decode(given)[0], GREY)


def test_tensors_of_any_precision_and_with_gradients() -> None:
    shares = torch.tensor(COLOURS / 255).to(torch.bfloat16).requires_grad_()
    expected = (shares.detach().double() * 255).round().to(torch.uint8).numpy()
    np.testing.assert_array_equal(decode(shares)[0], expected)
    assert list_inputs(torch.tensor([[1.5, -2.0]])) == [[1.5, -2.0]]
    assert list_inputs([torch.tensor([1, 2]), torch.tensor([3.5, 4.0])]) == [[1.0, 2.0], [3.5, 4.0]]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_images_of_pillow_keep_their_mode(mode: str) -> None:
    image = draw_image(mode, (9, 6))
    (sent,) = (encode_input(0, value, None) for value in list_inputs(image))
    found = Image.open(io.BytesIO(sent.content))
    assert (found.mode, found.size, sent.pixels) == (mode, (9, 6), 54)
    assert found.tobytes() == image.tobytes()


def test_images_of_pillow_keep_their_orientation(address: str) -> None:
    buffer, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6
    draw_image(size=(8, 8)).save(buffer, "PNG", exif=exif)
    with hyperdraw.Client(address) as client:
        answer = client.predict([buffer.getvalue(), Image.open(buffer), PICTURE], seed=7)
    assert isinstance(answer, hyperdraw.Classification)
    np.testing.assert_allclose(answer.probabilities[0], answer.probabilities[1], rtol=1e-4, atol=1e-6)
    assert np.abs(answer.probabilities[0] - answer.probabilities[2]).max() > 0.01


def test_images_that_png_lacks_are_explained() -> None:
    with pytest.raises(ValueError, match=r"mode CMYK .*image\.convert\('RGB'\)"):
        decode(Image.new("CMYK", (4, 4)))


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
        (np.zeros((0, 3)), r"non-empty sequence, not an array of float64 \[0, 3\]"),
        (np.zeros((0, 8), np.uint8), "non-empty sequence"),
        (3, "not int"),
        ([PICTURE, [1.0]], "all be pictures"),
        ([[1.0], [1.0, 2.0]], "all be pictures"),
        ([[float("nan")]], "finite"),
        ([1.0, 2.0], r"an array of \[2\]"),
        (np.array(3.0), r"an array of float64 \[\]"),
        (np.zeros((8, 8), bool), r"array of bool \[8, 8\] is not a picture"),
        (np.zeros((8, 8), complex), "is not a picture"),
        (np.zeros((8, 8), object), "is not a picture"),
        (np.zeros((8, 8), np.int64), r"astype\(np\.uint8\) makes a picture of it, astype\(float\) rows"),
        (np.zeros((5, 8, 8), np.uint8), r"give several as a list, list\(array\)"),
        (np.zeros((3, 8, 8), np.uint8), r"the former as \[array\], and the latter as list\(array\)"),
        (np.zeros((8, 8, 4)), r"C = 1 or 3, not an array of float64 \[8, 8, 4\]"),
        ([np.zeros((3, 8, 3), np.uint8)], "channels first or last"),
        (np.zeros((4, 3, 8, 1), np.uint8), "channels first or last"),
        ([PICTURE, np.zeros((1, 2, 3, 4))], "a picture must be"),
        ([np.zeros((8, 8, 3)), np.zeros((8, 8), bool)], "is not a picture"),
        (pandas.DataFrame({"a": []}), "no rows"),
        (pandas.DataFrame([[1, 2]], columns=["a", "a"]), "several columns named a"),
        ([[10**400]], "rows of equally many numbers"),
        (type("Picture", (), {"__array__": None})(), r"not Picture; numpy\.asarray may"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_can_be_neither_pictures_nor_numbers(inputs: Any, message: str) -> None:
    with hyperdraw.Client(NOBODY) as asking, pytest.raises(ValueError, match=message):
        asking.predict(inputs)


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (
            np.full((4, 4, 3), 200.0),
            r"float64 \[4, 4, 3\] are from 200 to 200; they must be from 0 to 1\..*divide by 255",
        ),
        (np.full((4, 4, 1), -0.1), "from -0.1 to -0.1"),
        (np.full((4, 4, 1), np.nan), "from nan to nan"),
        (np.full((4, 4, 1), 256), "they must be from 0 to 255$"),
        ([np.full((4, 4), -1)], "from -1 to -1"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_pixels_out_of_range_are_explained(pixels: Any, message: str) -> None:
    with hyperdraw.Client(NOBODY) as asking, pytest.raises(ValueError, match=message):
        asking.predict(pixels)


def test_a_file_that_is_open_as_text_is_explained() -> None:
    with (
        hyperdraw.Client(NOBODY) as asking,
        pytest.raises(ValueError, match="binary mode"),
        Path(__file__).open() as file,
    ):
        asking.predict(file)


def test_the_inputs_of_another_kind_of_model_are_explained(ask: Ask, address: str, line_address: str) -> None:
    with pytest.raises(hyperdraw.InvalidRequest) as caught:
        ask(address, "predict", np.zeros((8, 8), np.float32))
    assert caught.value.hint == "digits takes pictures, not rows: files, or pixels as arrays."
    assert caught.value.status == 422
    with pytest.raises(hyperdraw.InvalidRequest) as caught:
        ask(line_address, "predict", PICTURE)
    assert caught.value.hint == "line takes rows of numbers, not pictures: a, b."
    with pytest.raises(hyperdraw.InvalidRequest, match=r"1000\."):
        ask(address, "predict", PICTURE, ensemble_size=5000)
    with pytest.raises(ValueError, match="digits takes pictures, not rows"):
        ask(address, "predict", pandas.DataFrame({"a": [1.0]}))


def test_bytes_of_any_kind_are_pictures(ask: Ask, address: str) -> None:
    assert len(ask(address, "predict", [bytearray(PICTURE), memoryview(PICTURE), PICTURE])) == 3


def test_rows_by_name_are_put_in_the_order_of_the_model(ask: Ask, line_address: str) -> None:
    expected = ask(line_address, "predict", [[0.5, -1.0], [2.0, 3.0]], seed=7)
    frame = pandas.DataFrame({"b": [-1, 3], "name": ["x", "y"], "a": [0.5, 2.0]}, index=[5, 5])
    for inputs in (frame, [{"b": -1, "a": 0.5}, {"a": "2", "b": 3.0}]):
        found = ask(line_address, "predict", inputs, seed=7)
        np.testing.assert_allclose(found.mean, expected.mean, rtol=1e-5)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"a": [1, 2]}, "input 0: a row lacks the column b; the model takes a, b"),
        ({"a": [1, 2], "b": [1, "x"]}, "input 1: b is 'x', not a number"),
        ({"a": [1, 2], "b": [1, None]}, "input 1: b is None, not a number"),
        ({"a": pandas.array([1, None], "Int64"), "b": [1, 2]}, "input 1: a is None, not a number"),
    ],
)
def test_cells_that_are_no_numbers_are_explained(line_address: str, columns: Any, message: str) -> None:
    with hyperdraw.Client(line_address) as asking, pytest.raises(ValueError, match=message):
        asking.predict(pandas.DataFrame(columns))


def test_rows_of_a_table_are_sent_as_they_are(ask: Ask, line_address: str, tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"since": "2020-01-01", "age": 41, "sex": "f", "unused": 1},
        {"since": datetime.date(2021, 3, 1), "age": None, "sex": "m"},
        {"since": "2019-07-07", "age": math.nan, "sex": np.str_("f")},
    ]
    answer = ask(line_address, "predict", rows, model="people", seed=7)
    sent: list[dict[str, Any]] = [
        {"since": "2020-01-01", "age": 41, "sex": "f"},
        {"since": "2021-03-01", "age": None, "sex": "m"},
        {"since": "2019-07-07", "age": None, "sex": "f"},
    ]
    path = f"{line_address}/v1/models/people/predict"
    expected = httpx.post(path, json={"inputs": sent}, params={"seed": 7}).json()["predictions"]
    assert answer.probabilities.tolist() == [pytest.approx(each["probabilities"], rel=1e-4) for each in expected]
    frame = pandas.DataFrame(rows)[["sex", "age", "since"]]
    dates = frame.assign(age=frame["age"].astype("Int64"), since=pandas.to_datetime(frame["since"].astype(str)))
    ordered = [[row[name] for name in ("age", "sex", "since")] for row in rows]
    for inputs in (frame, dates, ordered, list(map(tuple, ordered))):
        again = ask(line_address, "predict", inputs, model="people", seed=7)
        np.testing.assert_allclose(again.probabilities, answer.probabilities, rtol=1e-4)
    with pytest.raises(hyperdraw.InvalidRequest, match="sex in row 1 is 'x'"):
        ask(line_address, "predict", [sent[0], {**sent[1], "sex": "x"}], model="people")
    with pytest.raises(hyperdraw.InvalidRequest, match=r"Row 1 has 2 value\(s\), not 3"):
        ask(line_address, "predict", [ordered[0], ordered[1][:2]], model="people")
    with pytest.raises(ValueError, match=r"input 1: a row must have finite numbers.*inf"):
        ask(line_address, "predict", [sent[0], {**sent[1], "age": math.inf}], model="people")
    with pytest.raises(ValueError, match="a row lacks the column sex; the model takes age, sex, since"):
        ask(line_address, "predict", [{"age": 1, "since": "2020-01-01"}], model="people")
    with pytest.raises(hyperdraw.InvalidRequest) as caught:
        ask(line_address, "predict", PICTURE, model="people")
    assert caught.value.hint == "people takes rows, not pictures: age, sex, since."
