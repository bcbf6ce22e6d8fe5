"""Photographs of many pixels, which JPEG decodes at a smaller size."""

import io
from functools import cache

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from models.inputs.image_file import Size
from models.inputs.image_files import read_size
from models.inputs.pixels import ImageError, decode_pixels
from tests.pictures import add_exif, encode

SIZE = 1600, 1200
DIFFERENCE, MEAN_DIFFERENCE = 4, 1
"""Most that pixels of 255 may differ from those of the image decoded in full."""


@cache
def draw_photograph(seed: int) -> Image.Image:
    """Blurred and sharp noise, as much of each octave, and a sharp edge."""
    generator = np.random.default_rng(seed)
    width, height = SIZE
    total = np.zeros((height, width, 3))
    for octave in (4, 8, 64, 512):
        noise = Image.fromarray(generator.integers(0, 256, (octave, octave, 3), dtype=np.uint8))
        total += np.asarray(noise.resize(SIZE, Image.Resampling.BICUBIC)) / 4.0
    total[:, width // 3 :] *= 0.5
    return Image.fromarray(total.astype(np.uint8))


def decode(content: bytes, shape: tuple[int, int, int], max_pixels: int = 10**7) -> NDArray[np.int_]:
    channels, height, width = shape
    pixels = decode_pixels(content, shape, max_pixels, "image 0")
    return np.frombuffer(pixels, np.uint8).reshape(height, width, channels).astype(int)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0, "quality": 95}])
@pytest.mark.parametrize("shape", [(3, 28, 28), (1, 32, 32), (3, 64, 96), (3, 200, 100), (3, 400, 500)])
def test_the_result_is_nearly_that_of_the_whole_image(options: dict[str, object], shape: tuple[int, int, int]) -> None:
    content = encode(draw_photograph(0), "JPEG", **options)
    whole = decode(encode(Image.open(io.BytesIO(content)), "BMP"), shape)
    difference = np.abs(decode(content, shape) - whole)
    assert difference.max() <= DIFFERENCE
    assert difference.mean() <= MEAN_DIFFERENCE
    if shape[1] >= 400:  # not much smaller
        assert not difference.any()


def test_it_is_turned_upright_as_the_whole_image_is() -> None:
    content = encode(draw_photograph(1), "JPEG")
    turned = add_exif(content, b"MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0")
    upright = Image.open(io.BytesIO(content)).transpose(Image.Transpose.ROTATE_270)
    for shape in ((3, 40, 60), (3, 60, 40), (3, 30, 390)):
        assert np.abs(decode(turned, shape) - decode(encode(upright, "BMP"), shape)).max() <= DIFFERENCE


def test_photographs_of_telephones_are_taken_at_the_usual_limit() -> None:
    for size in ((6000, 4000), (8064, 6048), (8160, 6120)):
        content = encode(Image.new("RGB", size, (10, 120, 200)), "JPEG", quality=50)
        assert read_size(content) == Size(*size, 0.5)
        assert np.abs(decode(content, (3, 28, 28), 25_000_000) - [10, 120, 200]).max() <= 3
    with pytest.raises(ImageError, match=r"8,200 × 6,100 pixels.* at most 50,000,000 pixels"):
        decode(encode(Image.new("L", (8200, 6100)), "JPEG"), (3, 28, 28), 25_000_000)
    with pytest.raises(ImageError, match=r"5,001 × 5,000 pixels.* at most 25,000,000 pixels"):
        decode(encode(Image.new("1", (5001, 5000))), (3, 28, 28), 25_000_000)
