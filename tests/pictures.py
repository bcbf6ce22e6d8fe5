"""Images for tests, as files."""

import io
import struct
import zlib
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

EXAMPLES = Path(__file__).parent.parent / "service" / "static" / "examples"


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

    def chunk(kind: bytes, content: bytes) -> bytes:
        body = kind + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(64))) + chunk(b"IEND", b"")
