"""Drawings from publications and from a user's own file, and their batches."""

import hashlib
import json
import pickle
import struct
import zipfile
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from models.sequences.strokes import StrokesSpec
from training.data import strokes
from training.data.dataset import DatasetError
from training.data.published import PublishedFile
from training.data.strokes import Batch, load_kanji, load_own_drawings, make_batches, read_drawings

SPEC = StrokesSpec(scale=10.0, extent=50.0, max_points=100)
COUNTS = {"train": 30, "valid": 4, "test": 3}


def make_drawings(count: int, seed: int = 0) -> list[Tensor]:
    """Drawings of up to 90 points. Their first number is their own."""
    generator = np.random.default_rng(seed)
    drawings = []
    for number in range(count):
        length = int(generator.integers(2, 90))
        points = np.concatenate([generator.integers(-300, 300, (length, 2)), generator.integers(0, 2, (length, 1))], 1)
        points[0, 0] = number + 1
        drawings.append(torch.from_numpy(points.astype(np.float32)))
    return drawings


def pickle_as_python_2(drawings: list[Tensor]) -> bytes:
    """A npy file of an array of arrays, as Python 2 wrote it: in protocol 2, with the bytes of arrays as strings."""

    def string(content: bytes) -> bytes:
        return (
            b"U" + bytes([len(content)]) + content
            if len(content) < 256
            else b"T" + struct.pack("<i", len(content)) + content
        )

    def kind(name: bytes, order: bytes, flags: int) -> bytes:
        state = b"(K\x03" + string(order) + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK" + bytes([flags]) + b"tb"
        return b"cnumpy\ndtype\n" + string(name) + b"K\x00K\x01\x87R" + state

    make = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
    inner = b""
    for drawing in drawings:
        content = drawing.numpy().astype("<i2").tobytes()
        inner += (
            make
            + b"(K\x01K"
            + bytes([len(drawing)])
            + b"K\x03\x86"
            + kind(b"i2", b"<", 0)
            + b"\x89"
            + string(content)
            + b"tb"
        )
    outer = b"(K\x01K" + bytes([len(drawings)]) + b"\x85" + kind(b"O8", b"|", 63) + b"\x89](" + inner + b"etb"
    return make_npy(b"\x80\x02" + make + outer + b".", len(drawings))


def make_npy(pickled: bytes, count: int) -> bytes:
    stream = BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "|O", "fortran_order": False, "shape": (count,)})
    return stream.getvalue() + pickled


def write_npz(path: Path, **changes: bytes) -> list[list[Tensor]]:
    splits = [make_drawings(count, seed) for seed, count in enumerate(COUNTS.values())]
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, drawings in zip(COUNTS, splits, strict=True):
            file.writestr(f"{name}.npy", changes.get(name, pickle_as_python_2(drawings)))
    return splits


