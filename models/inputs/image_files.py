"""Image files before they are decoded: what they declare, and which of their bytes the pixels depend on.

The formats are sequences or trees of parts that name their kind and length. This code walks through the parts, in time
proportional to the file's size, so the cost of an image is known before memory is allocated. The decoder gets only what
the pixels depend on. Damaged or hostile content elsewhere cannot reach it.
"""

from collections.abc import Callable
from typing import NamedTuple

from models.inputs.avif import read_avif, read_avif_size
from models.inputs.bmp import read_bmp, read_bmp_size
from models.inputs.gif import read_gif, read_gif_size
from models.inputs.image_file import FileError, ImageFile, Size, damaged
from models.inputs.image_formats import NAMES, Format, recognize
from models.inputs.jpeg import read_jpeg, read_jpeg_size
from models.inputs.png import read_png, read_png_size
from models.inputs.tiff import read_tiff, read_tiff_size
from models.inputs.webp import read_webp, read_webp_size


class _Reader(NamedTuple):
    read: Callable[[bytes, int], ImageFile]
    read_size: Callable[[bytes], Size | None]


_READERS: dict[Format, _Reader] = {
    "PNG": _Reader(read_png, read_png_size),
    "JPEG": _Reader(read_jpeg, read_jpeg_size),
    "WebP": _Reader(read_webp, read_webp_size),
    "GIF": _Reader(read_gif, read_gif_size),
    "BMP": _Reader(read_bmp, read_bmp_size),
    "TIFF": _Reader(read_tiff, read_tiff_size),
    "AVIF": _Reader(read_avif, read_avif_size),
}

_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"mif1")


def read_image_file(content: bytes, max_pixels: int) -> ImageFile:
    """Reads a file's structure.

    Args:
        content: a file of a format in `FORMATS`. If a JPEG holds several pictures, as cameras write them, the first
            counts.
        max_pixels: limit on `Size.cost`: on width × height of formats that are decoded in full, twice as many for JPEG,
            three quarters for WebP and AVIF, and half for 16 bits per channel.

    Raises:
        FileError: if the file has another format, too many pixels, damage that affects the pixels, more parts or scans
            than encoders write, or can be read in several ways.
    """
    if name := recognize(content):
        return _READERS[name].read(content, max_pixels)
    if content[4:8] == b"ftyp" and content[8:12] in _HEIC_BRANDS:
        raise FileError("unsupported", "is a HEIC file", "Save it as JPEG; phones can also take photographs as JPEG.")
    raise damaged(f"it is not a {NAMES} file")


def read_size(content: bytes) -> Size | None:
    """The size as `read_image_file` finds it, from a file's first parts; None if they do not tell."""
    name = recognize(content)
    return _READERS[name].read_size(content) if name else None
