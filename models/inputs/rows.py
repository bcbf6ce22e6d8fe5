"""Rows of values, in order or by name, as clients send them."""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches

from models.inputs.kind import Cell, InputError, Row

SHOWN = 10
"""Most names that a message lists."""


def arrange_rows(rows: Sequence[Row], names: Sequence[str]) -> list[Sequence[Cell]]:
    """Puts the values of each row into the order of `names`.

    Raises:
        InputError: if a row has too few or too many values, or lacks a name, or has one that is not known.
    """
    return [_arrange(row, names, number) for number, row in enumerate(rows)]


def _arrange(row: Row, names: Sequence[str], number: int) -> Sequence[Cell]:
    hint = f"The columns are {list_names(names)}."
    if not isinstance(row, Mapping):
        if len(row) != len(names):
            raise InputError(f"Row {number} has {len(row)} value(s), not {len(names)}.", hint)
        return row
    if unknown := next((name for name in row if name not in names), None):
        close = get_close_matches(unknown, names, n=1)
        hint = f"Did you mean {close[0]!r}? {hint}" if close else hint
        raise InputError(f"Row {number} has the unknown column {show(unknown)}.", hint)
    if missing := next((name for name in names if name not in row), None):
        raise InputError(f"Row {number} lacks the column {missing!r}.", hint)
    return [row[name] for name in names]


def show(value: object) -> str:
    """The beginning of a value, for a message."""
    return repr(value)[:100]


def list_names(names: Sequence[str]) -> str:
    """Names for a message, of which it shows the first."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
