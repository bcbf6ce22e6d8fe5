"""AVIF files: boxes within boxes, which list items, the properties of items, and where their data are.

Sources: ISO/IEC 23008-12, "Image File Format", and "AV1 Image File Format", Alliance for Open Media.
"""

import struct
from collections.abc import Iterable, Iterator
from itertools import islice

from models.inputs.image_file import FIRST_PARTS, FileError, ImageFile, Size, ambiguous, check_size, damaged, excessive

WEIGHT = 4 / 3
"""Cost of a pixel: the decoder takes up to 20 bytes, and twice the time of PNG's."""

MAX_BOXES, MAX_ITEMS = 200, 1000
"""Most boxes within a box, and most items. A grid of 48 megapixels has 200 items."""

_METADATA = (b"Exif", b"mime")
_UNKNOWN = b"skip"
_TURNS = {0: (1, 4, 2), 1: (8, 5, 7), 2: (3, 2, 4), 3: (6, 7, 5)}
"""Orientations by quarter turns against the clock: without a mirror, and mirrored after it top to bottom, or left to
right."""

_Box = tuple[bytes, int, int]
"""Kind of a box, and where its body begins and ends."""


def read_avif(content: bytes, max_pixels: int) -> ImageFile:
    """Reads a file's structure: `models.inputs.image_files.read_image_file`."""
    boxes = list(_walk(content, 0, len(content)))
    if any(kind == b"moov" for kind, _, _ in boxes):
        raise ambiguous("is animated")
    start, end = _find_meta(boxes)
    properties = _find_properties(content, start, end)
    check_size(size := _read_size(properties), max_pixels)
    if any(kind == b"clap" for kind, _ in properties):
        raise ambiguous("shows a part of its pixels only")
    turn = next((body[0] & 3 for kind, body in properties if kind == b"irot" and body), 0)
    mirror = next((1 + (body[0] & 1) for kind, body in properties if kind == b"imir" and body), 0)
    clean = _hide_metadata(content, start, end)
    return ImageFile("AVIF", size.width, size.height, False, clean, _TURNS[turn][mirror])


def read_avif_size(content: bytes) -> Size | None:
    """The size of the picture; None if the first boxes do not tell."""
    try:
        boxes = islice(_walk(content, 0, len(content)), FIRST_PARTS)
        return _read_size(_find_properties(content, *_find_meta(boxes)))
    except FileError:
        return None


def _walk(content: bytes, position: int, end: int, most: int = MAX_BOXES) -> Iterator[_Box]:
    """The boxes between two positions."""
    for _ in range(most):
        if position + 8 > end:
            return
        length, kind = int.from_bytes(content[position : position + 4], "big"), content[position + 4 : position + 8]
        body = position + 8
        if length == 1:  # 64 bits follow
            length, body = int.from_bytes(content[body : body + 8], "big"), body + 8
        after = position + length if length else end
        if not body <= after <= end:
            raise damaged("it ends before its last pixels")
        yield kind, body, after
        position = after
    raise excessive(f"has more than {most:,} boxes in one")


def _find_meta(boxes: Iterable[_Box]) -> tuple[int, int]:
    """The body of the box that describes the items, behind its version."""
    found = next(((body + 4, end) for kind, body, end in boxes if kind == b"meta"), None)
    if found is None:
        raise damaged("it describes no picture")
    return found


def _find_properties(content: bytes, start: int, end: int) -> list[tuple[bytes, bytes]]:
    """Kinds and bodies of the properties of the picture, the primary item."""
    boxes = {kind: (body, after) for kind, body, after in _walk(content, start, end)}
    try:
        primary, _ = boxes[b"pitm"]
        layout = ">H" if content[primary] == 0 else ">I"
        (item,) = struct.unpack_from(layout, content, primary + 4)
        inner = {kind: (body, after) for kind, body, after in _walk(content, *boxes[b"iprp"])}
        known = [(kind, content[body:after]) for kind, body, after in _walk(content, *inner[b"ipco"])]
        numbers = _find_associations(content, inner[b"ipma"][0], item)
        return [known[number - 1] for number in numbers if number]
    except (KeyError, IndexError, struct.error) as error:
        raise damaged("it does not describe its picture") from error


def _find_associations(content: bytes, position: int, item: int) -> list[int]:
    """Numbers of an item's properties, from 1 on."""
    version, wide = content[position], content[position + 3] & 1
    (count,) = struct.unpack_from(">I", content, position + 4)
    position += 8
    for _ in range(min(count, MAX_ITEMS)):
        (found, length) = struct.unpack_from(">HB" if version == 0 else ">IB", content, position)
        position += 3 if version == 0 else 5
        if found == item:
            numbers = struct.unpack_from(f">{length}{'H' if wide else 'B'}", content, position)
            return [number & (0x7FFF if wide else 0x7F) for number in numbers]  # the first bit says if it is essential
        position += (1 + wide) * length
    if count > MAX_ITEMS:
        raise excessive(f"has more than {MAX_ITEMS:,} items")
    raise damaged("it does not describe its picture")


def _read_size(properties: list[tuple[bytes, bytes]]) -> Size:
    extents = next((body for kind, body in properties if kind == b"ispe" and len(body) >= 12), None)
    if extents is None:
        raise damaged("it does not say its size")
    width, height = struct.unpack_from(">II", extents, 4)
    return Size(width, height, WEIGHT)


def _hide_metadata(content: bytes, start: int, end: int) -> bytes:
    """The file with items of metadata as items of an unknown kind, which no decoder reads."""
    clean = bytearray(content)
    for kind, body, after in _walk(content, start, end):
        if kind == b"iinf":
            first = body + (6 if content[body : body + 1] == b"\0" else 8)
            for entry, inner, _ in _walk(content, first, after, MAX_ITEMS):
                place = inner + (8 if content[inner : inner + 1] < b"\3" else 10)
                if entry == b"infe" and content[place : place + 4] in _METADATA:
                    clean[place : place + 4] = _UNKNOWN
    return bytes(clean)