def assert_equal(found: list[Tensor], expected: list[Tensor]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == torch.float32
        assert torch.equal(one, other)


def test_the_tests_file_is_what_numpy_reads(tmp_path: Path) -> None:
    splits = write_npz(tmp_path / "file.npz")
    with np.load(tmp_path / "file.npz", allow_pickle=True, encoding="latin1") as arrays:
        assert_equal([torch.from_numpy(array).float() for array in arrays["train"]], splits[0])


def test_a_publication(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "sketch-rnn" / "kanji" / "short_kanji.npz"
    train, validation, test = write_npz(path)
    with pytest.raises(DatasetError, match="is damaged"):
        load_kanji(tmp_path)
    own = PublishedFile(path.name, hashlib.sha256(path.read_bytes()).hexdigest())
    monkeypatch.setattr(strokes, "KANJI", replace(strokes.KANJI, files=(own,)))
    drawings = load_kanji(tmp_path)
    assert drawings.name == "kanji"
    assert drawings.licence is not None
    assert "CC BY-SA" in drawings.licence
    assert_equal(drawings.train, train)
    assert_equal(drawings.validation, validation)
    assert_equal(drawings.test, test)
    offsets = torch.cat(train)[:, :2]
    assert drawings.spec.scale == pytest.approx(float(offsets.std(correction=0)))
    assert max(map(len, train)) < drawings.spec.max_points == 128


class Trap:
    """Writes a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


def test_nothing_is_ever_unpickled(tmp_path: Path) -> None:
    trap = tmp_path / "sprung"
    write_npz(tmp_path / "file.npz", train=make_npy(pickle.dumps([Trap(trap)], protocol=2), 1))
    with pytest.raises(DatasetError, match="is not a file of drawings"):
        read_drawings(tmp_path / "file.npz")
    assert not trap.exists()


def with_python_3() -> bytes:
    stream = BytesIO()
    drawings = np.empty(2, dtype=object)
    drawings[:] = [drawing.numpy().astype(np.int16) for drawing in make_drawings(2)]
    np.save(stream, drawings, allow_pickle=True)
    return stream.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"PK",
        pickle_as_python_2(make_drawings(3))[:-300],
        pickle_as_python_2(make_drawings(3)).replace(b"(3,)", b"(4,)"),
        pickle_as_python_2(make_drawings(3)).replace(b"K\x03\x86", b"K\x02\x86").replace(b"'|O'", b"'i2'"),
        make_npy(b"\x80\x02\x89U\x04abcdb.", 1),
        make_npy(b"\x80\x02\xff.", 0),
        make_npy(b"", 0),
        with_python_3(),
    ],
)
def test_files_of_another_format(tmp_path: Path, content: bytes) -> None:
    write_npz(tmp_path / "file.npz", valid=content)
    with pytest.raises(DatasetError, match=r"file\.npz is not a file of drawings"):
        read_drawings(tmp_path / "file.npz")


def test_what_is_no_npz_file(tmp_path: Path) -> None:
    path = tmp_path / "file.npz"
    for content in (b"", b"no zip file"):
        path.write_bytes(content)
        with pytest.raises(DatasetError):
            read_drawings(path)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("train.npy", pickle_as_python_2(make_drawings(2)))
    with pytest.raises(DatasetError, match=r"valid\.npy"):
        read_drawings(path)


def count_padding(batches: list[Batch]) -> float:
    return sum(batch.mask.numel() for batch in batches) / sum(int(batch.lengths.sum()) for batch in batches)


def test_batches_hold_each_drawing_once() -> None:
    drawings = make_drawings(101)
    batches = list(make_batches(drawings, SPEC, batch_size=8))
    assert [len(batch.lengths) for batch in batches] == [8] * 12 + [5]
    found = {}
    for batch in batches:
        for column, length in enumerate(batch.lengths.tolist()):
            points = batch.targets[:length, column]
            found[int(points[0, 0]) - 1] = points
            assert torch.equal(batch.inputs[:length, column], SPEC.make_inputs(points))
            assert batch.mask[:, column].nonzero()[:, 0].tolist() == list(range(length))
            assert batch.last[:, column].nonzero()[:, 0].tolist() == [length - 1]
            assert not batch.targets[length:, column].any()
            assert not batch.inputs[length:, column].any()
    assert_equal([found[number] for number in range(101)], drawings)
    assert count_padding(batches) < 1.1


def test_training_batches_are_shuffled_and_stretched() -> None:
    drawings = make_drawings(400)
    epochs = [list(make_batches(drawings, SPEC, 8, torch.Generator().manual_seed(seed))) for seed in (0, 0, 1)]
    for one, same in zip(*epochs[:2], strict=True):
        assert all(map(torch.equal, one, same))
    assert [batch.lengths.tolist() for batch in epochs[0]] != [batch.lengths.tolist() for batch in epochs[2]]
    assert all(count_padding(epoch) < 1.2 for epoch in epochs)
    seen, factors = [], []
    for batch in epochs[0]:
        for column, length in enumerate(batch.lengths.tolist()):
            points = batch.targets[:length, column]
            number = next(i for i, drawing in enumerate(drawings) if resembles(points, drawing))
            seen.append(number)
            sums = drawings[number][:, :2].abs().sum(0)
            factors.append(points[:, :2].abs().sum(0) / sums)
            torch.testing.assert_close(points[:, :2], drawings[number][:, :2] * factors[-1])
            assert torch.equal(points[:, 2], drawings[number][:, 2])
            torch.testing.assert_close(batch.inputs[:length, column], SPEC.make_inputs(points))
    assert sorted(seen) == list(range(400))
    drawn = torch.stack(factors)
    assert ((drawn > 0.9 - 1e-5) & (drawn < 1.1 + 1e-5)).all()
    deviation = 0.2 / 12**0.5
    assert (drawn.mean(0) - 1).abs().max() < 5 * deviation / 400**0.5  # false alarm: 1e-6
    assert (drawn.std(0) - deviation).abs().max() < 0.1 * deviation
    assert abs(drawn.T.corrcoef()[0, 1]) < 5 / 400**0.5  # width and height by themselves


def resembles(points: Tensor, drawing: Tensor) -> bool:
    """Whether points are those of a drawing, stretched."""
    return len(points) == len(drawing) and bool(
        (points[:, :2] - drawing[:, :2]).abs().le(0.11 * drawing[:, :2].abs()).all()
    )


def test_drawings_are_not_changed_by_training() -> None:
    drawings = make_drawings(5)
    list(make_batches(drawings, SPEC, 1, torch.Generator().manual_seed(0)))
    assert_equal(drawings, make_drawings(5))


def test_a_users_own_drawings(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    drawings = make_drawings(25)
    path.write_text("\n\n".join(json.dumps(drawing.tolist()) for drawing in drawings))
    own = load_own_drawings(path)
    assert [len(split) for split in (own.train, own.validation, own.test)] == [21, 2, 2]
    found = sorted((int(points[0, 0]), points) for split in (own.train, own.validation, own.test) for points in split)
    assert_equal([points for _, points in found], drawings)
    assert own.name.startswith("mine.jsonl@")
    assert own.licence is None
    assert own.spec.scale == pytest.approx(float(torch.cat(own.train)[:, :2].std(correction=0)))
    sides = [max(np.ptp(np.cumsum(points[:, :2].numpy(), axis=0), axis=0)) for points in own.train]
    assert own.spec.extent == pytest.approx(np.median(sides))
    assert_equal(own.test, load_own_drawings(path).test)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("[[1, 2]]", r"line 12 of .* is not a drawing: Point 0 is \[1, 2\]\. A drawing is a list"),
        ("[[1, NaN, 0]]", "line 12 of .* is not a drawing: An offset of point 0 is nan"),
        ("not JSON", "line 12 of .* is not a drawing: Expecting value"),
        ("[" * 100_000, "line 12 of .* is not a drawing"),
        ("[]", "line 12 of .* is not a drawing: The drawing has 0 points"),
    ],
)
def test_lines_that_are_no_drawings(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text("[[1, 2, 0], [3, 4, 1]]\n" * 11 + line)
    with pytest.raises(DatasetError, match=message):
        load_own_drawings(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[[1, 2, 0]]\n" * 9, "has 9 drawings, but at least 10 are needed"),
        (b"\xff\xfe" * 10, "cannot be read as text"),
        (b"[[0, 0, 1]]\n" * 20, "standard deviation of 0"),
        (b"[[1e-9, 2e-9, 1]]\n" * 20, "standard deviation of 5e-10"),
        (b"[[9e8, -9e8, 1]]\n" * 20, r"standard deviation of 9e\+08"),
    ],
)
def test_files_that_cannot_be_used(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_bytes(content)
    with pytest.raises(DatasetError, match=message):
        load_own_drawings(path)
    with pytest.raises(DatasetError, match="cannot be read"):
        load_own_drawings(tmp_path / "missing.jsonl")
