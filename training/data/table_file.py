"""Tables in files: CSV, TSV and Parquet, as columns of text."""

import codecs
import csv
import io
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from models.inputs.columns import MISSING_TEXTS
from training.data.dataset import DatasetError
from training.data.image_tree import show

SAMPLE_CHARACTERS = 2**16
"""Length of the beginning of a file that tells its delimiter."""

DELIMITERS = ",;\t|"

MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
"""Encodings of files that begin with a byte order mark."""


@dataclass(frozen=True)
class TextTable:
    """A table of text, in which missing values are null."""

    frame: pl.DataFrame
    decimal_comma: bool
    """Whether numbers may have a comma before their fraction, because another character divides the columns."""


def read_table_file(path: Path) -> TextTable:
    """Reads a table; the suffix says whether it is Parquet.

    A text file is UTF-8, UTF-16 with a byte order mark, or else Windows-1252. Its first line tells its delimiter.

    Raises:
        DatasetError: if the file cannot be read, is not a table, or has two columns of one name.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DatasetError(f"{show(path)} cannot be read: {error.strerror}") from error
    if path.suffix.lower() in (".parquet", ".pq"):
        return TextTable(_clean(_read_parquet(path, content)), decimal_comma=False)
    text = _decode(content)
    if "\0" in text:
        raise DatasetError(
            f"{show(path)} is not a text file. A table is a Parquet file, or text in UTF-8, in UTF-16 with a "
            "byte order mark, or in Windows-1252"
        )
    if "\n" not in text:
        text = text.replace("\r", "\n")
    delimiter = "\t" if path.suffix.lower() == ".tsv" else _find_delimiter(text)
    _check_header(path, text, delimiter)
    try:
        frame = pl.read_csv(io.BytesIO(text.encode()), separator=delimiter, infer_schema=False)
    except pl.exceptions.PolarsError as error:
        reason = str(error).strip().splitlines()[0][:300]
        raise DatasetError(
            f"{show(path)} is not a table with the delimiter {delimiter!r}: {reason}. No row may have more "
            "values than the first line names columns"
        ) from error
    return TextTable(_clean(frame), decimal_comma=delimiter == ";")


def _read_parquet(path: Path, content: bytes) -> pl.DataFrame:
    try:
        frame = pl.read_parquet(io.BytesIO(content))
        nested = [name for name, kind in frame.schema.items() if kind.is_nested() or kind == pl.Binary]
        if nested:
            raise DatasetError(f"{show(path)}: column {nested[0]!r} holds {frame.schema[nested[0]]}, not single values")
        times = pl.col(pl.Datetime).dt.to_string("iso:strict")
        return frame.with_columns(times).with_columns(pl.all().cast(pl.String))
    except pl.exceptions.PolarsError as error:
        raise DatasetError(f"{show(path)} is not a valid Parquet file: {str(error)[:300]}") from error


def _decode(content: bytes) -> str:
    for mark, encoding in MARKS.items():
        if content.startswith(mark):
            return content.decode(encoding, errors="replace")
    try:
        return content.decode()
    except UnicodeDecodeError:
        return content.decode("cp1252", errors="replace")


def _find_delimiter(text: str) -> str:
    """The delimiter that divides the first line into most parts."""
    return max(DELIMITERS, key=lambda delimiter: len(_read_header(text.partition("\n")[0], delimiter)))


def _read_header(text: str, delimiter: str) -> list[str]:
    """The first row of a text, or nothing if it cannot be read."""
    try:
        return next(csv.reader(io.StringIO(text[:SAMPLE_CHARACTERS]), delimiter=delimiter), [])
    except csv.Error:
        return []


def _check_header(path: Path, text: str, delimiter: str) -> None:
    header = _read_header(text, delimiter)
    if len(header) < 2:
        raise DatasetError(
            f"{show(path)} has no table: its first line must name at least two columns, with a comma, a semicolon, a "
            "tab or | between them"
        )
    names = [name.strip() for name in header]
    if (twice := next((name for name in names if names.count(name) > 1), None)) is not None:
        what = f"named {twice[:100]!r}" if twice else "without a name"
        raise DatasetError(f"{show(path)} has two columns {what}; rename one of them")


def _clean(frame: pl.DataFrame) -> pl.DataFrame:
    """Strips names and values, and makes texts that stand for missing values null."""
    stripped = pl.all().str.strip_chars()
    cleaned = frame.select(pl.when(stripped.is_in(list(MISSING_TEXTS))).then(None).otherwise(stripped).name.keep())
    return cleaned.rename({name: name.strip() for name in cleaned.columns})
