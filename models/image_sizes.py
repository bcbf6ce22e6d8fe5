"""How large an image file says it is, from its first bytes alone, before anything decodes them."""

from typing import Literal

MOST_SEGMENTS = 1_000
"""Of a JPEG file before its frame, such as metadata of 64 kB each."""

_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
"""Markers of JPEG that begin a frame (ITU T.81, table B.1)."""

_ALONE = {0x01, *range(0xD0, 0xD9)}
"""Markers that no length follows."""


def read_size(content: bytes) -> tuple[int, int] | None:
    """Width and height of a PNG, JPEG or WebP file; None if its beginning does not tell."""
    if content.startswith(b"\x89PNG\r\n\x1a\n") and content[12:16] == b"IHDR":
        return _read_number(content, 16, 4), _read_number(content, 20, 4)
    if content.startswith(b"\xff\xd8"):
        return _read_jpeg(content)
    if content.startswith(b"RIFF") and content[8:12] == b"WEBP":
        return _read_webp(content)
    return None


def _read_jpeg(content: bytes) -> tuple[int, int] | None:
    position = 2
    for _ in range(MOST_SEGMENTS):
        position = content.find(b"\xff", position)
        while content[position + 1 : position + 2] == b"\xff":  # bytes that fill up
            position += 1
        if position < 0 or position + 9 > len(content):
            return None
        marker = content[position + 1]
        if marker in _FRAMES:
            return _read_number(content, position + 7, 2), _read_number(content, position + 5, 2)
        position += 2 if marker in _ALONE else 2 + _read_number(content, position + 2, 2)
    return None


def _read_webp(content: bytes) -> tuple[int, int] | None:
    kind = content[12:16]
    if kind == b"VP8X":  # the canvas
        return 1 + _read_number(content, 24, 3, "little"), 1 + _read_number(content, 27, 3, "little")
    if kind == b"VP8L":
        bits = _read_number(content, 21, 4, "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == b"VP8 ":
        return _read_number(content, 26, 2, "little") & 0x3FFF, _read_number(content, 28, 2, "little") & 0x3FFF
    return None


def _read_number(content: bytes, position: int, size: int, order: Literal["big", "little"] = "big") -> int:
    return int.from_bytes(content[position : position + size], order)
