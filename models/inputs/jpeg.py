"""JPEG files: segments that begin with a marker, and the data of scans.

Source: ITU-T T.81, "Digital Compression and Coding of Continuous-Tone Still Images".
"""

import re
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

WEIGHT = 0.5
"""Cost of a pixel: decoding takes half the memory and time of formats with lossless compression, and less if it is
scaled down meanwhile. Four channels cost twice as much."""

MAX_SCANS = 50
"""Most scans of a file; encoders write 10 to 20. A scan of 31 bytes costs as much as a pass over all pixels."""

_MARKER = re.compile(rb"\xff([^\x00\xff\xd0-\xd7])")
"""Marker of a segment. Within a scan, 0xff is followed by 0 or by a restart code, 0xd0 to 0xd7."""
_SOI, _EOI, _SOS, _TEM, _COM = 0xD8, 0xD9, 0xDA, 0x01, 0xFE
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_APP = range(0xE0, 0xF0)
_COLOURS = {0xE0: b"JFIF\0", 0xEE: b"Adobe"}
"""The two application segments that define the meaning of a JPEG's channels."""


def read_jpeg(content: bytes, max_pixels: int) -> ImageFile:
    """Reads a file's structure: `models.inputs.image_files.read_image_file`."""
    kept, frame, scans, exif, xmp, adobe = [b"\xff\xd8"], b"", 0, b"", b"", False
    for marker, segment, body in _walk_jpeg(content):
        if marker in _APP or marker == _COM:
            if marker in _COLOURS and body.startswith(_COLOURS[marker]):
                kept.append(segment)
                adobe = adobe or marker == 0xEE
            elif marker == 0xE1 and body.startswith(b"Exif\0\0"):
                exif = exif or body
            elif marker == 0xE1 and body.startswith(b"http://ns.adobe.com/xap/1.0/\0"):
                xmp = xmp or body
            continue
        if marker in _FRAMES:
            if frame:
                raise damaged("it has two frames")
            frame = _check_frame(body, max_pixels)
        elif marker == _SOS:
            scans += 1
            if scans > MAX_SCANS:
                raise excessive(f"has more than {MAX_SCANS} scans")
            if not frame:
                raise damaged("its pixels come before its size")
        kept.append(segment)
    if not scans:
        raise damaged("it has no pixels")
    height, width, channels = struct.unpack(">HHB", frame[1:6])
    if channels == 4 and not adobe:
        raise ambiguous("is CMYK and does not say whether its levels are inverted, as Adobe's marker would")
    clean = b"".join([*kept, b"\xff\xd9"])
    return ImageFile("JPEG", width, height, channels == 1, clean, read_orientation(exif, xmp))


def read_jpeg_size(content: bytes) -> Size | None:
    """The size from the first frame; None if the first segments hold no frame."""
    parts = islice(_walk_jpeg(content), FIRST_PARTS)
    try:
        return next(_read_frame(body) for marker, _, body in parts if marker in _FRAMES)
    except (FileError, StopIteration, struct.error):
        return None


def _walk_jpeg(content: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """Markers, segments and their bodies, up to the end of the first picture. A scan's data belong to its segment, not
    to its body."""
    position = 2
    for _ in range(MAX_PARTS):
        found = _MARKER.search(content, position)
        if found is None:
            raise damaged("it ends before its last pixels")
        marker, start, position = found[1][0], found.start(), found.end()
        if marker == _EOI:
            return
        if marker == _SOI:
            raise damaged("another picture begins inside it")
        if marker == _TEM:
            continue
        body = position + 2
        end = position = position + max(2, int.from_bytes(content[position:body], "big"))
        if marker == _SOS and (following := _MARKER.search(content, end)):
            position = following.start()
        if position > len(content):
            raise damaged("it ends before its last pixels")
        yield marker, content[start:position], content[body:end]
    raise excessive(f"has more than {MAX_PARTS:,} segments")


def _check_frame(frame: bytes, max_pixels: int) -> bytes:
    if len(frame) < 6:
        raise damaged("its header is too short")
    check_size(_read_frame(frame), max_pixels)
    bits, channels = frame[0], frame[5]
    if bits != 8:
        raise FileError("unsupported", f"is a JPEG with {bits} bits per channel", "Save it with 8 bits per channel.")
    if channels not in (1, 3, 4):
        raise damaged(f"it has {channels} channels")
    return frame


def _read_frame(frame: bytes) -> Size:
    height, width, channels = struct.unpack(">HHB", frame[1:6])
    return Size(width, height, WEIGHT if channels < 4 else 2 * WEIGHT)
