"""Code shared by all image formats: what is known of a file before it is decoded, and why a file is refused."""

import math
import re
import struct
from dataclasses import dataclass
from typing import Literal, NamedTuple

from models.inputs.image_formats import NAMES, Format

FaultKind = Literal["too_large", "unsupported", "invalid"]

MAX_SIDE = 65_500
"""Most pixels on a side; libjpeg's limit."""

MAX_PARTS = 100_000
"""Most chunks or segments of a file. 100 million pixels take 37,000 of PNG's usual 8 KiB chunks."""

FIRST_PARTS = 100
"""Number of chunks or segments to search for the size. Metadata of 64 kB each may come before it."""

DEEP_WEIGHT = 2.0
"""Cost of a pixel with 16 bits per channel."""

ORIENTATION = 0x0112
"""EXIF's tag for the orientation of the camera, from 1, upright, to 8."""

_XMP_ORIENTATION = re.compile(rb"""tiff:Orientation(?:\s*=\s*["']|>)\s*([1-8])""")


class FileError(Exception):
    """A file that is refused. The reason completes a sentence that begins with the file's name."""

    def __init__(self, kind: FaultKind, reason: str, hint: str) -> None:
        super().__init__(f"{reason}. {hint}")
        self.kind = kind
        self.reason = reason
        self.hint = hint


class Size(NamedTuple):
    """What a file declares of its size, and so of its cost."""

    width: int
    height: int
    """Width and height are those stored, before the image is turned upright."""
    weight: float = 1.0
    """How much memory and time decoding a pixel takes, relative to formats that are decoded in full, as PNG is."""

    @property
    def cost(self) -> int:
        """Cost of decoding, in pixels of weight 1."""
        return math.ceil(self.width * self.height * self.weight)

    @property
    def share(self) -> int:
        """Number of pixels that count in a request: half of a JPEG's, and all of others', however dear they are."""
        return math.ceil(self.width * self.height * min(self.weight, 1.0))


@dataclass(frozen=True)
class ImageFile:
    """A file with one picture."""

    format: Format
    width: int
    height: int
    """Width and height are those stored, before the image is turned upright."""
    grey: bool
    """Whether it is stored in greyscale."""
    content: bytes
    """The file without its metadata."""
    orientation: int = 1
    """Orientation from EXIF, or else from XMP; 1, upright, if neither can be read."""
    deep: bool = False
    """Whether it has 16 bits per channel instead of 8 or fewer."""
    inverted: bool = False
    """Whether its grey levels count from white to black."""
    colours: int = 256
    """Number of colours in its palette, if it has one."""
    transparent: tuple[int, ...] | None = None
    """The colour that a file without an alpha channel declares transparent, in channels of 8 bits. Of a deep image, it
    holds the upper halves of all channels, then the lower ones."""
    clear: frozenset[int] = frozenset()
    """Numbers of the palette's colours that are not opaque."""

    @property
    def upright_size(self) -> tuple[int, int]:
        """Width and height of the upright image."""
        return (self.width, self.height) if self.orientation < 5 else (self.height, self.width)


def damaged(reason: str) -> FileError:
    """The error for a file that is not an image, or not a complete one."""
    return FileError("invalid", f"cannot be decoded: {reason}", f"Send a complete {NAMES} file.")


def ambiguous(reason: str) -> FileError:
    """The error for an image that can be read in several ways."""
    hint = "Convert it to a single opaque greyscale or RGB image, which can be read in only one way."
    return FileError("unsupported", reason, hint)


def excessive(reason: str) -> FileError:
    """The error for an image with more parts than encoders write."""
    return FileError("unsupported", reason, "Save it again with an ordinary encoder.")


def check_size(size: Size, max_pixels: int) -> None:
    """Checks that an image has pixels, and not too many.

    Args:
        size: the image's size.
        max_pixels: limit on the cost of decoding it.

    Raises:
        FileError: if the size is not allowed.
    """
    shown = f"{size.width:,} × {size.height:,} pixels"
    if not size.width or not size.height:
        raise damaged(f"it has {shown}")
    if size.cost > max_pixels or max(size.width, size.height) > MAX_SIDE:
        limits = f"{int(max_pixels / size.weight):,} pixels, and {MAX_SIDE:,} on a side"
        hint = f"Send images of its kind with at most {limits}; they are resized to the model's input anyway."
        raise FileError("too_large", f"is too large: {shown}", hint)


def read_orientation(exif: bytes, xmp: bytes) -> int:
    """The orientation from 1 to 8; 1 if it cannot be read."""
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
        pass  # cut short
    found = _XMP_ORIENTATION.search(xmp)
    return int(found[1]) if found else 1
