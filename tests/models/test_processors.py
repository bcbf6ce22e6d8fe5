"""Processors and threads of a process whose processor time is limited."""

import os
from pathlib import Path

import pytest
import torch

from models.processors import choose_threads, count_processors

ALL = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.parametrize(
    ("own", "files", "quota"),
    [
        ("0::/\n", {"cpu.max": "100000 100000"}, 1),
        ("0::/\n", {"cpu.max": "max 100000"}, ALL),
        ("0::/pods/one\n", {"pods/cpu.max": "150000 100000", "pods/one/cpu.max": "max 100000"}, 1),
        ("0::/pods/one\n", {"pods/cpu.max": "max 100000", "pods/one/cpu.max": "50000 100000"}, 1),
        ("0::/seen/outside/only\n", {"cpu.max": "120000 100000"}, 1),
        ("4:cpu,x:/\n0::/\n", {"cpu,x/cpu.cfs_quota_us": "100000", "cpu,x/cpu.cfs_period_us": "100000"}, 1),
        ("1:cpu:/one\n", {"cpu/one/cpu.cfs_quota_us": "-1", "cpu/one/cpu.cfs_period_us": "100000"}, ALL),
        ("3:cpuset:/\n", {"cpuset/cpu.max": "100000 100000"}, ALL),
        ("0::/\n", {"cpu.max": f"{(ALL + 5) * 100_000} 100000"}, ALL),
    ],
)  # fmt: skip
def test_a_quota_limits_the_processors(own: str, files: dict[str, str], quota: int, tmp_path: Path) -> None:
    write(tmp_path / "own", own)
    for name, text in files.items():
        write(tmp_path / "groups" / name, text)
    assert count_processors(tmp_path / "groups", tmp_path / "own") == quota


def test_without_control_groups_all_processors_count(tmp_path: Path) -> None:
    assert count_processors(tmp_path, tmp_path / "none") == ALL


@pytest.fixture(autouse=True)
def _restore_threads() -> object:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def test_threads_are_those_that_are_wanted_or_have_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    choose_threads(3)
    assert torch.get_num_threads() == 3
    monkeypatch.setattr("models.processors.count_processors", lambda: 2)
    choose_threads()
    assert torch.get_num_threads() == 2
    choose_threads()
    assert torch.get_num_threads() == 2
    monkeypatch.setattr("models.processors.count_processors", lambda: 8)
    choose_threads()
    assert torch.get_num_threads() == 2, "PyTorch would use no more"
