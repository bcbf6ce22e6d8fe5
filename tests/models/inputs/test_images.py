import io
import itertools
import random
import struct
import threading
import warnings
import zlib
from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile

from models.inputs.image import ImageSpec
from models.inputs.image_file import MAX_PARTS
from models.inputs.jpeg import MAX_SCANS
from models.inputs.pixels import ImageError, decode_image
from tests.pictures import (
    chunk,
    draw_black,
    draw_image,
    encode,
    forge_png,
    list_webp,
    pad_jpeg,
    repeat_scan,
    write_png,
    write_webp,
)

GREY = ImageSpec(channels=1, height=28, width=28, mean=(0.0,), std=(1.0,))
COLOR = ImageSpec(channels=3, height=20, width=30, mean=(0.0,) * 3, std=(1.0,) * 3)


def decode(content: bytes, spec: ImageSpec = GREY, max_pixels: int = 1_000_000) -> torch.Tensor:
    return decode_image(content, spec, max_pixels, name="image 0")


def judge(content: bytes) -> str:
    """What an image is refused for, or that it is taken."""
    try:
        decode(content)
    except ImageError as error:
        return error.message
    return "taken"


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


REFUSED = {"YCbCr": "kind of colours 6", "LAB": "kind of colours 8", "F": "fractional", "I": "negative"}
REFUSED |= {"RGBX": "channels whose meaning", "PA": "2 channels of 8 bits"}
"""Modes that are refused, and why, if TIFF stores them."""

MODES = ["1", "L", "LA", "La", "RGB", "RGBA", "RGBa", "HSV", "P", "CMYK", "I;16", "I;16B", "I;16L", "I;16N", *REFUSED]
LEAST = {"PNG": 8, "JPEG": 5, "WEBP": 8, "GIF": 4, "BMP": 5, "TIFF": 14, "AVIF": 8}
"""Number of modes that each format can store."""


@pytest.mark.parametrize(("kind", "least"), LEAST.items())
def test_every_mode_that_can_be_stored_is_taken_or_refused(kind: str, least: int) -> None:
    modes = set()
    for mode in MODES:
        try:
            content = encode(Image.new(mode, (9, 9)), kind, **({"exact": True} if kind == "WEBP" else {}))
        except (OSError, KeyError, ValueError):
            continue  # there is no such file
        modes.add(mode)
        stored = Image.open(io.BytesIO(content))
        clear = not stored.mode.startswith("I;16") and any(stored.convert("RGBA").getchannel("A").histogram()[:255])
        expected = REFUSED.get(mode if kind == "TIFF" else "") or ("transparent" if clear else "taken")
        assert expected in judge(content), (mode, stored.mode)
    assert len(modes) >= least


CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}


def draw_rows(depth: int, color: int, alpha: int = 255) -> bytes:
    """Nine rows of nine pixels, black and white in turn, each after its filter; of the darkest and brightest levels."""
    channels = CHANNELS[color]
    pixels = np.zeros((9, 9, channels), int)
    pixels[:, 1::2] = 1 if color == 3 else 2**depth - 1
    if color in (4, 6):
        pixels[..., -1] = alpha * (2**depth - 1) // 255
    bits = np.concatenate([pixels[..., None] >> shift & 1 for shift in reversed(range(depth))], axis=-1)
    return b"".join(b"\0" + np.packbits(row).tobytes() for row in bits.reshape(9, -1).astype(np.uint8))


