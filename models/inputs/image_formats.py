"""The formats of image files that are taken. Readers, messages, the API's description and training follow this list."""

import re
from typing import Literal, NamedTuple

Format = Literal["PNG", "JPEG", "WebP", "GIF", "BMP", "TIFF", "AVIF"]

SIGNATURE_BYTES = 136
"""Number of bytes of a file that tell its format."""


class ImageFormat(NamedTuple):
    """A format of image files."""

    name: Format
    media_type: str
    suffixes: tuple[str, ...]
    """Usual ends of the files' names."""
    signature: re.Pattern[bytes]
    """How a file begins."""


FORMATS = (
    ImageFormat("PNG", "image/png", (".png",), re.compile(rb"\x89PNG\r\n\x1a\n")),
    ImageFormat("JPEG", "image/jpeg", (".jpg", ".jpeg", ".mpo"), re.compile(rb"\xff\xd8\xff")),
    ImageFormat("WebP", "image/webp", (".webp",), re.compile(rb"RIFF.{4}WEBP", re.DOTALL)),
    ImageFormat("GIF", "image/gif", (".gif",), re.compile(rb"GIF8[79]a")),
    # The size of the second header comes after the file's, which is too short to tell.
    ImageFormat("BMP", "image/bmp", (".bmp",), re.compile(rb"BM.{12}[\x0c(48@l|]\0\0\0", re.DOTALL)),
    ImageFormat("TIFF", "image/tiff", (".tif", ".tiff"), re.compile(rb"II\*\0|MM\0\*")),
    # The brand of AVIF may be one of several.
    ImageFormat("AVIF", "image/avif", (".avif",), re.compile(rb".{4}ftyp(?:.{4}){0,30}?avi[fs]", re.DOTALL)),
)

NAMES = f"{', '.join(known.name for known in FORMATS[:-1])} or {FORMATS[-1].name}"
"""The names of all formats, for messages: PNG, JPEG, … or AVIF."""

SUFFIXES = tuple(suffix for known in FORMATS for suffix in known.suffixes)


def recognize(content: bytes) -> Format | None:
    """The format of a file by its first bytes; None if it is not in the list."""
    return next((known.name for known in FORMATS if known.signature.match(content)), None)
