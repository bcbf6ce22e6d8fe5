"""Pictures and numbers as the body of a request.

Shapes: B inputs, H × W pixels, C channels.
"""

import errno
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

Picture = str | PathLike[str] | bytes | bytearray | memoryview | BinaryIO | NDArray[np.uint8]
"""A path, the bytes of a PNG, JPEG or WebP file, an open file, or pixels: uint8 [H, W] or [H, W, C] with C = 1 or 3."""

Inputs = Picture | NDArray[np.floating[Any]] | Sequence[Picture | Sequence[float]]
"""One picture or several, or rows of numbers, [B, numbers]. An array of uint8 [B, H, W, C] holds several pictures."""


ROWS = "application/json"
"""Content type of rows of numbers."""

_LARGEST_FILE = 2**28
"""Most bytes of a picture's file."""

_PIXELS = "Pixels are uint8 from 0 to 255, [H, W] or [H, W, C]"


def encode_inputs(inputs: Inputs) -> tuple[bytes, str]:
    """The body of a request, and its content type.

    Raises:
        ValueError: if the inputs are neither pictures nor rows of finite numbers.
        OSError: if a file cannot be read.
    """
    if _is_picture(inputs):
        return _encode_pictures([inputs])
    if not isinstance(inputs, Sequence | np.ndarray) or _is_empty(inputs):
        advice = "; numpy.asarray may turn it into an array" if hasattr(inputs, "__array__") else ""
        kind = type(inputs).__name__
        raise ValueError(f"inputs must be a picture or a non-empty sequence, not {kind}{advice}")
    if all(map(_is_picture, inputs)):
        return _encode_pictures(inputs)
    return json.dumps({"inputs": _read_rows(inputs)}).encode(), ROWS


def _read_rows(inputs: Sequence[Any] | NDArray[Any]) -> list[list[float]]:
    """Rows of numbers, [B, numbers]."""
    described = ""
    if isinstance(inputs, np.ndarray):
        described = f"{inputs.dtype} "
        if inputs.dtype.kind != "f":
            advice = f"{_PIXELS}; rows of numbers are floating-point. Convert the array with astype"
            raise ValueError(f"inputs must not be an array of {described}{list(inputs.shape)}. {advice}")
    try:
        rows = np.asarray(inputs, np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"inputs must all be pictures, or all rows of equally many numbers. {_PIXELS}") from error
    if rows.ndim != 2:
        array = f"an array of {described}{list(rows.shape)}"
        raise ValueError(f"inputs must be pictures, or rows of finite numbers; this is {array}. {_PIXELS}")
    if not np.isfinite(rows).all():
        raise ValueError("inputs must be pictures, or rows of finite numbers; some of these are not finite")
    listed: list[list[float]] = rows.tolist()
    return listed


def encode_png(pixels: NDArray[np.uint8]) -> bytes:
    """Pixels as a PNG file.

    Raises:
        ValueError: if they are not uint8 [H, W] or [H, W, C] with C = 1 or 3.
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


def _is_empty(inputs: Sequence[Any] | NDArray[Any]) -> bool:
    return inputs.ndim == 0 or len(inputs) == 0 if isinstance(inputs, np.ndarray) else not inputs


def _is_picture(value: object) -> bool:
    if isinstance(value, np.ndarray):
        return value.dtype == np.uint8 and value.ndim != 4
    return isinstance(value, str | PathLike | bytes | bytearray | memoryview) or hasattr(value, "read")


def _encode_pictures(pictures: Iterable[Any]) -> tuple[bytes, str]:
    files = [("images", _read_picture(picture)) for picture in pictures]
    request = httpx.Request("POST", "http://multipart", files=files)
    return request.read(), request.headers["Content-Type"]


def _read_picture(picture: Any) -> tuple[str, bytes]:
    """Name of a picture, for the service's messages, and the bytes of its file."""
    if isinstance(picture, np.ndarray):
        return "pixels", encode_png(picture)
    if isinstance(picture, bytes | bytearray | memoryview):
        return "bytes", bytes(picture)
    if hasattr(picture, "read"):
        name, content = str(getattr(picture, "name", "file")), picture.read()
        if isinstance(content, str):
            raise ValueError(f"{name} is open as text; open it in binary mode")
    else:
        name, content = str(picture), _read_file(Path(picture))
    return Path(name).name.encode(errors="replace").decode(), content


def _read_file(path: Path) -> bytes:
    """The content of a picture's file."""
    if path.is_dir():
        message = f"It is a directory. Name the pictures in it, for example {path / '*.png'}"
        raise IsADirectoryError(errno.EISDIR, message, str(path))
    with path.open("rb") as file:
        content = file.read(_LARGEST_FILE + 1)
    if len(content) > _LARGEST_FILE:
        raise OSError(errno.EFBIG, f"It is larger than {_LARGEST_FILE >> 20} MiB, too large for a picture", str(path))
    return content
