from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from models.images import ImageError, decode_image
from models.input import ImageSpec
from tests.pictures import draw_image, encode, forge_png

GREY = ImageSpec(channels=1, height=28, width=28, mean=(0.0,), std=(1.0,))
COLOR = ImageSpec(channels=3, height=20, width=30, mean=(0.0,) * 3, std=(1.0,) * 3)


def decode(content: bytes, spec: ImageSpec = GREY) -> torch.Tensor:
    return decode_image(content, spec, max_pixels=1_000_000, name="image 0")


def test_an_image_of_the_right_size_is_taken_as_it_is() -> None:
    pixels = np.arange(28 * 28, dtype=np.uint8).reshape(28, 28)
    assert np.array_equal(decode(encode(Image.fromarray(pixels)))[0].numpy(), pixels)
    colors = np.arange(20 * 30 * 3, dtype=np.uint8).reshape(20, 30, 3)
    assert np.array_equal(decode(encode(Image.fromarray(colors)), COLOR).permute(1, 2, 0).numpy(), colors)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "RGB", "RGBA"])
@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_plain_modes_mean_the_same(mode: str, kind: str) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    pixels = decode(encode(draw_image(mode, (28, 28)), kind, **options))
    assert torch.equal(pixels, decode(encode(draw_image("L", (28, 28)))))


def test_sizes_are_fitted() -> None:
    for size in ((1, 1), (28, 28), (300, 200), (999, 1000)):
        assert decode(encode(draw_image(size=size))).shape == (1, 28, 28)
        assert decode(encode(draw_image("RGB", size), "JPEG"), COLOR).shape == (3, 20, 30)


def test_the_camera_may_be_turned() -> None:
    upright = draw_image(size=(28, 28))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by 90° clockwise
    turned = encode(upright.transpose(Image.Transpose.ROTATE_90), "PNG", exif=exif)
    assert torch.equal(decode(turned), decode(encode(upright)))


def animated(kind: str) -> bytes:
    frames = [draw_image("RGB"), draw_image("RGB").rotate(90)]
    return encode(frames[0], kind, save_all=True, append_images=frames[1:])


def transparent() -> bytes:
    image = draw_image("RGBA")
    image.putpixel((0, 0), (0, 0, 0, 254))
    return encode(image)


BAD: dict[str, tuple[Callable[[], bytes], str, str]] = {
    "empty": (lambda: b"", "invalid", "no PNG, JPEG or WebP"),
    "text": (lambda: b"hello, I am an image", "invalid", "no PNG, JPEG or WebP"),
    "wrong magic": (lambda: b"\x89PNX" + encode(draw_image())[4:], "invalid", "no PNG, JPEG or WebP"),
    "GIF": (lambda: encode(draw_image(), "GIF"), "invalid", "no PNG, JPEG or WebP"),
    "TIFF": (lambda: encode(draw_image(), "TIFF"), "invalid", "no PNG, JPEG or WebP"),
    "truncated PNG": (lambda: encode(draw_image())[:-30], "invalid", "cannot be decoded"),
    "truncated JPEG": (lambda: encode(draw_image(), "JPEG")[:-100], "invalid", "cannot be decoded"),
    "truncated WebP": (lambda: encode(draw_image("RGB"), "WEBP")[:-30], "invalid", "decoded"),
    "too little data": (lambda: forge_png(500, 500), "invalid", "cannot be decoded"),
    "0×0": (lambda: forge_png(0, 0), "invalid", "cannot be decoded"),
    "0 wide": (lambda: forge_png(0, 10), "invalid", "cannot be decoded"),
    "bomb": (lambda: forge_png(60_000, 60_000), "too_large", "too large"),
    "bomb of one row": (lambda: forge_png(2**31 - 1, 1), "too_large", "too large"),
    "over the limit": (lambda: encode(draw_image(size=(1001, 1000))), "too_large", "1,001 × 1,000 pixels"),
    "16-bit": (lambda: encode(Image.fromarray(np.zeros((9, 9), np.uint16))), "unsupported", "16"),
    "CMYK": (lambda: encode(draw_image("CMYK"), "JPEG"), "unsupported", "CMYK"),
    "palette": (lambda: encode(draw_image("P")), "unsupported", "palette"),
    "animated PNG": (lambda: animated("PNG"), "unsupported", "animated"),
    "animated WebP": (lambda: animated("WEBP"), "unsupported", "animated"),
    "transparent": (transparent, "unsupported", "transparent"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_images_are_refused(case: str) -> None:
    make, kind, message = BAD[case]
    with pytest.raises(ImageError) as caught:
        decode(make())
    assert caught.value.kind == kind
    assert message in caught.value.message
    assert "image 0" in caught.value.message
    assert caught.value.hint


@given(cut=st.integers(0, 400), position=st.integers(0, 400), value=st.integers(0, 255))
def test_damage_never_crashes(cut: int, position: int, value: int) -> None:
    content = bytearray(encode(draw_image("RGB")))
    content[position % len(content)] = value
    for damaged in (bytes(content), bytes(content[: cut % len(content)])):
        try:
            assert decode(damaged).shape == (1, 28, 28)
        except ImageError as error:
            assert error.hint  # noqa: PT017  (any image error will do)
