"""Progress of long work, on stderr: how much is done, and how much time is left.

Progress belongs to the process, like its log: functions that take long report it, and the command line alone decides
whether it is shown.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import timedelta
from typing import Self, TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, Task, TextColumn, TimeElapsedColumn, TimeRemainingColumn

LOG_INTERVAL = 15.0
"""Seconds from one line to the next, and to the first, where stderr is not a terminal."""

T = TypeVar("T")
_quiet = ContextVar("quiet", default=False)
_console = Console(stderr=True, markup=False, emoji=False, highlight=False)
_display = Progress(
    TextColumn("{task.description}", markup=False),
    BarColumn(bar_width=30),
    TextColumn("{task.completed:,.0f}/{task.total:,.0f} {task.fields[unit]}s", markup=False),
    TimeElapsedColumn(),
    TextColumn("<"),
    TimeRemainingColumn(),
    TextColumn("{task.fields[note]}", markup=False),
    console=_console,
    redirect_stdout=False,
    refresh_per_second=4,
    transient=True,
)


class Bar:
    """The progress of one piece of work: a row on a terminal, or a line in a log now and then.

    It has the methods of the bars that `pooch` fills while it downloads.
    """

    def __init__(self, what: str, unit: str, total: int, done: int = 0) -> None:
        self._quiet = _quiet.get()
        self._live = _console.is_interactive and _console.file.isatty() and not self._quiet
        self._logged = time.monotonic()
        self._id = _display.add_task(what, total=total, completed=done, unit=unit, note="", visible=not self._quiet)
        if self._live:
            _display.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def total(self) -> int:
        """How much there is to do."""
        return int(self._task.total or 0)

    @total.setter
    def total(self, total: int) -> None:
        _display.update(self._id, total=total)

    def update(self, count: int = 1) -> None:
        """Counts what was just done."""
        _display.advance(self._id, count)
        if not self._live and not self._quiet and time.monotonic() - self._logged >= LOG_INTERVAL:
            self._logged = time.monotonic()
            announce(self._describe())

    def note(self, text: str) -> None:
        """Shows a text behind the numbers."""
        _display.update(self._id, note=text)

    def reset(self) -> None:
        """Counts from 0 again."""
        _display.update(self._id, completed=0)

    def close(self) -> None:
        """Takes the row away."""
        if self._id in _display.task_ids:
            _display.remove_task(self._id)
        if self._live and not _display.task_ids:
            _display.stop()

    @property
    def _task(self) -> Task:
        return next(task for task in _display.tasks if task.id == self._id)

    def _describe(self) -> str:
        task = self._task
        left = "" if task.time_remaining is None else f", {timedelta(seconds=task.time_remaining)} left"
        note = f", {task.fields['note']}" if task.fields["note"] else ""
        done = f"{task.completed:,.0f}/{self.total:,.0f} {task.fields['unit']}s"
        return f"{task.description}: {task.percentage:.0f}%, {done}{left}{note}"


@contextmanager
def be_quiet(quiet: bool = True) -> Iterator[None]:
    """Shows no progress meanwhile, unless `quiet` is False."""
    token = _quiet.set(quiet)
    try:
        yield
    finally:
        _quiet.reset(token)


def be_silent() -> None:
    """Shows nothing from now on, not even warnings, because another process shows the same."""
    _console.quiet = True


def track(items: Sequence[T], what: str, unit: str) -> Iterator[T]:
    """Yields items, and shows how many are done."""
    with Bar(what, unit, len(items)) as bar:
        for item in items:
            yield item
            bar.update()


def announce(text: str) -> None:
    """Writes a line above the bars."""
    if not _quiet.get():
        _console.print(text, soft_wrap=True)


def warn(text: str) -> None:
    """Writes a warning above the bars, also where progress is not shown."""
    _console.print(f"Warning: {text}", soft_wrap=True)
