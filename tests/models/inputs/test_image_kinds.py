"""Kinds of image files that can be read in one way: known pixels, and what is refused."""

import io
import random
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps

from models.inputs.image_files import read_image_file
from models.inputs.pixels import ImageError, decode_pixels
from tests.pictures import chunk, draw_image, encode, write_png, write_tiff

Pixels = NDArray[Any]
SIDE = 28
NOISE = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
COLOUR = Image.fromarray(NOISE)
GREY = Image.fromarray(NOISE[..., 0])
PALETTE = COLOUR.quantize(200)
TIFF_CODES = ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits")


def decode(content: bytes, channels: int = 3) -> Pixels:
    pixels = decode_pixels(content, (channels, SIDE, SIDE), 1_000_000, "image 0")
    return np.frombuffer(pixels, np.uint8).reshape(SIDE, SIDE, channels)


def judge(content: bytes) -> str:
    """What an image is refused for, or that it is taken."""
    try:
        decode(content)
    except ImageError as error:
        return error.message
    return "taken"


@pytest.mark.parametrize("kind", ["PNG", "GIF", "BMP", "TIFF"])
@pytest.mark.parametrize("colours", [1, 2, 3, 16, 200])
def test_palettes_are_the_colours_that_they_name(kind: str, colours: int) -> None:
    image = COLOUR.quantize(colours)
    assert np.array_equal(decode(encode(image, kind)), np.asarray(image.convert("RGB")))
    grey = image.convert("RGB").convert("L")
    assert np.array_equal(decode(encode(image, kind), 1)[..., 0], np.asarray(grey))


@pytest.mark.parametrize("kind", ["PNG", "GIF", "BMP", "TIFF"])
@pytest.mark.parametrize("mode", ["1", "L", "RGB"])
def test_plain_pixels_are_taken_as_they_are(kind: str, mode: str) -> None:
    image = (GREY if mode != "RGB" else PALETTE.convert("RGB") if kind == "GIF" else COLOUR).convert(mode)
    stored = image.convert("P", palette=Image.Palette.ADAPTIVE) if (kind, mode) == ("GIF", "RGB") else image
    assert np.array_equal(decode(encode(stored, kind)), np.asarray(stored.convert("RGB")))


@pytest.mark.parametrize("bits", [1, 4, 8])
@pytest.mark.parametrize("colours", [2, 3, 16, 256])
def test_palettes_of_greys_keep_their_depth(bits: int, colours: int) -> None:
    """Of BMP, where Pillow takes some for levels of grey: black and white, and the darkest greys."""
    if colours > 2**bits:
        return
    indices = np.random.default_rng(bits).integers(0, colours, (SIDE, SIDE))
    levels = np.arange(colours)
    for palette in (levels, np.array([0, 255, *levels[2:]])):
        for upside_down in (True, False):
            content = write_bmp(indices, palette, bits, upside_down)
            assert np.array_equal(decode(content, 1)[..., 0], palette[indices])
            assert read_image_file(content, 10**6).grey


