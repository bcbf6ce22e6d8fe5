"""Pictures as files: from arrays of pixels and from images of Pillow, and smaller ones from large photographs.

Shapes: H × W pixels, C channels.
"""

import io
import math
import struct
import sys
import zlib
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

PIXELS = "Pixels are whole numbers from 0 to 255, or floating-point numbers from 0 to 1"

_CHANNELS = 1, 3
_ORIENTATION = 0x0112
"""EXIF's tag for the orientation of the camera."""


def find_class(module: str, name: str) -> Any:
    """A class of a package that is loaded. While it is not loaded, nothing can be of this class: an empty tuple."""
    return getattr(sys.modules.get(module), name, ())


def check_pixels(array: NDArray[Any], *, alone: bool = False) -> None:
    """Checks type and shape of a picture: [H, W], [H, W, C] or [C, H, W] with C = 1 or 3.

    Args:
        array: the pixels.
        alone: whether nothing says that this is a single picture, rather than several.

    Raises:
        ValueError: if it cannot be a picture, or can be read in two ways.
    """
    described = f"an array of {array.dtype} {list(array.shape)}"
    if array.dtype.kind not in "uif":
        raise ValueError(f"{described} is not a picture. {PIXELS}. Convert the array with astype")
    last, first = array.shape[-1] in _CHANNELS, array.ndim == 3 and array.shape[0] in _CHANNELS
    if array.size == 0 or array.ndim not in (2, 3) or (array.ndim == 3 and not first and not last):
        shapes = "[H, W], [H, W, C] or [C, H, W] with C = 1 or 3"
        raise ValueError(f"a picture must be {shapes}, not {described}; give several as a list, list(array)")
    if first and last:
        advice = "Give a grey one as [H, W], and a colour one as a file or an image of Pillow"
        raise ValueError(f"{described} may be a picture with its channels first or last. {advice}")
    if alone and first and array.shape[0] > 1:
        advice = "Give the former as [array], and the latter as list(array)"
        raise ValueError(f"{described} may be a picture with its channels first, or several grey ones. {advice}")


def encode_pixels(array: NDArray[Any]) -> bytes:
    """Pixels that `check_pixels` accepts, as a PNG file.

    Raises:
        ValueError: if they are out of range.
    """
    if array.ndim == 3 and array.shape[-1] not in _CHANNELS:
        array = np.moveaxis(array, 0, -1)
    if array.dtype == np.uint8:
        return encode_png(array)
    largest = 1 if array.dtype.kind == "f" else 255
    lowest, highest = array.min(), array.max()
    if not (lowest >= 0 and highest <= largest):  # nor are NaNs
        advice = " Undo the normalisation, or divide by 255" if largest == 1 else ""
        kind = f"the pixels of {array.dtype} {list(array.shape)} are from {lowest:g} to {highest:g}"
        raise ValueError(f"{kind}; they must be from 0 to {largest}.{advice}".rstrip("."))
    return encode_png(np.rint(array * (255 / largest)).astype(np.uint8))


def encode_png(pixels: NDArray[np.uint8]) -> bytes:
    """Pixels [H, W] or [H, W, C] with C = 1 or 3 as a PNG file."""
    height, width, channels = (*pixels.shape, 1)[:3]
    rows = np.zeros((height, 1 + width * channels), np.uint8)  # each begins with its filter, 0 for none
    rows[:, 1:] = pixels.reshape(height, -1)
    header = struct.pack(">IIBBBBB", width, height, 8, 0 if channels == 1 else 2, 0, 0, 0)
    parts = {b"IHDR": header, b"IDAT": zlib.compress(rows.tobytes(), 1), b"IEND": b""}
    chunks = [
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in parts.items()
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def encode_image(image: Any) -> bytes:
    """An image of Pillow as a PNG file of the same mode, with its orientation.

    Raises:
        ValueError: if PNG files cannot have its mode.
    """
    file = io.BytesIO()
    try:
        image.save(file, "PNG", compress_level=1, exif=image.getexif())
    except OSError as error:
        raise ValueError(f"an image of mode {image.mode} cannot be sent: {error}; use image.convert('RGB')") from error
    return file.getvalue()


def count_pixels(content: bytes) -> int:
    """Number of pixels of a picture's file; 0 without Pillow, or if Pillow cannot tell."""
    with suppress(Exception):  # of whatever kind, the service will say what is wrong with the file
        from PIL import Image

        with Image.open(io.BytesIO(content)) as image:
            return image.width * image.height
    return 0


def shrink(content: bytes, most: int) -> bytes | None:
    """A picture's file with at most `most` pixels: JPEG of a JPEG, PNG of others.

    None without Pillow, if Pillow cannot read the file, and for pictures with transparency or a palette.
    """
    with suppress(Exception):  # as above
        from PIL import Image

        with Image.open(io.BytesIO(content)) as image:
            width, height = image.size
            scale = min(1.0, math.sqrt(most / (width * height)))
            size = max(1, int(width * scale)), max(1, int(height * scale))
            image.draft(None, size)  # a JPEG is decoded at a smaller scale, if that is still large enough
            if image.mode not in ("L", "RGB"):
                return None
            exif, file = Image.Exif(), io.BytesIO()
            exif[_ORIENTATION] = image.getexif().get(_ORIENTATION, 1)
            kind = "JPEG" if image.format in ("JPEG", "MPO") else "PNG"
            image.resize(size, reducing_gap=3.0).save(file, kind, quality=95, subsampling=0, exif=exif)
            return file.getvalue()
    return None
