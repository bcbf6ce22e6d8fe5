"""WebP files: a RIFF container of chunks.

Source: RFC 9649, "WebP Image Format".
"""

import struct
from collections.abc import Iterator
from itertools import islice

from models.inputs.image_file import (
    FIRST_PARTS,
    MAX_PARTS,
    FileError,
    ImageFile,
    Size,
    ambiguous,
    check_size,
    damaged,
    excessive,
    read_orientation,
)

WEIGHT = 4 / 3
"""Cost of a pixel: the decoder takes 16 bytes."""


def read_webp(content: bytes, max_pixels: int) -> ImageFile:
    """Reads a file's structure: `models.inputs.image_files.read_image_file`."""
    kept, size, frames, exif, xmp = list[bytes](), None, 0, b"", b""
    for kind, length, body in _walk_webp(content):
        if kind == b"EXIF":
            exif = exif or body
        elif kind == b"XMP ":
            xmp = xmp or body
        elif kind in (b"VP8X", b"VP8 ", b"VP8L", b"ALPH", b"ANIM", b"ANMF"):
            if len(body) < length:
                raise damaged("it ends before its last pixels")
            if size is None and (size := _read_size(kind, body)):
                check_size(size, max_pixels)
            frames += kind == b"ANMF"
            kept += [kind, length.to_bytes(4, "little"), body, bytes(length % 2)]
    if frames > 1:
        raise ambiguous("is animated")
    if size is None:
        raise damaged("it has no pixels")
    chunks = b"".join([b"WEBP", *kept])
    clean = b"RIFF" + len(chunks).to_bytes(4, "little") + chunks
    return ImageFile("WebP", size.width, size.height, False, clean, read_orientation(exif, xmp))


def read_webp_size(content: bytes) -> Size | None:
    """Width and height from the first chunk that has them; None if none of the first chunks does."""
    chunks = islice(_walk_webp(content), FIRST_PARTS)
    try:
        return next((size for kind, _, body in chunks if (size := _read_size(kind, body))), None)
    except (FileError, struct.error):
        return None


def _walk_webp(content: bytes) -> Iterator[tuple[bytes, int, bytes]]:
    """Kinds, lengths and bodies of the chunks; the last may be cut short."""
    position, end = 12, min(len(content), 8 + int.from_bytes(content[4:8], "little"))
    for _ in range(MAX_PARTS):
        start = position + 8
        if start > end:
            return
        kind, length = content[position : position + 4], int.from_bytes(content[position + 4 : start], "little")
        yield kind, length, content[start : min(start + length, end)]
        position = start + length + length % 2
    raise excessive(f"has more than {MAX_PARTS:,} chunks")


def _read_size(kind: bytes, body: bytes) -> Size | None:
    """Width and height from a chunk, if it has them."""
    if kind == b"VP8X" and len(body) >= 10:
        return Size(1 + int.from_bytes(body[4:7], "little"), 1 + int.from_bytes(body[7:10], "little"), WEIGHT)
    if kind == b"VP8 " and body[3:6] == b"\x9d\x01\x2a" and len(body) >= 10:
        width, height = struct.unpack("<HH", body[6:10])
        return Size(width & 0x3FFF, height & 0x3FFF, WEIGHT)
    if kind == b"VP8L" and body[:1] == b"\x2f" and len(body) >= 5:
        bits = int.from_bytes(body[1:5], "little")
        return Size(1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF), WEIGHT)
    return None
