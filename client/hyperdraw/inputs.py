"""Pictures and rows as the bodies of requests.

Shapes: B inputs, H × W pixels, C channels.
"""

import errno
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Union

import httpx
import numpy as np
from numpy.typing import NDArray

from hyperdraw.pictures import PIXELS, check_pixels, count_pixels, encode_image, encode_pixels, find_class, shrink

if TYPE_CHECKING:
    import pandas
    import torch
    from PIL import Image

Picture = Union[str, PathLike[str], bytes, bytearray, memoryview, BinaryIO, NDArray[Any], "Image.Image", "torch.Tensor"]
"""A path, the bytes of a picture's file, an open file, an image of Pillow, or pixels as an array or a tensor.

Pixels are whole numbers from 0 to 255 or floating-point numbers from 0 to 1, [H, W], [H, W, C] or [C, H, W] with C = 1
or 3.
"""

Row = Union[Sequence[Any], NDArray[Any], "torch.Tensor", Mapping[str, Any]]
"""Values in the order of the model's columns, or by their names.

Values for a table may also be text, dates and booleans; None and NaN are missing ones.
"""

Inputs = Union[Picture, Sequence[Picture | Row], "pandas.DataFrame"]
"""One picture or several, or rows of numbers.

An array or tensor of floating-point numbers [B, numbers] holds rows, and one of [B, H, W, C] or [B, C, H, W] pictures.
A frame of pandas holds rows by the names of the model's columns; it may have more columns.
"""

Columns = Mapping[str, bool]
"""A model's columns in order, and whether each is one of a table. Otherwise it is a number that is never missing."""

_ROWS = "application/json"
"""Content type of rows of numbers."""

_LARGEST_FILE = 2**28
"""Most bytes of a picture's file."""


@dataclass(frozen=True)
class Item:
    """An input as it is sent."""

    index: int
    """Number of the input among those of the call."""
    content: bytes
    """A picture's file, or a row in JSON."""
    name: str | None = None
    """Name of a picture for the service's messages; None for a row."""
    shrunk: bool = False

    @cached_property
    def pixels(self) -> int:
        """Number of pixels; 0 for a row, and if Pillow cannot tell."""
        return 0 if self.name is None else count_pixels(self.content)

    def shrink(self, most: int) -> "Item | None":
        """The picture with at most `most` pixels. None if that is impossible, or was done before."""
        content = None if self.name is None or self.shrunk else shrink(self.content, most)
        return None if content is None else replace(self, content=content, shrunk=True)


def list_inputs(inputs: Inputs) -> list[Any]:
    """The single inputs: pictures, rows as lists of values, or rows as mappings. All are of the same kind.

    Raises:
        ValueError: if the inputs are neither pictures nor rows. Pixels that are out of range, and the values of rows of
            a table, are checked later.
    """
    given: Any = _read_tensor(inputs)
    if isinstance(given, find_class("pandas", "DataFrame")):
        return _read_frame(given)
    if isinstance(given, np.ndarray):
        if not given.size:
            shape = list(given.shape)
            raise ValueError(f"inputs must be a picture or a non-empty sequence, not an array of {given.dtype} {shape}")
        if given.ndim == 2 and given.dtype.kind == "f":
            return _read_rows(given)
        if given.ndim != 4:
            _check_array(given)
            return [given]
        given = list(given)
    if _is_picture(given):
        return [given]
    if not isinstance(given, Sequence) or not given:
        advice = "; numpy.asarray may turn it into an array" if hasattr(given, "__array__") else ""
        raise ValueError(f"inputs must be a picture or a non-empty sequence, not {type(given).__name__}{advice}")
    values = [_read_tensor(value) for value in given]
    if all(map(_is_picture, values)):
        for value in values:
            if isinstance(value, np.ndarray):
                check_pixels(value)
        return values
    return values if all(isinstance(value, Mapping) for value in values) else _read_rows(values)


def encode_input(index: int, value: Any, columns: Columns | None) -> Item:
    """A picture or row of `list_inputs` as it is sent.

    Args:
        index: its number.
        value: the picture or row.
        columns: the model's columns, for rows that are mappings.

    Raises:
        ValueError: if a value is out of range, or a column is missing.
        OSError: if a file cannot be read.
    """
    if _is_picture(value):
        name, content = _read_picture(value)
        return Item(index, content, name)
    row = _order_row(value, columns or {}) if isinstance(value, Mapping) else value
    try:
        return Item(index, json.dumps(row, allow_nan=False).encode())
    except ValueError as error:
        raise ValueError(f"a row must have finite numbers, text, dates or missing values; this is {row}") from error


