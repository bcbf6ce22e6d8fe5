"""Inputs as a command names them: pictures, folders of pictures, and tables."""

import csv
import errno
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

_PICTURES = (".avif", ".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".mpo", ".png", ".tif", ".tiff", ".webp")
"""Suffixes of the files in a folder that are pictures."""
_TABLES = (".csv", ".tsv")

Source = str | BinaryIO | list[float] | Mapping[str, Any]
"""A picture's path, an open picture, or a row, whose values may be those of named columns."""


def find_inputs(path: str) -> list[tuple[str, Source]]:
    """The inputs that a path stands for, by name: the pictures of a folder, the rows of a table, or one picture.

    Raises:
        ValueError: if a table cannot be read as one.
        OSError: if a folder or a table cannot be read, or a folder has no pictures.
    """
    if Path(path).is_dir():
        return [(name, name) for name in _find_pictures(path)]
    if path.lower().endswith(_TABLES):
        return [(f"{path}:{line}", row) for line, row in read_table(path)]
    return [(path, path)]


def _find_pictures(folder: str) -> list[str]:
    """Paths of the pictures in a folder and its subfolders, in order. Hidden ones are left out."""

    def fail(error: OSError) -> NoReturn:
        raise error

    found: list[str] = []
    for parent, folders, names in os.walk(folder, onerror=fail):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        pictures = (name for name in sorted(names) if name.lower().endswith(_PICTURES) and not name.startswith("."))
        found += [str(Path(parent, name)) for name in pictures]
    if not found:
        raise FileNotFoundError(errno.ENOENT, "It has no pictures, that is, no files such as *.png or *.jpg", folder)
    return found


def read_table(path: str) -> list[tuple[int, dict[str, str]]]:
    """Rows by the names of the columns, each with the number of its line. The first line has the names.

    Raises:
        ValueError: if it cannot be read as a table.
        OSError: if it cannot be read.
    """
    try:
        with Path(path).open(encoding="utf-8-sig", newline="") as file:
            header = file.readline()
            delimiter = max(",;\t", key=header.count)
            names = next(csv.reader([header], delimiter=delimiter, strict=True), [])
            if repeated := [name for name in names if names.count(name) > 1]:
                raise ValueError(f"{path} has several columns named {repeated[0]!r}")
            reader = csv.DictReader(file, names, delimiter=delimiter, strict=True)
            rows = [(1 + reader.line_num, row) for row in reader]
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not text in UTF-8: {error.reason} at byte {error.start}") from error
    except csv.Error as error:
        raise ValueError(f"{path} is not a table: {error}") from error
    if not rows:
        raise ValueError(f"{path} has no rows; its first line must have the names of the columns")
    if wrong := [line for line, row in rows if None in row or None in row.values()]:
        raise ValueError(f"line {wrong[0]} of {path} does not have {len(names)} cells, one for each column")
    return rows
