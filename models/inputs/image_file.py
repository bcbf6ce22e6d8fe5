"""What all image files have in common: what is known of one before it is decoded, and why one is refused."""

import re
import struct
from dataclasses import dataclass
from typing import Literal

Format = Literal["PNG", "JPEG", "WEBP"]
Kind = Literal["too_large", "unsupported", "invalid"]

MAX_SIDE = 65_500
"""Most pixels of a side, as libjpeg has it."""

MAX_PARTS = 100_000
"""Most chunks or segments of a file. 100 million pixels in PNG's usual chunks of 8 KiB are 37,000."""

FIRST_PARTS = 100
"""Chunks or segments that a size is looked for in. Before it there may be metadata of 64 kB each."""

ORIENTATION = 0x0112
"""EXIF's tag for how the camera was held, from 1, upright, to 8."""

_XMP_ORIENTATION = re.compile(rb"""tiff:Orientation(?:\s*=\s*["']|>)\s*([1-8])""")


class FileError(Exception):
    """A file that cannot be taken; the reason completes a sentence that begins with the file's name."""

    def __init__(self, kind: Kind, reason: str, hint: str) -> None:
        super().__init__(f"{reason}. {hint}")
        self.kind = kind
        self.reason = reason
        self.hint = hint


@dataclass(frozen=True)
class ImageFile:
    """A file that holds one picture, of 8 bits a channel or fewer, grey or in colours, without a palette."""

    format: Format
    width: int
    height: int
    """As they are stored, before the image is turned upright."""
    grey: bool
    """Whether it is stored without colours."""
    content: bytes
    """The file without its metadata."""
    orientation: int = 1
    """By EXIF, or else XMP; upright if neither says so that it can be read."""
    transparent: tuple[int, ...] | None = None
    """The colour that a PNG without an alpha channel declares transparent, by channels of 8 bits."""

    @property
    def upright_size(self) -> tuple[int, int]:
        """Width and height as the image is seen."""
        return (self.width, self.height) if self.orientation < 5 else (self.height, self.width)


def damaged(reason: str) -> FileError:
    """The error for what is no image, or not all of one."""
    return FileError("invalid", f"cannot be decoded: {reason}", "Send a complete PNG, JPEG or WebP file.")


def ambiguous(reason: str) -> FileError:
    """The error for an image that could be read in several ways."""
    hint = "Convert it to a single opaque 8-bit greyscale or RGB image, so that no pixel is open to interpretation."
    return FileError("unsupported", reason, hint)


def excessive(reason: str) -> FileError:
    """The error for an image in more parts than an encoder writes."""
    return FileError("unsupported", reason, "Save it again with an ordinary encoder.")


def check_size(width: int, height: int, max_pixels: int) -> None:
    """Whether an image has pixels, and no more than it may.

    Raises:
        FileError: if not.
    """
    size = f"{width:,} × {height:,} pixels"
    if not width or not height:
        raise damaged(f"it has {size}")
    if width * height > max_pixels or max(width, height) > MAX_SIDE:
        limits = f"{max_pixels:,} pixels, and {MAX_SIDE:,} a side"
        hint = f"Send images of at most {limits}; they are resized to the model's input anyway."
        raise FileError("too_large", f"is too large: {size}", hint)


def read_orientation(exif: bytes, xmp: bytes) -> int:
    """From 1 to 8; 1, as everywhere else, where there is none that can be read."""
    exif = exif.removeprefix(b"Exif\0\0")
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
    try:
        if order is not None:
            (offset,) = struct.unpack_from(f"{order}I", exif, 4)
            (entries,) = struct.unpack_from(f"{order}H", exif, offset)
            for position in range(offset + 2, offset + 2 + 12 * entries, 12):
                tag, kind, count = struct.unpack_from(f"{order}HHI", exif, position)
                if tag == ORIENTATION:
                    code = {1: "B", 3: "H", 4: "I"}.get(kind)
                    value = struct.unpack_from(order + code, exif, position + 8)[0] if code and count == 1 else 1
                    return value if 1 <= value <= 8 else 1
    except struct.error:
        pass  # it ends before that
    found = _XMP_ORIENTATION.search(xmp)
    return int(found[1]) if found else 1
