"""Files of the log: their rotation, their bounds, and disks that are full."""

import json
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from datetime import UTC, datetime, timedelta
from io import FileIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import service.recording.folder
from service.recording.folder import FILES, FolderSink
from tests.service.recording.records import make_record

Opener = Callable[..., FolderSink]


@pytest.fixture
def open_sink() -> Iterator[Opener]:
    """Opens sinks, and closes them at the end."""
    with ExitStack() as stack:
        yield lambda folder, most_bytes=10**6: stack.enter_context(closing(FolderSink(folder, most_bytes)))


LINE = len(make_record().write()) + 1


def read(folder: Path) -> list[list[int]]:
    """Numbers of the records in each file, from the oldest file on."""
    return [[json.loads(line)["index"] for line in path.read_text().splitlines()] for path in sorted(folder.iterdir())]


def test_a_record_is_a_line(tmp_path: Path, open_sink: Opener) -> None:
    sink = open_sink(tmp_path / "new" / "folder")
    sink.write([make_record(), make_record(1, key="alice", input={"row": {"age": None, "sex": "f"}})])
    (path,) = (tmp_path / "new" / "folder").iterdir()
    first, second = map(json.loads, path.read_text().splitlines())
    assert first == {
        "schema_version": 1,
        "time": "2026-11-30T12:00:00Z",
        "request_id": "r",
        "index": 0,
        "model": "digits",
        "version": "0" * 64,
        "method": "hypergan",
        "seed": 7,
        "ensemble_size": 20,
        "precision": "float32",
        "temperature": 1.5,
        "uncertainty": {"mutual_information": 0.25},
        "prediction": {"label": "7"},
    }
    assert (second["key"], second["input"]) == ("alice", {"row": {"age": None, "sex": "f"}})
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_files_rotate_and_the_oldest_go(tmp_path: Path, open_sink: Opener) -> None:
    other = tmp_path / "notes.txt"
    other.write_text("kept")
    most = FILES * 3 * LINE  # three lines in a file
    sink = open_sink(tmp_path, most)
    for index in range(10):
        sink.write([make_record(index)])
        paths = list(tmp_path.glob("*.jsonl"))
    assert len(paths) == 4
    for index in range(10, 200):
        sink.write([make_record(index % 10)])
        assert sum(path.stat().st_size for path in tmp_path.glob("*.jsonl")) <= most
    other.unlink()
    kept = read(tmp_path)
    assert len(kept) == FILES
    assert [index for file in kept for index in file] == [index % 10 for index in range(200)][-(3 * FILES - 1) :]
    assert {len(file) for file in kept[:-1]} == {3}


def test_a_request_larger_than_a_file_has_one_of_its_own(tmp_path: Path, open_sink: Opener) -> None:
    sink = open_sink(tmp_path, FILES * 2 * LINE)
    for start, stop in ((0, 1), (1, 7), (7, 8)):
        sink.write([make_record(index) for index in range(start, stop)])
    assert read(tmp_path) == [[0], [1, 2, 3, 4, 5, 6], [7]]


def test_each_day_has_a_file(tmp_path: Path, open_sink: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(moment=datetime(2026, 11, 30, 23, 59, tzinfo=UTC))
    monkeypatch.setattr(service.recording.folder, "datetime", SimpleNamespace(now=lambda _: clock.moment))
    sink = open_sink(tmp_path)
    sink.write([make_record(0)])
    sink.write([make_record(1)])
    clock.moment += timedelta(minutes=2)
    sink.write([make_record(2)])
    assert read(tmp_path) == [[0, 1], [2]]
    days = [path.name.removeprefix("predictions-")[:10] for path in sorted(tmp_path.iterdir())]
    assert days == ["2026-11-30", "2026-12-01"]


def test_what_is_removed_from_outside_is_made_again(tmp_path: Path, open_sink: Opener) -> None:
    folder = tmp_path / "log"
    sink = open_sink(folder)
    sink.write([make_record(0)])
    next(folder.iterdir()).unlink()
    folder.rmdir()
    sink.write([make_record(1)])
    assert read(folder) == [[1]]


def test_processes_share_a_folder(tmp_path: Path, open_sink: Opener) -> None:
    sinks = [open_sink(tmp_path) for _ in range(2)]
    for index in range(4):
        sinks[index % 2].write([make_record(index)])
    assert read(tmp_path) == [[0, 2], [1, 3]]


def test_a_full_disk_leaves_whole_lines(tmp_path: Path, open_sink: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    sink = open_sink(tmp_path)
    sink.write([make_record(0)])

    class FullDisk(FileIO):
        def write(self, content: Any) -> int:
            return super().write(content[:10])

    assert sink._file is not None
    with FullDisk(os.dup(sink._file.fileno()), "wb") as full, monkeypatch.context() as patch:
        patch.setattr(sink, "_file", full)
        with pytest.raises(OSError, match="No space left on device"):
            sink.write([make_record(1)])
    sink.write([make_record(2)])
    assert read(tmp_path) == [[0, 2]]


def test_a_folder_that_cannot_be_used_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError):
        FolderSink(tmp_path / "file", 10**6)