def write_bmp(indices: Pixels, levels: Pixels, bits: int, upside_down: bool) -> bytes:
    packed = [np.packbits(row[:, None] >> np.arange(bits - 1, -1, -1) & 1).tobytes() for row in indices]
    rows = [row.ljust(-(-len(row) // 4) * 4, b"\0") for row in packed]
    palette = b"".join(bytes([level] * 3 + [0]) for level in levels.tolist())
    height = SIDE if upside_down else -SIDE
    header = struct.pack("<IiiHHIIiiII", 40, SIDE, height, 1, bits, 0, 0, 0, 0, len(levels), 0)
    start = 14 + len(header) + len(palette)
    pixels = b"".join(rows[::-1] if upside_down else rows)
    return struct.pack("<2sIII", b"BM", start + len(pixels), 0, start) + header + palette + pixels


@pytest.mark.parametrize("code", TIFF_CODES)
@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGB", "RGBA", "CMYK"])
def test_tiff_of_any_coding_is_the_same(code: str, mode: str) -> None:
    image = PALETTE if mode == "P" else COLOUR.convert(mode)
    assert np.array_equal(decode(encode(image, "TIFF", compression=code)), np.asarray(image.convert("RGB")))


def test_lossy_tiff_and_fax_are_taken() -> None:
    smooth = Image.new("RGB", (SIDE, SIDE), (10, 200, 90))
    assert abs(decode(encode(smooth, "TIFF", compression="jpeg")).astype(int) - [10, 200, 90]).max() <= 3
    page = GREY.convert("1")
    for code in ("group3", "group4", "tiff_ccitt"):
        assert np.array_equal(decode(encode(page, "TIFF", compression=code), 1)[..., 0], np.asarray(page.convert("L")))


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("bits", [1, 8, 16])
def test_white_may_be_zero(order: str, bits: int) -> None:
    levels = np.random.default_rng(1).integers(0, 2**bits, (SIDE, SIDE))
    stored = levels.astype(f"{order}u2") if bits == 16 else levels.astype(np.uint8)
    rows = b"".join(np.packbits(row).tobytes() for row in stored) if bits == 1 else stored.tobytes()
    expected = np.round(levels * 255 / (2**bits - 1)).astype(int)
    for meaning, pixels in ((1, expected), (0, 255 - expected)):
        content = write_tiff(SIDE, SIDE, rows, {258: bits, 262: meaning}, order)
        assert np.abs(decode(content, 1)[..., 0].astype(int) - pixels).max() <= (bits == 16)


def test_cmyk_becomes_rgb() -> None:
    """Red is (1 - C)(1 - K), in JPEG with its inverted levels and in TIFF."""
    image = Image.new("CMYK", (SIDE, SIDE), (255, 51, 0, 102))
    for content in (encode(image, "TIFF"), encode(image, "JPEG", quality=100)):
        assert abs(decode(content)[0, 0].astype(int) - [0, 0.8 * 0.6 * 255, 0.6 * 255]).max() <= 2
    grey = decode(encode(image, "TIFF"), 1)[0, 0, 0]
    assert abs(int(grey) - (0.587 * 122.4 + 0.114 * 153)) <= 2


@pytest.mark.parametrize(("colour", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_sixteen_bits_are_divided_by_257(colour: int, channels: int) -> None:
    values = np.random.default_rng(colour).integers(0, 65_536, (SIDE, SIDE, channels))
    values[0, 0], values[0, 1], values[0, 2] = 0, 65_535, 32_768
    if colour in (4, 6):
        values[..., -1] = 65_535
    kept = 3 if colour in (2, 6) else 1
    expected = np.round(values[..., :kept] / 257)
    assert np.array_equal(decode(write_deep_png(values, colour), kept), expected)
    if colour in (4, 6):
        values[5, 5, -1] = 65_000
        assert "transparent" in judge(write_deep_png(values, colour))
        return
    declared = struct.pack(f">{channels}H", *values[7, 7].tolist())
    assert "transparent" in judge(write_deep_png(values, colour, chunk(b"tRNS", declared)))
    beside = struct.pack(f">{channels}H", *(values[7, 7] ^ 1).tolist())  # the same in 8 bits
    assert np.array_equal(decode(write_deep_png(values, colour, chunk(b"tRNS", beside)), kept), expected)


def write_deep_png(values: Pixels, colour: int, *before: bytes) -> bytes:
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    return write_png(SIDE, SIDE, rows, 16, colour, *before)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("meaning", "channels"), [(1, 1), (2, 3), (2, 4), (5, 4)])
def test_sixteen_bits_of_tiff(order: str, meaning: int, channels: int) -> None:
    values = np.random.default_rng(2).integers(0, 65_536, (SIDE, SIDE, channels))
    tags: dict[int, int | tuple[int, ...]] = {258: (16,) * channels, 262: meaning, 277: channels}
    if (meaning, channels) == (2, 4):
        values[..., 3] = 65_535
        tags[338] = 1
    content = write_tiff(SIDE, SIDE, values.astype(f"{order}u2").tobytes(), tags, order)
    eight = np.round(values / 257).astype(np.uint8)
    expected = np.asarray(Image.fromarray(eight, "CMYK").convert("RGB")) if meaning == 5 else eight[..., :3]
    assert np.array_equal(decode(content, expected.shape[-1]), expected)


def test_planes_and_tiles_are_put_together() -> None:
    planes = NOISE.transpose(2, 0, 1).tobytes()
    content = write_tiff(SIDE, SIDE, planes, {258: (8, 8, 8), 262: 2, 277: 3, 284: 2}, strips=3)
    assert np.array_equal(decode(content), NOISE)
    padded = np.zeros((32, 32), np.uint8)
    padded[:SIDE, :SIDE] = NOISE[..., 0]
    tiles = padded.reshape(2, 16, 2, 16).transpose(0, 2, 1, 3).tobytes()
    content = write_tiff(SIDE, SIDE, tiles, {258: 8, 262: 1, 322: 16, 323: 16}, strips=4)
    assert np.array_equal(decode(content, 1)[..., 0], NOISE[..., 0])


def test_avif_is_nearly_what_was_stored() -> None:
    for mode in ("L", "RGB", "RGBA"):
        content = encode(COLOUR.convert(mode), "AVIF", quality=100, subsampling="4:4:4")
        assert abs(decode(content).astype(int) - np.asarray(COLOUR.convert(mode).convert("RGB"))).max() <= 4


@pytest.mark.parametrize("kind", ["AVIF", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_upright_image_is_taken(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    content = encode(COLOUR, kind, exif=exif)
    upright = Image.open(io.BytesIO(content))
    upright.load()
    assert np.array_equal(decode(content), np.asarray(ImageOps.exif_transpose(upright)))


def test_previews_are_not_pages() -> None:
    first, second = (encode(image, "TIFF") for image in (COLOUR, GREY))
    assert np.array_equal(decode(chain_tiff(first, second, subfile=1)), NOISE)
    assert np.array_equal(decode(chain_tiff(second, first, subfile=1), 1)[..., 0], NOISE[..., 0])
    assert "several pages" in judge(chain_tiff(first, second, subfile=0))


def chain_tiff(first: bytes, second: bytes, subfile: int) -> bytes:
    """A file of Pillow's with another one's directory behind its own; that one has no pixels that anybody reads."""
    position = 8 + 2 + 12 * struct.unpack_from("<H", first, 8)[0]
    tags = (
        struct.pack("<H", 2) + struct.pack("<HHII", 254, 4, 1, subfile) + struct.pack("<HHII", 256, 4, 1, 9) + bytes(4)
    )
    return first[:position] + struct.pack("<I", len(first)) + first[position + 4 :] + tags + second


SOME_CLEAR = COLOUR.convert("RGBA")
SOME_CLEAR.paste((1, 2, 3, 100), (3, 4, 9, 9))


def animate(kind: str) -> bytes:
    return encode(COLOUR, kind, save_all=True, append_images=[COLOUR.rotate(90)])


REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "animated GIF": (lambda: animate("GIF"), "is animated"),
    "animated AVIF": (lambda: animate("AVIF"), "is animated"),
    "pages": (lambda: animate("TIFF"), "has several pages"),
    "clear colour of PNG": (lambda: encode(PALETTE, "PNG", transparency=5), "has transparent pixels"),
    "clear colour of GIF": (lambda: encode(PALETTE, "GIF", transparency=5), "has transparent pixels"),
    "clear TIFF": (lambda: encode(SOME_CLEAR, "TIFF"), "has transparent pixels"),
    "clear AVIF": (lambda: encode(SOME_CLEAR, "AVIF"), "has transparent pixels"),
    "clear BMP": (lambda: encode(SOME_CLEAR, "BMP"), "may have transparent pixels"),
    "small picture": (lambda: cover_less(encode(PALETTE, "GIF")), "does not cover all of it"),
    "colour beyond": (lambda: cut_palette(encode(PALETTE, "PNG")), "whose colour its palette lacks"),
    "compressed BMP": (lambda: change_bmp(encode(PALETTE, "BMP"), 30, 1), "is a BMP file with compressed pixels"),
    "negative": (lambda: encode(GREY.convert("I"), "TIFF"), "negative or fractional"),
    "inks": (lambda: write_tiff(9, 9, bytes(324), {258: (8,) * 4, 262: 5, 277: 4, 332: 2}), "the kind of colours 5"),
    "deep planes": (
        lambda: write_tiff(9, 9, bytes(486), {258: (16,) * 3, 262: 2, 277: 3, 284: 2}, strips=3),
        "16 bits in a plane for each channel",
    ),
    "raw": (lambda: write_tiff(9, 9, bytes(81), {258: 8, 262: 1, 50706: 1}), "is a camera's raw file"),
    "odd channels": (
        lambda: write_tiff(9, 9, bytes(324), {258: (8,) * 4, 262: 2, 277: 4, 338: 0}),
        "channels whose meaning",
    ),
    "odd tiles": (lambda: write_tiff(9, 9, bytes(81), {258: 8, 262: 1, 322: 9, 323: 9}), "multiples of 16"),
    "huge tiles": (lambda: write_tiff(9, 9, bytes(81), {258: 8, 262: 1, 322: 4096, 323: 4096}), "is too large"),
}


def cover_less(content: bytes) -> bytes:
    """A GIF whose screen is a row higher than its picture."""
    return content[:8] + struct.pack("<H", SIDE + 1) + content[10:]


def cut_palette(content: bytes) -> bytes:
    """A PNG whose palette has only its first colour."""
    position = content.index(b"PLTE") - 4
    (length,) = struct.unpack_from(">I", content, position)
    return (
        content[:position] + chunk(b"PLTE", content[position + 8 : position + 11]) + content[position + 12 + length :]
    )


def change_bmp(content: bytes, offset: int, value: int) -> bytes:
    return content[:offset] + bytes([value]) + content[offset + 1 :]


@pytest.mark.parametrize("case", REFUSED)
def test_what_can_be_read_in_several_ways_is_refused(case: str) -> None:
    make, message = REFUSED[case]
    assert message in judge(make())


def test_colours_that_no_pixel_has_may_be_transparent() -> None:
    for content in (
        encode(PALETTE, "GIF", transparency=240),
        encode(PALETTE, "PNG", transparency=b"\xff" * 200 + b"\0"),
    ):
        assert np.array_equal(decode(content), np.asarray(PALETTE.convert("RGB")))


SEEDS = [encode(PALETTE, kind) for kind in ("PNG", "GIF", "BMP", "TIFF")]
SEEDS += [encode(draw_image(mode), "TIFF", compression="tiff_lzw") for mode in ("1", "L", "RGB", "CMYK")]
SEEDS += [encode(draw_image("RGB", (20, 20)), "AVIF"), animate("GIF"), encode(PALETTE, "GIF", transparency=240)]
SEEDS += [write_deep_png(np.full((SIDE, SIDE, 3), 999), 2), encode(GREY.convert("I;16"), "TIFF")]


@pytest.mark.parametrize("kind", ["GIF", "BMP", "TIFF", "AVIF"])
def test_no_file_may_end_early(kind: str) -> None:
    content = encode(PALETTE if kind == "GIF" else COLOUR.convert("L"), kind)
    complete = len(content) - (kind == "GIF")  # a GIF's last byte only says that no other picture follows
    generator = random.Random(0)
    for end in [*range(40), *(generator.randrange(complete) for _ in range(150)), complete - 1]:
        assert judge(content[:end]) != "taken", end


def test_damage_never_crashes() -> None:
    generator, verdicts = random.Random(0), set()
    for _ in range(3000):
        content = bytearray(generator.choice(SEEDS))
        for _ in range(generator.choice((1, 1, 2, 5))):
            at = generator.randrange(len(content) if generator.random() < 0.5 else min(200, len(content)))
            other = generator.randrange(len(content))
            new = generator.choice((generator.randbytes(4), b"", bytes(4), bytes(content[other : other + 100])))
            content[at : at + generator.choice((0, 1, 4, 9))] = new
        verdicts.add(judge(bytes(content))[:30])
    assert "taken" in verdicts
    assert len(verdicts) > 8
