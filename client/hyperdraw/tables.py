"""Answers as rows of a table, and the table as a file: CSV, JSON Lines or Parquet."""

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from hyperdraw.answers import Classification, Prediction
from hyperdraw.files import replace_file

_ROW_GROUP = 10_000
"""Rows of a Parquet file that are in memory at once."""

Rows = Iterable[Mapping[str, Any]]


def make_row(name: str, answer: Prediction) -> dict[str, Any]:
    """The answer for one input as a row: its columns and their values.

    `error` is None. Numbers have as many digits as float32 needs.
    """
    row: dict[str, Any] = {
        "input": name,
        "error": None,
        "model": answer.model.name,
        "version": answer.model.version,
        "seed": answer.seed,
        "ensemble_size": int(answer.ensemble_size),
    }
    if isinstance(answer, Classification):
        shares = {label: _round(share) for label, share in zip(answer.classes, answer.probabilities, strict=True)}
        label = str(answer.labels)
        row |= {"label": label, "probability": shares[label]}
        row |= {f"probability.{label}": share for label, share in shares.items()}
        row |= {measure: _round(value) for measure, value in vars(answer.uncertainty).items()}
        if answer.prediction_sets is not None:
            held = zip(answer.classes, answer.prediction_sets, strict=True)
            row["prediction_set"] = [label for label, member in held if member]
    else:
        fields = vars(answer).items()
        measures: dict[str, Any] = {name: value for name, value in fields if isinstance(value, np.ndarray | np.generic)}
        for other in ("members", "request_ids", "request_indices"):
            measures.pop(other, None)
        for k, number in enumerate(answer.names):
            row |= {f"{number}.{measure}": _round(value[k]) for measure, value in measures.items() if value.ndim}
        row |= {measure: _round(value) for measure, value in measures.items() if not value.ndim}
    if answer.coverage is not None:
        row["coverage"] = answer.coverage
    for flag, judged in answer.flags.items():
        row |= {flag: bool(judged.flagged), f"{flag}.score": _round(judged.scores)}
    if answer.request_ids is not None and answer.request_indices is not None:
        row |= {"request_id": str(answer.request_ids), "request_index": int(answer.request_indices)}
    return row


def make_refusal(name: str, error: Exception, model: str, version: str, seed: int) -> dict[str, Any]:
    """The row of an input without an answer; `error` says why."""
    return {"input": name, "error": str(error), "model": model, "version": version, "seed": seed}


def check_format(path: str) -> None:
    """Checks that a table can be written as a file of this name.

    Raises:
        ValueError: if its suffix is unknown, or a package is missing.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in _WRITERS:
        raise ValueError(f"{path} must end with {', '.join(list(_WRITERS)[:-1])} or {list(_WRITERS)[-1]}")
    if suffix == ".parquet" and not find_spec("pyarrow"):
        raise ValueError(f"{path} needs pyarrow: pip install pyarrow, or write .csv or .jsonl")


def write_table(path: Path, example: Mapping[str, Any], rows: Rows) -> None:
    """Writes a table whole or not at all, in the format of its suffix.

    Args:
        path: the file.
        example: a row with all columns.
        rows: the rows. Columns that a row lacks are empty.

    Raises:
        OSError: if the file cannot be written.
    """
    with replace_file(path) as file:
        _WRITERS[path.suffix.lower()](file, example, rows)


def _round(value: Any) -> float:
    """A number of float32 without the digits that float64 would add."""
    return float(str(value))


def _readable(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row whose text can be written as UTF-8, which names of files need not be."""
    return {
        column: value.encode(errors="replace").decode() if isinstance(value, str) else value
        for column, value in row.items()
    }


def _write_csv(file: BinaryIO, example: Mapping[str, Any], rows: Rows) -> None:
    text = io.TextIOWrapper(file, encoding="utf-8", newline="", write_through=True)
    table = csv.DictWriter(text, example)
    table.writeheader()
    for row in rows:
        cells = _readable(row)
        if "prediction_set" in cells:
            cells["prediction_set"] = json.dumps(cells["prediction_set"], ensure_ascii=False)
        table.writerow(cells)
    text.detach()


def _write_json_lines(file: BinaryIO, example: Mapping[str, Any], rows: Rows) -> None:
    for row in rows:
        file.write(json.dumps(_readable(row)).encode() + b"\n")


def _write_parquet(file: BinaryIO, example: Mapping[str, Any], rows: Rows) -> None:
    import pyarrow
    from pyarrow import parquet

    kinds = {
        bool: pyarrow.bool_(),
        int: pyarrow.int64(),
        float: pyarrow.float64(),
        list: pyarrow.list_(pyarrow.string()),
    }
    columns = {column: kinds.get(type(value), pyarrow.string()) for column, value in example.items()}
    schema = pyarrow.schema(list(columns.items()))
    with parquet.ParquetWriter(file, schema) as table:
        for group in _group(map(_readable, rows)):
            table.write_table(pyarrow.Table.from_pylist(group, schema))


def _group(rows: Iterator[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    while group := list(islice(rows, _ROW_GROUP)):
        yield group


_WRITERS: dict[str, Callable[[BinaryIO, Mapping[str, Any], Rows], None]] = {
    ".csv": _write_csv,
    ".jsonl": _write_json_lines,
    ".parquet": _write_parquet,
}
