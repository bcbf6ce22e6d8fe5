from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from models.input import ImageSpec
from service.errors import ServiceError
from service.images import decode_image
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


BAD: dict[str, tuple[Callable[[], bytes], int, str]] = {
    "empty": (lambda: b"", 422, "no PNG, JPEG or WebP"),
    "text": (lambda: b"hello, I am an image", 422, "no PNG, JPEG or WebP"),
    "wrong magic": (lambda: b"\x89PNX" + encode(draw_image())[4:], 422, "no PNG, JPEG or WebP"),
    "GIF": (lambda: encode(draw_image(), "GIF"), 422, "no PNG, JPEG or WebP"),
    "TIFF": (lambda: encode(draw_image(), "TIFF"), 422, "no PNG, JPEG or WebP"),
    "truncated PNG": (lambda: encode(draw_image())[:-30], 422, "cannot be decoded"),
    "truncated JPEG": (lambda: encode(draw_image(), "JPEG")[:-100], 422, "cannot be decoded"),
    "truncated WebP": (lambda: encode(draw_image("RGB"), "WEBP")[:-30], 422, "decoded"),
    "too little data": (lambda: forge_png(500, 500), 422, "cannot be decoded"),
    "0×0": (lambda: forge_png(0, 0), 422, "cannot be decoded"),
    "0 wide": (lambda: forge_png(0, 10), 422, "cannot be decoded"),
    "bomb": (lambda: forge_png(60_000, 60_000), 413, "too large"),
    "bomb of one row": (lambda: forge_png(2**31 - 1, 1), 413, "too large"),
    "over the limit": (lambda: encode(draw_image(size=(1001, 1000))), 413, "1001 × 1000 pixels"),
    "16-bit": (lambda: encode(Image.fromarray(np.zeros((9, 9), np.uint16))), 422, "16"),
    "CMYK": (lambda: encode(draw_image("CMYK"), "JPEG"), 422, "CMYK"),
    "palette": (lambda: encode(draw_image("P")), 422, "palette"),
    "animated PNG": (lambda: animated("PNG"), 422, "animated"),
    "animated WebP": (lambda: animated("WEBP"), 422, "animated"),
    "transparent": (transparent, 422, "transparent"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_images_are_refused(case: str) -> None:
    make, status, message = BAD[case]
    with pytest.raises(ServiceError) as caught:
        decode(make())
    assert caught.value.status == status
    assert message in caught.value.detail.message
    assert "image 0" in caught.value.detail.message
    assert caught.value.detail.hint


@given(cut=st.integers(0, 400), position=st.integers(0, 400), value=st.integers(0, 255))
def test_damage_never_crashes(cut: int, position: int, value: int) -> None:
    content = bytearray(encode(draw_image("RGB")))
    content[position % len(content)] = value
    for damaged in (bytes(content), bytes(content[: cut % len(content)])):
        try:
            pixels = decode(damaged)
        except ServiceError as error:
            status = error.status
        else:
            assert pixels.shape == (1, 28, 28)
            status = 200
        assert status in (200, 413, 422)