@pytest.mark.parametrize(
    ("depth", "color"),
    [*itertools.product((1, 2, 4, 8), (0, 3)), *itertools.product((8, 16), (2, 4, 6)), (16, 0)],
)
def test_every_kind_of_png_is_judged_by_one_rule(depth: int, color: int) -> None:
    """It must be opaque: colours that are declared transparent count if they occur."""
    palette = [chunk(b"PLTE", bytes([0, 0, 0, 255, 255, 255]))] if color == 3 else []

    def make(*before: bytes, alpha: int = 255) -> bytes:
        return write_png(9, 9, draw_rows(depth, color, alpha), depth, color, *palette, *before)

    expected = torch.zeros(9, 9, dtype=torch.uint8)
    expected[:, 1::2] = 255
    spec = ImageSpec(channels=1, height=9, width=9, mean=(0.0,), std=(1.0,))
    assert torch.equal(decode(make(), spec)[0], expected)
    if color in (4, 6):
        assert "transparent" in judge(make(alpha=254))
        return
    if color == 3:
        for alphas, verdict in ((b"\0", "transparent"), (b"\xff\xfe", "transparent"), (b"\xff\xff\0", "taken")):
            assert verdict in judge(make(chunk(b"tRNS", alphas)))
        return
    channels = 3 if color == 2 else 1
    for level, verdict in ((0, "transparent"), (2**depth - 1, "transparent"), (2**depth // 3, "taken")):
        declared = make(chunk(b"tRNS", struct.pack(">H", level) * channels))
        assert (verdict if depth > 1 else "transparent") in judge(declared)  # every level of a single bit occurs


def test_a_transparent_colour_is_one_of_all_channels() -> None:
    """Black and white, none of them black in one channel and white in the others."""
    rows = draw_rows(8, 2)
    assert judge(write_png(9, 9, rows, 8, 2, chunk(b"tRNS", struct.pack(">HHH", 0, 255, 255)))) == "taken"
    assert "transparent" in judge(write_png(9, 9, rows, 8, 2, chunk(b"tRNS", struct.pack(">HHH", 255, 255, 255))))


def test_sizes_are_fitted() -> None:
    for size in ((1, 1), (28, 28), (300, 200), (999, 1000)):
        assert decode(encode(draw_image(size=size))).shape == (1, 28, 28)
        assert decode(encode(draw_image("RGB", size), "JPEG"), COLOR).shape == (3, 20, 30)


def write_mpo() -> bytes:
    """A photograph and another picture in one JPEG, as cameras and drones write them."""
    return encode(draw_image("RGB"), "MPO", save_all=True, append_images=[draw_image("RGB").rotate(90)])


def test_of_several_pictures_in_a_jpeg_the_first_is_the_photograph() -> None:
    content = write_mpo()
    assert Image.open(io.BytesIO(content)).format == "MPO"
    first, second = (decode(encode(draw_image("RGB").rotate(turn), "JPEG")) for turn in (0, 90))
    assert torch.equal(decode(content), first)
    assert not torch.equal(decode(content), second)
    index = content.index(b"MPF\0")
    for position in range(index, index + 80):  # a damaged index of the pictures concerns none of them
        assert torch.equal(decode(content[:position] + b"\xff" + content[position + 1 :]), first)
    assert torch.equal(decode(encode(draw_image("RGB"), "JPEG") + b"a film, as telephones append it"), first)


def test_an_animation_of_one_picture_is_a_picture() -> None:
    still = encode(draw_image("L", (28, 28)))
    declared = still[:33] + chunk(b"acTL", struct.pack(">II", 1, 0)) + still[33:]
    assert torch.equal(decode(declared), decode(still))
    for damaged in (b"", b"\0\0", bytes(8)):
        assert torch.equal(decode(still[:33] + chunk(b"acTL", damaged) + still[33:]), decode(still))


def animated(kind: str) -> bytes:
    frames = [draw_image("RGB"), draw_image("RGB").rotate(90)]
    return encode(frames[0], kind, save_all=True, append_images=frames[1:])


def transparent() -> bytes:
    image = draw_image("RGBA")
    image.putpixel((0, 0), (0, 0, 0, 254))
    return encode(image)


def change(content: bytes, kind: bytes, offset: int) -> bytes:
    """Another byte, some way behind a name."""
    position = content.index(kind) + offset
    return content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :]


def forge_jpeg(width: int, height: int, bits: int = 8) -> bytes:
    """A JPEG whose header claims a size and a depth."""
    content = encode(draw_image(), "JPEG")
    position = content.index(b"\xff\xc0") + 4
    return content[:position] + struct.pack(">BHH", bits, height, width) + content[position + 5 :]


def forge_webp(width: int, height: int) -> bytes:
    """A WebP whose canvas is larger than its picture."""
    canvas = bytes(4) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return write_webp((b"VP8X", canvas), *list_webp(encode(draw_image(), "WEBP")))


def drop_adobe(content: bytes) -> bytes:
    """A JPEG of four channels that does not say what they mean."""
    position = content.index(b"\xff\xee\0\x0eAdobe")
    return content[:position] + content[position + 16 :]


def pad_webp(chunks: int) -> bytes:
    return write_webp(*list_webp(encode(draw_image(), "WEBP")), *[(b"JUNK", b"")] * chunks)


JPEG = encode(draw_image(), "JPEG")
NOT_AN_IMAGE = "not a PNG, JPEG, WebP, GIF, BMP, TIFF or AVIF file"
BAD: dict[str, tuple[Callable[[], bytes], str, str]] = {
    "empty": (lambda: b"", "invalid", NOT_AN_IMAGE),
    "text": (lambda: b"hello, I am an image", "invalid", NOT_AN_IMAGE),
    "wrong magic": (lambda: b"\x89PNX" + encode(draw_image())[4:], "invalid", NOT_AN_IMAGE),
    "film": (lambda: b"\0\0\0\x18ftypisom" + bytes(99), "invalid", NOT_AN_IMAGE),
    "icon": (lambda: encode(draw_image("RGB"), "ICO"), "invalid", NOT_AN_IMAGE),
    "HEIC": (lambda: b"\0\0\0\x18ftypheic" + bytes(99), "unsupported", "is a HEIC file"),
    "truncated PNG": (lambda: encode(draw_image())[:-30], "invalid", "cannot be decoded"),
    "truncated JPEG": (lambda: JPEG[:-100], "invalid", "cannot be decoded"),
    "truncated WebP": (lambda: encode(draw_image("RGB"), "WEBP")[:-30], "invalid", "decoded"),
    "JPEG without end": (lambda: JPEG[:-2], "invalid", "before its last pixels"),
    "JPEG without pixels": (lambda: JPEG[: JPEG.index(b"\xff\xda")] + JPEG[-2:], "invalid", "no pixels"),
    "JPEG cut before another": (lambda: JPEG[:-2] + JPEG, "invalid", "another picture begins"),
    "too little data": (lambda: forge_png(500, 500), "invalid", "cannot be decoded"),
    "a byte too few": (lambda: write_png(28, 28, bytes(28 * 29 - 1)), "invalid", "before its last pixels"),
    "changed pixels": (lambda: change(encode(draw_image()), b"IDAT", 20), "invalid", "checksum of a chunk IDAT"),
    "changed header": (lambda: change(encode(draw_image()), b"IHDR", 7), "invalid", "checksum of a chunk IHDR"),
    "two headers": (lambda: draw_black(draw_black()[8:33]), "invalid", "two headers"),
    "0×0": (lambda: forge_png(0, 0), "invalid", "cannot be decoded"),
    "0 wide": (lambda: forge_png(0, 10), "invalid", "cannot be decoded"),
    "0 high": (lambda: forge_jpeg(10, 0), "invalid", "10 × 0 pixels"),
    "bomb": (lambda: forge_png(60_000, 60_000), "too_large", "too large"),
    "bomb of one row": (lambda: forge_png(2**31 - 1, 1), "too_large", "too large"),
    "over the limit": (lambda: encode(draw_image(size=(1001, 1000))), "too_large", "1,001 × 1,000 pixels"),
    "JPEG over the limit": (lambda: forge_jpeg(2001, 1000), "too_large", "2,001 × 1,000 pixels"),
    "wide": (lambda: forge_png(65_501, 1), "too_large", "65,501 × 1 pixels"),
    "high": (lambda: forge_png(1, 65_501), "too_large", "1 × 65,501 pixels"),
    "wide JPEG": (lambda: forge_jpeg(65_535, 15), "too_large", "65,535 × 15 pixels"),
    "large WebP": (lambda: encode(draw_image(size=(1000, 751)), "WEBP"), "too_large", "1,000 × 751 pixels"),
    "large WebP's canvas": (lambda: forge_webp(16_000, 16_000), "too_large", "16,000 × 16,000 pixels"),
    "small WebP's canvas": (lambda: forge_webp(300, 300), "invalid", "cannot be decoded"),
    "scans": (lambda: repeat_scan(5000), "unsupported", f"has more than {MAX_SCANS} scans"),
    "segments": (lambda: pad_jpeg(MAX_PARTS), "unsupported", "has more than 100,000 segments"),
    "chunks": (lambda: draw_black(*[chunk(b"tEXt", b"")] * MAX_PARTS), "unsupported", "has more than 100,000 chunks"),
    "chunks of WebP": (lambda: pad_webp(MAX_PARTS), "unsupported", "has more than 100,000 chunks"),
    "12-bit JPEG": (lambda: forge_jpeg(40, 40, bits=12), "unsupported", "12 bits"),
    "CMYK without a marker": (
        lambda: drop_adobe(encode(draw_image("CMYK"), "JPEG")),
        "unsupported",
        "is CMYK and does",
    ),
    "unknown critical chunk": (lambda: draw_black(chunk(b"CgBI", b"")), "invalid", "critical chunk CgBI"),
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


def test_what_encoders_write_is_far_below_the_bounds() -> None:
    assert decode(repeat_scan(MAX_SCANS - 10)).shape == (1, 28, 28)  # Pillow's own are 10
    many = [chunk(b"IDAT", bytes([byte])) for byte in zlib.compress(bytes(28 * 29))]
    assert torch.equal(decode(draw_black()[:33] + b"".join(many) + chunk(b"IEND", b"")), decode(draw_black()))
    assert decode(encode(draw_image("RGB", (1000, 750)), "WEBP")).shape == (1, 28, 28)


@pytest.mark.parametrize("side", [10_000, 14_000])
def test_the_limit_of_pixels_is_ours_alone(side: int) -> None:
    """Beyond Pillow's two limits, at 89 and 179 million: what is refused there is refused for its lack of pixels."""
    with pytest.raises(ImageError, match="before its last pixels"):
        decode(forge_png(side, side), max_pixels=10**9)
    with pytest.raises(ImageError, match="too large"):
        decode(forge_png(side, side), max_pixels=side * side - 1)
    with pytest.raises(ImageError, match="could not create decoder"):
        decode(forge_webp(side, side), max_pixels=10**9)


def test_the_verdict_depends_on_the_file_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not on other threads, nor on what they left: warnings as errors, Pillow's limit and its leniency."""
    good = [encode(draw_image("RGB"), kind) for kind in ("PNG", "JPEG")] + [write_mpo()]
    files = [*good, *[content[:-40] for content in good[:2]], *[make() for make, _, _ in list(BAD.values())[:20]]]
    alone = [judge(content) for content in files]
    assert alone[:3] == ["taken"] * 3
    filters = list(warnings.filters)
    found: list[list[str]] = []
    threads = [threading.Thread(target=lambda: found.append([judge(f) for f in files * 5])) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [alone * 5] * 8
    assert warnings.filters == filters
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert [judge(content) for content in files] == alone


SEEDS = [encode(draw_image(mode), "PNG", icc_profile=bytes(50)) for mode in ("1", "L", "LA", "RGB", "RGBA")]
SEEDS += [encode(draw_image("RGB"), "PNG", transparency=(9, 9, 9)), animated("PNG"), animated("WEBP"), write_mpo()]
SEEDS += [encode(draw_image(mode), "JPEG", progressive=True, comment="a") for mode in ("L", "RGB", "CMYK")]
SEEDS += [encode(draw_image("RGBA"), "WEBP", lossless=lossless, xmp=b"<xmp/>") for lossless in (False, True)]


def test_damage_never_crashes() -> None:
    """Bytes changed, left out, put in and repeated, with right checksums or without: an image, or the one error."""
    generator, verdicts = random.Random(0), set()
    for _ in range(4000):
        content = bytearray(generator.choice(SEEDS))
        for _ in range(generator.choice((1, 1, 2, 5))):
            at = generator.randrange(len(content) if generator.random() < 0.7 else 64)
            other = generator.randrange(len(content))
            new = generator.choice((generator.randbytes(4), b"", bytes(4), bytes(content[other : other + 100])))
            content[at : at + generator.choice((0, 1, 4, 9))] = new
        if content.startswith(b"\x89PNG") and generator.random() < 0.7:
            repair_checksums(content)
        verdict = judge(bytes(content))
        verdicts.add(verdict[:20])
    assert "taken" in verdicts
    assert len(verdicts) > 3


def repair_checksums(content: bytearray) -> None:
    position = 8
    while position + 12 <= len(content):
        end = position + 8 + int.from_bytes(content[position : position + 4], "big")
        if end + 4 > len(content):
            return
        content[end : end + 4] = zlib.crc32(content[position + 4 : end]).to_bytes(4, "big")
        position = end + 4
