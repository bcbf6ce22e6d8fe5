"""Progress of long work, on stderr: what is done, how much of it, and how much time is left.

It belongs to the process like its log does, so functions that take long say what they do, and only the command line
says whether that is shown.
"""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

from tqdm import tqdm

LOG_INTERVAL = 15.0
"""Seconds between two lines, and before the first, where stderr is no terminal."""

T = TypeVar("T")
_quiet = ContextVar("quiet", default=False)


class _Log:
    """A stream that gives each state of a bar a line of its own."""

    def write(self, text: str) -> None:
        if text.startswith("\r") and text.strip():
            sys.stderr.write(text.strip() + "\n")

    def flush(self) -> None:
        sys.stderr.flush()


@contextmanager
def be_quiet(quiet: bool = True) -> Iterator[None]:
    """Shows no progress meanwhile, if so asked."""
    token = _quiet.set(quiet)
    try:
        yield
    finally:
        _quiet.reset(token)


def open_bar(what: str, unit: str, total: float | None = None, done: float = 0) -> Any:
    """A bar of tqdm, to be closed, which goes away then."""
    to_terminal = sys.stderr.isatty()
    return tqdm(
        desc=what,
        unit=f" {unit}",
        total=total,
        initial=done,
        leave=False,
        delay=0 if to_terminal else LOG_INTERVAL,
        mininterval=0.1 if to_terminal else LOG_INTERVAL,
        file=sys.stderr if to_terminal else _Log(),
        disable=_quiet.get(),
    )


def track(items: Sequence[T], what: str, unit: str) -> Iterator[T]:
    """Yields items, and shows how many are done."""
    with open_bar(what, unit, len(items)) as bar:
        for item in items:
            yield item
            bar.update()


def announce(text: str) -> None:
    """A line of its own, above what is in progress."""
    if not _quiet.get():
        tqdm.write(text, file=sys.stderr)


def warn(text: str) -> None:
    """As `announce`, but also where progress is not shown."""
    tqdm.write(f"Warning: {text}", file=sys.stderr)
