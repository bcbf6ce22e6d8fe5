"""Images for tests, as files."""

import io
import struct
import zlib
from collections.abc import Mapping
from typing import Any

from PIL import Image, ImageDraw

from tests import ROOT

EXAMPLES = ROOT / "service" / "static" / "examples"


def draw_image(mode: str = "L", size: tuple[int, int] = (40, 40)) -> Image.Image:
    """A bright stroke on black."""
    image = Image.new("RGB", size)
    width, height = size
    ImageDraw.Draw(image).line([(width * 0.3, height * 0.2), (width * 0.6, height * 0.8)], "white", max(1, width // 10))
    return image.convert(mode)


def encode(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """The bytes of an image file."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def forge_png(width: int, height: int, depth: int = 8, color: int = 0) -> bytes:
    """A PNG whose header claims a size, and whose few pixels do not fill it."""
    return write_png(width, height, bytes(64), depth, color)


def write_png(
    width: int, height: int, rows: bytes, depth: int = 8, color: int = 0, *before: bytes, interlaced: bool = False
) -> bytes:
    """A PNG of rows as they are stored, each after its filter, with chunks before its pixels."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, interlaced))
    chunks = [header, *before, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def draw_black(*before: bytes) -> bytes:
    """Of 28 × 28 black pixels, with chunks before them."""
    return write_png(28, 28, bytes(28 * 29), 8, 0, *before)


def write_tiff(
    width: int,
    height: int,
    pixels: bytes,
    tags: Mapping[int, int | tuple[int, ...]],
    order: str = "<",
    strips: int = 1,
) -> bytes:
    """An uncompressed TIFF of pixels as they are stored, in strips (or, with their tags, tiles) of equal length."""
    start = 8 + len(pixels)
    length = len(pixels) // strips
    places = (324, 325) if 322 in tags else (273, 279)
    entries: dict[int, int | tuple[int, ...]] = {
        256: width,
        257: height,
        places[0]: tuple(8 + length * number for number in range(strips)),
        places[1]: (length,) * strips,
        **({278: height} if places[0] == 273 else {}),
        **tags,
    }
    position, directory, values = start + 2 + 12 * len(entries) + 4, b"", b""
    for tag, value in sorted(entries.items()):
        listed = value if isinstance(value, tuple) else (value,)
        short = tag in (258, 262, 277, 284, 338)
        packed = struct.pack(f"{order}{len(listed)}{'H' if short else 'I'}", *listed)
        inline = packed.ljust(4, b"\0") if len(packed) <= 4 else struct.pack(f"{order}I", position + len(values))
        values += packed if len(packed) > 4 else b""
        directory += struct.pack(f"{order}HHI", tag, 3 if short else 4, len(listed)) + inline
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", start)
    return head + pixels + struct.pack(f"{order}H", len(entries)) + directory + bytes(4) + values


def chunk(kind: bytes, content: bytes) -> bytes:
    """A chunk of a PNG."""
    body = kind + content
    return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))


def write_webp(*chunks: tuple[bytes, bytes]) -> bytes:
    """A WebP of chunks, by kinds and contents."""
    padded = b"".join(k + struct.pack("<I", len(body)) + body + bytes(len(body) % 2) for k, body in chunks)
    return b"RIFF" + struct.pack("<I", 4 + len(padded)) + b"WEBP" + padded


def segment(marker: int, content: bytes) -> bytes:
    """A segment of a JPEG."""
    return struct.pack(">BBH", 0xFF, marker, 2 + len(content)) + content


def pad_jpeg(segments: int) -> bytes:
    """A JPEG with empty segments of metadata."""
    content = encode(draw_image(), "JPEG")
    return content[:2] + segment(0xE2, b"") * segments + content[2:]


def repeat_scan(times: int, size: tuple[int, int] = (40, 40)) -> bytes:
    """A progressive JPEG whose last scan, of 31 bytes, comes again and again."""
    content = encode(Image.new("RGB", size, "brown"), "JPEG", progressive=True, subsampling=0)
    return content[:-2] + content[content.rindex(b"\xff\xda") : -2] * times + content[-2:]


def add_exif(content: bytes, exif: bytes) -> bytes:
    """A PNG, JPEG or WebP with EXIF just so, where encoders would correct it."""
    if content.startswith(b"\x89PNG"):
        return content[:33] + chunk(b"eXIf", exif) + content[33:]
    if content.startswith(b"\xff\xd8"):
        return content[:2] + segment(0xE1, b"Exif\0\0" + exif) + content[2:]
    return write_webp(*list_webp(content), (b"EXIF", exif))


def list_webp(content: bytes) -> list[tuple[bytes, bytes]]:
    """Kinds and contents of a WebP's chunks."""
    chunks, position = [], 12
    while position < len(content):
        (length,) = struct.unpack("<I", content[position + 4 : position + 8])
        chunks.append((content[position : position + 4], content[position + 8 : position + 8 + length]))
        position += 8 + length + length % 2
    return chunks
