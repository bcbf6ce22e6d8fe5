"""Tests that need programs beside Python."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests import ROOT
from tests.programs import PROGRAMS

EXAMPLE = """
import pytest

@pytest.mark.needs("promtool", "git")
def test_rules():
    raise AssertionError

def test_nothing():
    pass
"""


@pytest.mark.parametrize("flags", [[], ["--require-programs"]], ids=str)
def test_missing_programs_are_named_with_their_packages(tmp_path: Path, flags: list[str]) -> None:
    (tmp_path / "test_example.py").write_text(EXAMPLE)
    command = [sys.executable, "-m", "pytest", "-c", str(ROOT / "pyproject.toml"), "-p", "tests.programs", *flags]
    environment = {**os.environ, "PATH": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
    ended = subprocess.run(
        [*command, "-q", "-p", "no:cacheprovider", str(tmp_path)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    *_, last, counts = ended.stdout.splitlines()
    if flags:
        assert ended.returncode == 1
        assert "needs git and promtool" in ended.stdout
        assert counts.startswith("1 passed, 1 error")
    else:
        assert ended.returncode == 0, ended.stdout + ended.stderr
        assert last == "1 skipped for want of git, promtool: apt-get install git prometheus"
        assert counts.startswith("1 passed, 1 skipped")


def test_every_program_that_a_test_needs_has_its_package() -> None:
    marks = [re.findall(r"pytest\.mark\.needs\(([^)]*)\)", path.read_text()) for path in ROOT.glob("tests/*/**/*.py")]
    needed = {program for found in marks for arguments in found for program in re.findall(r'"([\w-]+)"', arguments)}
    assert needed == set(PROGRAMS)
