"""Progress is shown on stderr: bars on a terminal, lines elsewhere."""

import io
import sys

import pytest

from training import progress
from training.progress import Bar, announce, be_quiet, track, warn


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_is_shown_on_stderr_unless_it_is_not_wanted(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "LOG_INTERVAL", 0)
    assert list(track([1, 2, 3], "counting", "number")) == [1, 2, 3]
    announce("so far")
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "counting: 67%, 2/3 numbers" in shown.err
    assert "so far" in shown.err.splitlines()
    with be_quiet():
        assert list(track([1, 2, 3], "counting", "number")) == [1, 2, 3]
        announce("so far")
        warn("look out")
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("", "Warning: look out\n")


def test_a_log_has_a_line_now_and_then(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with Bar("reading", "image", 4, done=1) as bar:
        bar.note("no errors")
        bar.update()
        assert capsys.readouterr().err == ""  # the interval has not passed
        monkeypatch.setattr(progress, "LOG_INTERVAL", 0)
        bar.update()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("reading: 75%, 3/4 images")
    assert line.endswith(", no errors")


def test_bars_on_a_terminal_go_away(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Within one another, too; lines stay, and stdout is left to results."""
    terminal = Terminal()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(progress._console, "is_interactive", True)
    monkeypatch.setattr(sys, "stderr", terminal)
    for number in track([1, 2], "outer", "number"):
        with Bar("inner", "step", 7) as bar:
            bar.update(number)
            announce(f"number {number}")
            print("result")
    announce("done")
    shown = terminal.getvalue()
    assert "outer" in shown
    assert "/7 steps" in shown
    assert "number 1\n" in shown
    assert shown.endswith("done\n")
    assert sys.stderr is terminal
    assert capsys.readouterr().out == "result\n" * 2


def test_a_bar_can_be_filled_by_pooch() -> None:
    """It sets the total once it knows it, and in the end fills the bar from the start."""
    with Bar("downloading", "byte", 0) as bar:
        bar.total = 10
        bar.update(20)
        bar.reset()
        bar.update(10)
        assert bar.total == 10
        bar.close()