def encode_body(items: Sequence[Item]) -> tuple[bytes, str]:
    """The body of a request, and its content type."""
    if items[0].name is None:
        return b'{"inputs": [' + b", ".join(item.content for item in items) + b"]}", _ROWS
    files = [("images", (item.name, item.content)) for item in items]
    request = httpx.Request("POST", "http://multipart", files=files)
    return request.read(), request.headers["Content-Type"]


def _read_tensor(value: Any) -> Any:
    """A tensor of PyTorch as an array; anything else as it is."""
    if not isinstance(value, find_class("torch", "Tensor")):
        return value
    value = value.detach().cpu()
    return (value.double() if value.is_floating_point() else value).numpy()  # numpy lacks bfloat16


def _read_frame(frame: Any) -> list[dict[str, Any]]:
    """Rows by the names of their columns. None is a missing value."""
    if not len(frame):
        raise ValueError("the frame has no rows")
    names = [str(name) for name in frame.columns]
    if repeated := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"the frame has several columns named {min(repeated)}")
    known = frame.astype(object).where(frame.notna(), None)
    return [dict(zip(names, row, strict=True)) for row in known.itertuples(index=False, name=None)]


def _check_array(array: NDArray[Any]) -> None:
    """Checks that an array with one picture is one."""
    if array.ndim == 2 and array.dtype.kind in "ui" and array.dtype != np.uint8:
        advice = "astype(np.uint8) makes a picture of it, astype(float) rows"
        described = f"an array of {array.dtype} {list(array.shape)}"
        raise ValueError(f"{described} may be a picture, or rows of numbers. {advice}")
    if array.ndim < 2:
        described = f"{array.dtype} {list(array.shape)}"
        raise ValueError(
            f"inputs must be pictures, or rows of finite numbers; this is an array of {described}. {PIXELS}"
        )
    check_pixels(array, alone=True)


def _read_rows(rows: Sequence[Any] | NDArray[Any]) -> list[list[Any]]:
    """Rows of numbers, [B, numbers], or of a table's values in order."""
    if all(isinstance(row, list | tuple) for row in rows) and any(_is_of_table(cell) for row in rows for cell in row):
        return [[_write_value("", cell, True) for cell in row] for row in rows]
    try:
        numbers = np.asarray(rows, np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"inputs must all be pictures, or all rows of equally many numbers. {PIXELS}") from error
    if numbers.ndim != 2:
        array = f"an array of {list(numbers.shape)}"
        raise ValueError(f"inputs must be pictures, or rows of finite numbers; this is {array}. {PIXELS}")
    if not np.isfinite(numbers).all():
        raise ValueError("inputs must be pictures, or rows of finite numbers; some of these are not finite")
    listed: list[list[Any]] = numbers.tolist()
    return listed


def _order_row(row: Mapping[str, Any], columns: Columns) -> list[Any]:
    """The values of a row in the model's order."""
    if missing := [column for column in columns if column not in row]:
        raise ValueError(f"a row lacks the column {missing[0]}; the model takes {', '.join(columns)}")
    return [_write_value(column, row[column], of_table) for column, of_table in columns.items()]


def _is_of_table(cell: object) -> bool:
    """Whether a value is one that only a table has."""
    return cell is None or isinstance(cell, str | bool | date)


def _write_value(column: str, value: Any, of_table: bool) -> Any:
    """A value as it is sent. A table's may be missing, or text; the service knows what each column takes."""
    if isinstance(value, np.generic):
        value = value.item()
    if of_table:
        if value is None or value != value:  # NaN, and pandas' NaT
            return None
        if isinstance(value, date):
            return value.isoformat()
        return value if isinstance(value, bool | int | float) else str(value)
    try:
        number = float(value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{column} is {value!r}, not a number") from error
    if not math.isfinite(number):
        raise ValueError(f"{column} is {number}, not a finite number")
    return number


def _is_picture(value: object) -> bool:
    if isinstance(value, np.ndarray):
        return value.ndim > 1
    files = str, PathLike, bytes, bytearray, memoryview, find_class("PIL.Image", "Image")
    return isinstance(value, files) or hasattr(value, "read")


def _read_picture(picture: Any) -> tuple[str, bytes]:
    """Name of a picture, for the service's messages, and the bytes of its file."""
    if isinstance(picture, np.ndarray):
        return "pixels", encode_pixels(picture)
    if isinstance(picture, find_class("PIL.Image", "Image")):
        return "image", encode_image(picture)
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
