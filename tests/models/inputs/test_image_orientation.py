"""Which side of a picture is up, and that nothing else in metadata matters."""

import struct

import pytest
import torch
from PIL import Image, PngImagePlugin

from models.inputs.image import ImageSpec
from models.inputs.pixels import decode_image
from tests.pictures import add_exif, chunk, draw_image, encode

SPEC = ImageSpec(channels=1, height=28, width=28, mean=(0.0,), std=(1.0,))
UPRIGHT = draw_image("RGB", (56, 28))

STORED = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
"""How an upright picture lies in a file of some orientation."""

LOSSLESS = {"PNG": {}, "WEBP": {"lossless": True}}
STRIP = struct.pack(">HHI4s", 0x0111, 2, 4, b"abc")
"""An entry with tag 0x0111, which is a number, as text."""


def decode(content: bytes) -> torch.Tensor:
    return decode_image(content, SPEC, 1_000_000, "image 0")


def store(orientation: int) -> Image.Image:
    method = STORED[orientation]
    return UPRIGHT if method is None else UPRIGHT.transpose(method)


def write_exif(orientation: int, kind: int = 3, count: int = 1, order: str = ">", before: bytes = b"") -> bytes:
    """EXIF with one entry for the orientation, after others of 12 bytes."""
    code = {1: "Bxxx", 3: "Hxx"}.get(kind, "I")
    entry = struct.pack(f"{order}HHI{code}", 0x0112, kind, count, orientation)
    head = b"MM\0*" if order == ">" else b"II*\0"
    return head + struct.pack(f"{order}IH", 8, 1 + len(before) // 12) + before + entry + bytes(4)


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("kind", LOSSLESS)
def test_exif_says_what_is_up(orientation: int, kind: str) -> None:
    stored = encode(store(orientation), kind, **LOSSLESS[kind])
    for exif in (
        write_exif(orientation),
        write_exif(orientation, kind=4, order="<"),
        write_exif(orientation, before=STRIP),
        b"Exif\0\0" + write_exif(orientation, kind=1),
    ):
        assert torch.equal(decode(add_exif(stored, exif)), decode(encode(UPRIGHT)))


@pytest.mark.parametrize("orientation", STORED)
def test_cameras_write_jpeg(orientation: int) -> None:
    stored = encode(store(orientation), "JPEG", quality=100)
    found = decode(add_exif(stored, write_exif(orientation, before=STRIP)))
    assert (found.int() - decode(encode(UPRIGHT)).int()).abs().max() <= 3  # JPEG's loss


@pytest.mark.parametrize("orientation", STORED)
def test_without_exif_other_metadata_says_what_is_up(orientation: int) -> None:
    """XMP, which a PNG may compress, and the text that ImageMagick wrote into a PNG before there was a chunk."""
    stored, upright = store(orientation), decode(encode(UPRIGHT))
    xmp = f'<rdf:Description tiff:Orientation="{orientation}"/>'
    assert torch.equal(decode(encode(stored, "WEBP", xmp=xmp.encode(), lossless=True)), upright)
    for compressed in (False, True):
        text = PngImagePlugin.PngInfo()
        text.add_itxt("XML:com.adobe.xmp", xmp, zip=compressed)
        assert torch.equal(decode(encode(stored, pnginfo=text)), upright)
        exif = b"Exif\0\0" + write_exif(orientation)
        text = PngImagePlugin.PngInfo()
        text.add_text("Raw profile type exif", f"\nexif\n{len(exif):8}\n{exif.hex()}\n", zip=compressed)
        assert torch.equal(decode(encode(stored, pnginfo=text)), upright)
    element = f"<tiff:Orientation>{orientation}</tiff:Orientation>".encode()
    found = decode(encode(stored, "JPEG", quality=100, xmp=element))
    assert (found.int() - upright.int()).abs().max() <= 3
    turned = encode(UPRIGHT, "WEBP", xmp=b'tiff:Orientation="6"', lossless=True)
    assert not torch.equal(decode(turned), upright)
    assert torch.equal(decode(add_exif(turned, write_exif(1))), upright)  # which comes first


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_an_orientation_that_cannot_be_read_turns_nothing(kind: str) -> None:
    """As in browsers: 0 and 9 mean nothing, nor do text, two numbers, an unknown type, and EXIF that ends too early."""
    content = encode(UPRIGHT, kind)
    unreadable = [write_exif(0), write_exif(9), write_exif(6, kind=2), write_exif(6, count=2), write_exif(6, kind=13)]
    for exif in (*unreadable, b"", b"II*\0", b"II*\0\xff\xff\xff\xff", write_exif(6)[:15]):
        assert torch.equal(decode(add_exif(content, exif)), decode(content))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_damaged_exif_leaves_the_pixels(kind: str) -> None:
    """Whatever byte is another one, and wherever it ends; at worst, the picture lies on a side."""
    exif = Image.Exif()
    exif.update({0x010F: "Maker", 0x0112: 1, 0x011A: 72.0, 0x0128: 2, 0x8769: {0x9000: b"0220"}, 0x8825: {1: "N"}})
    good, content = exif.tobytes().removeprefix(b"Exif\0\0"), encode(UPRIGHT, kind)
    sides = [decode(add_exif(content, write_exif(orientation))) for orientation in STORED]
    damaged = [good[:end] for end in range(len(good))]
    damaged += [good[:i] + bytes([v]) + good[i + 1 :] for i in range(len(good)) for v in (0, 255, good[i] ^ 1)]
    for changed in damaged:
        pixels = decode(add_exif(content, changed))
        assert any(torch.equal(pixels, side) for side in sides), changed


def test_other_damaged_metadata_leaves_the_pixels() -> None:
    plain = encode(UPRIGHT)
    for kind in (b"iCCP", b"gAMA", b"cHRM", b"sRGB", b"pHYs", b"tEXt", b"zTXt", b"iTXt", b"eXIf", b"tIME", b"vpAg"):
        for body in (b"", b"a", b"a\0\0", b"Raw profile type exif\0\1damaged", b"XML:com.adobe.xmp\0\1\0\0\0damaged"):
            for place in (33, len(plain) - 12):
                assert torch.equal(decode(plain[:place] + chunk(kind, body) + plain[place:]), decode(plain))
    wrong = bytearray(chunk(b"gAMA", bytes(4)))
    wrong[-1] ^= 1
    assert torch.equal(decode(plain[:33] + wrong + plain[33:]), decode(plain))
    jpeg = encode(UPRIGHT, "JPEG")
    for marker in range(0xE1, 0xEE):
        for body in (b"", b"JFIF", b"Exif\0\0", b"MPF\0", b"MPF\0MM\0*\0\0\0\x08\xff\xff", b"ICC_PROFILE\0", b"8BIM"):
            segment = bytes([0xFF, marker]) + struct.pack(">H", 2 + len(body)) + body
            assert torch.equal(decode(jpeg[:2] + segment + jpeg[2:]), decode(jpeg))
    assert torch.equal(decode(jpeg[:20] + b"junk between segments" + jpeg[20:]), decode(jpeg))
