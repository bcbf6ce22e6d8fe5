"""From pictures and numbers to the body of a request.

Shapes: B inputs, H × W pixels, C channels.
"""

import json
import struct
import zlib
from collections.abc import Iterable, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, BinaryIO

import httpx
import numpy as np
from numpy.typing import NDArray

Picture = str | PathLike[str] | bytes | BinaryIO | NDArray[np.uint8]
"""A path, the bytes of a PNG, JPEG or WebP file, an open file, or pixels: uint8 [H, W] or [H, W, C], C being 1 or 3."""

Inputs = Picture | NDArray[np.floating[Any]] | Sequence[Picture | Sequence[float]]
"""A picture, several, or rows of numbers, [B, numbers]. Arrays of uint8 are pictures, [B, H, W, C] several of them."""


def encode_inputs(inputs: Inputs) -> tuple[bytes, str]:
    """The body of a request, and its content type.

    Raises:
        ValueError: for what is neither pictures nor rows of finite numbers.
        OSError: for a file that cannot be read.
    """
    if _is_picture(inputs):
        return _encode_pictures([inputs])
    if not isinstance(inputs, Sequence | np.ndarray) or len(inputs) == 0:
        raise ValueError(f"inputs must be a picture, or a sequence that is not empty, not {type(inputs).__name__}")
    if all(map(_is_picture, inputs)):
        return _encode_pictures(inputs)
    try:
        rows = np.asarray(inputs, np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError("inputs must all be pictures, or all rows of as many numbers") from error
    if rows.ndim != 2 or not np.isfinite(rows).all():
        raise ValueError(f"inputs must be pictures, or rows of finite numbers; this is an array of {list(rows.shape)}")
    return json.dumps({"inputs": rows.tolist()}).encode(), "application/json"


def encode_png(pixels: NDArray[np.uint8]) -> bytes:
    """Pixels as a PNG file.

    Raises:
        ValueError: if they are not uint8 of [H, W] or [H, W, C] with C of 1 or 3.
    """
    image = pixels[..., None] if pixels.ndim == 2 else pixels
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] not in (1, 3) or image.size == 0:
        message = f"a picture must be uint8 of [H, W] or [H, W, 1 or 3], not {pixels.dtype} of {list(pixels.shape)}"
        raise ValueError(f"{message}; give several as a list")
    height, width, channels = image.shape
    rows = np.zeros((height, 1 + width * channels), np.uint8)  # each begins with its filter, 0 for none
    rows[:, 1:] = image.reshape(height, -1)
    header = struct.pack(">IIBBBBB", width, height, 8, 0 if channels == 1 else 2, 0, 0, 0)
    parts = {b"IHDR": header, b"IDAT": zlib.compress(rows.tobytes(), 1), b"IEND": b""}
    chunks = [
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in parts.items()
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def _is_picture(value: object) -> bool:
    if isinstance(value, np.ndarray):
        return value.dtype == np.uint8 and value.ndim != 4
    return isinstance(value, str | PathLike | bytes) or hasattr(value, "read")


def _encode_pictures(pictures: Iterable[Any]) -> tuple[bytes, str]:
    files = [("images", _read_picture(picture)) for picture in pictures]
    request = httpx.Request("POST", "http://multipart", files=files)
    return request.read(), request.headers["Content-Type"]


def _read_picture(picture: Any) -> tuple[str, bytes]:
    """Its name, for the service's messages, and its file's bytes."""
    if isinstance(picture, np.ndarray):
        return "pixels", encode_png(picture)
    if isinstance(picture, bytes):
        return "bytes", picture
    if hasattr(picture, "read"):
        return Path(str(getattr(picture, "name", "file"))).name, picture.read()
    return Path(picture).name, Path(picture).read_bytes()
