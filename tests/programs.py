"""Programs beside Python that some tests need: hooks of pytest that skip these tests where they are missing."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

PROGRAMS = {
    "chromium": "chromium",
    "chromedriver": "chromium-driver",
    "git": "git",
    "initdb": "postgresql",
    "nginx": "nginx-light",
    "prometheus": "prometheus",
    "promtool": "prometheus",
    "redis-server": "redis-server",
}
"""Programs that some tests need, and Debian's packages of them."""

FOLDERS = [os.environ["PATH"], *map(str, sorted(Path("/usr/lib/postgresql").glob("*/bin")))]
"""Where they are; Debian leaves those of PostgreSQL out of the path."""


def find_program(name: str) -> str | None:
    """The path of a program, if it is installed."""
    return shutil.which(name, path=os.pathsep.join(FOLDERS))


def pytest_addoption(parser: pytest.Parser) -> None:
    text = "let tests fail, rather than skip them, if a program that they need is not installed"
    parser.addoption("--require-programs", action="store_true", help=text)


def check_programs(item: pytest.Item) -> None:
    """Skips a test marked `needs` whose programs are missing."""
    needed = {program for mark in item.iter_markers("needs") for program in mark.args}
    if missing := sorted(program for program in needed if find_program(program) is None):
        reason = f"needs {' and '.join(missing)}"
        if item.config.getoption("--require-programs"):
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    check_programs(item)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> Iterator[None]:
    """Says in one line, after all others, which programs were missing for how many tests, and what to install."""
    yield
    reasons = [str(report.longrepr[2]) for report in terminalreporter.stats.get("skipped", [])]
    skipped = [reason.removeprefix("Skipped: needs ") for reason in reasons if reason.startswith("Skipped: needs ")]
    if skipped:
        missing = sorted({program for programs in skipped for program in programs.split(" and ")})
        packages = " ".join(PROGRAMS[program] for program in missing)
        text = f"{len(skipped)} skipped for want of {', '.join(missing)}: apt-get install {packages}"
        terminalreporter.write_line(text, yellow=True)
