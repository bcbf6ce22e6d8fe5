import functools
import gzip
import http.server
import struct
import tarfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pooch
import pytest
import torch

from tests.pictures import draw_image, encode
from training.data.dataset import Dataset, DatasetError
from training.data.datasets import load_dataset, load_digits
from training.data.outlier_sets import load_outliers
from training.data.published import Publication, PublishedFile, read_cifar, read_idx


def write_idx(path: Path, array: np.ndarray, kind: int = 8) -> None:
    header = struct.pack(f">HBB{array.ndim}I", 0, kind, array.ndim, *array.shape)
    path.write_bytes(gzip.compress(header + array.tobytes()))


def test_idx_round_trip(tmp_path: Path) -> None:
    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    write_idx(tmp_path / "a.gz", array)
    assert np.array_equal(read_idx(tmp_path / "a.gz"), array)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(path.read_bytes()[:-10]),
        lambda path: path.write_bytes(b"not gzip"),
        lambda path: write_idx(path, np.zeros((2, 2), np.uint8), kind=0x0D),
        lambda path: path.write_bytes(gzip.compress(b"\0")),
        lambda path: path.write_bytes(gzip.compress(struct.pack(">HBBI", 0, 8, 1, 9) + b"12")),
        lambda path: path.unlink(),
    ],
)
def test_damaged_idx(tmp_path: Path, damage: Callable[[Path], object]) -> None:
    path = tmp_path / "a.gz"
    write_idx(path, np.zeros((2, 2), np.uint8))
    damage(path)
    with pytest.raises(DatasetError, match=r"a\.gz is not a gzipped IDX file"):
        read_idx(path)


@pytest.fixture
def publication(tmp_path: Path) -> Publication:
    """Published at a file:// address of this machine that holds nothing."""
    file = tmp_path / "original"
    file.write_bytes(b"content")
    return Publication("set", "http://127.0.0.1:9/", (PublishedFile("file.gz", pooch.file_hash(str(file))),))


def test_a_folder_that_holds_the_files_needs_no_network(publication: Publication, tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "file.gz").write_bytes(b"content")
    assert publication.locate(tmp_path) == [tmp_path / "set" / "file.gz"]


def test_a_corrupt_file_is_named_and_kept(publication: Publication, tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    path = tmp_path / "set" / "file.gz"
    path.write_bytes(b"other")
    with pytest.raises(DatasetError, match=r"set/file\.gz is damaged.*Delete it.*http://127\.0\.0\.1:9/file\.gz"):
        publication.locate(tmp_path)
    assert path.read_bytes() == b"other"


def test_a_missing_file_is_named_with_its_source(publication: Publication, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"set/file\.gz is missing.*Put http://127\.0\.0\.1:9/file\.gz.*--data"):
        publication.locate(tmp_path)
    assert not (tmp_path / "set" / "file.gz").exists()


@contextmanager
def serve_folder(folder: Path) -> Iterator[str]:
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()


def test_an_archive_is_downloaded_verified_and_unpacked(tmp_path: Path) -> None:
    original, data = tmp_path / "original", tmp_path / "data"
    original.mkdir()
    files = []
    with tarfile.open(original / "set.tar.gz", "w:gz") as archive:
        for name in ("a.bin", "b.bin", "other.txt"):
            (original / name).write_text(name)
            archive.add(original / name, f"set/{name}")
            files.append(PublishedFile(name, pooch.file_hash(str(original / name))))
    whole = PublishedFile("set.tar.gz", pooch.file_hash(str(original / "set.tar.gz")))
    with serve_folder(original) as url:
        publication = Publication("set", url, tuple(files[:2]), whole)
        paths = publication.locate(data)
        assert [path.read_text() for path in paths] == ["a.bin", "b.bin"]
        assert sorted(path.name for path in data.rglob("*")) == ["a.bin", "b.bin", "set"]
        damaged = replace(publication, archive=replace(whole, sha256="0" * 64))
        with pytest.raises(
            DatasetError, match=r"a\.bin is missing and could not be downloaded.*a\.bin of http.*set\.tar"
        ):
            damaged.locate(tmp_path / "elsewhere")
        assert not [path for path in (tmp_path / "elsewhere").rglob("*") if path.is_file()]
    assert publication.locate(data) == paths  # without a server


def test_cifar_files(tmp_path: Path) -> None:
    """The label, then red, green and blue, each row by row."""
    rows = np.zeros((2, 3073), np.uint8)
    rows[:, 0] = 3, 9
    rows[1, 1 + 1024 + 32 * 5 + 7] = 200  # green, row 5, column 7
    rows.tofile(tmp_path / "batch.bin")
    examples = read_cifar(tmp_path / "batch.bin")
    assert examples.labels.tolist() == [3, 9]
    assert examples.inputs.nonzero().tolist() == [[1, 1, 5, 7]]
    (tmp_path / "batch.bin").write_bytes(b"short")
    with pytest.raises(DatasetError, match=r"batch\.bin is not a file of CIFAR-10's binary version"):
        read_cifar(tmp_path / "batch.bin")


def test_parts_of_cifar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """CIFAR-5 has five classes in all its splits, and the test images of the others are its outliers."""
    rows = np.random.default_rng(0).integers(0, 256, (60_000, 3073), np.uint8)
    rows[:, 0] %= 10
    paths = [tmp_path / f"{i}.bin" for i in range(6)]
    for path, part in zip(paths, np.split(rows, 6), strict=True):
        part.tofile(path)
    monkeypatch.setattr(Publication, "locate", lambda *_: paths)
    monkeypatch.setattr("training.data.outlier_sets.load_notmnist", lambda _: torch.zeros(3, 1, 28, 28).byte())
    names = "cifar-10", "cifar-10-5000", "cifar-5", "cifar-5-brief"
    whole, small, five, brief = (load_dataset(name, tmp_path) for name in names)
    assert isinstance(whole, Dataset)
    assert isinstance(small, Dataset)
    assert isinstance(five, Dataset)
    assert isinstance(brief, Dataset)
    assert [len(part) for part in (whole.train, whole.validation, whole.calibration)] == [46_000, 2_000, 2_000]
    assert torch.equal(whole.test.inputs.flatten(1), torch.from_numpy(rows[50_000:, 1:]))
    assert len(small.train) == 5_000
    assert five.test.labels.max() == 4
    others = load_outliers("cifar-5", tmp_path)["cifar-5-others"]
    assert len(others) + len(five.test) == 10_000
    assert torch.equal(brief.train.inputs, five.train.inputs)
    assert [len(part) for part in (brief.validation, brief.calibration, brief.test)] == [500, 500, 2_000]
    outliers = load_outliers("cifar-5-brief", tmp_path)
    assert torch.equal(outliers["cifar-5-others"], others[:2_000])
    assert outliers["notmnist"].shape == (3, 3, 32, 32)


def test_digits_without_two_of_them() -> None:
    whole, eight = load_digits(Path()), load_dataset("digits-8", Path())
    assert isinstance(eight, Dataset)
    assert eight.task.outputs == ("0", "1", "2", "4", "5", "6", "8", "9")
    known = ~torch.isin(whole.train.labels, torch.tensor([3, 7]))
    assert torch.equal(eight.train.inputs, whole.train.inputs[known])
    names = [int(eight.task.outputs[label]) for label in eight.train.labels.tolist()]
    assert names == whole.train.labels[known].tolist()
    foreign = load_outliers("digits-8", Path())["digits-3-and-7"]
    assert len(foreign) == 183 + 179  # as many as scikit-learn has
    splits = eight.train, eight.validation, eight.calibration, eight.test
    assert len(foreign) + sum(map(len, splits)) == 1_797


def test_unknown_names(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="there is no dataset 'imagenet'; choose one of mnist"):
        load_dataset("imagenet", tmp_path)


def test_a_folder_of_images_is_a_set_of_outliers(tmp_path: Path) -> None:
    folder = tmp_path / "shapes"
    (folder / "deeper").mkdir(parents=True)
    (folder / "b.png").write_bytes(encode(draw_image(size=(20, 30))))
    (folder / "deeper" / "a.JPG").write_bytes(encode(draw_image("RGB"), "JPEG"))
    (folder / "notes.txt").write_text("no image")
    outliers = load_outliers("digits", tmp_path, [folder])
    assert list(outliers) == ["shapes"]
    assert outliers["shapes"].shape == (2, 1, 8, 8)
    assert outliers["shapes"].dtype == torch.uint8


def test_folders_that_cannot_be_taken(tmp_path: Path) -> None:
    folder = tmp_path / "shapes"
    with pytest.raises(DatasetError, match="shapes is not a folder"):
        load_outliers("digits", tmp_path, [folder])
    folder.mkdir()
    with pytest.raises(DatasetError, match=r"shapes holds no images; their names must end in \.png, \.jpg"):
        load_outliers("digits", tmp_path, [folder])
    (folder / "a.png").write_bytes(b"no image")
    with pytest.raises(DatasetError, match=r"a file in .*shapes cannot be used\. .*a\.png cannot be decoded"):
        load_outliers("digits", tmp_path, [folder])
    (folder / "a.png").write_bytes(encode(draw_image()))
    with pytest.raises(DatasetError, match="two sets of outliers are named 'shapes'"):
        load_outliers("digits", tmp_path, [folder, folder])
    with pytest.raises(DatasetError, match="cubic has no images"):
        load_outliers("cubic", tmp_path, [folder])


def test_digits_are_split_into_parts_that_do_not_meet(tmp_path: Path) -> None:
    dataset = load_digits(tmp_path)
    parts = [dataset.train, dataset.validation, dataset.calibration, dataset.test]
    assert [len(part) for part in parts] == [1097, 200, 200, 300]
    assert all(part.inputs.shape[1:] == (1, 8, 8) and part.inputs.dtype == torch.uint8 for part in parts)
    images = torch.cat([part.inputs.flatten(1) for part in parts])
    assert len(torch.unique(images, dim=0)) == len(images)  # scikit-learn's digits are distinct
    again = load_digits(tmp_path)
    assert torch.equal(again.test.labels, dataset.test.labels)
    normalized = dataset.input.prepare(dataset.train.inputs)
    assert normalized.mean().abs() < 0.02
    assert abs(normalized.std() - 1) < 0.02


def test_digits_are_those_of_scikit_learn() -> None:
    from sklearn.datasets import load_digits as read_theirs  # takes long to import

    dataset = load_dataset("digits", Path())
    assert isinstance(dataset, Dataset)
    splits = (dataset.train, dataset.validation, dataset.calibration, dataset.test)
    ours = [
        (image.numpy().tobytes(), int(label)) for s in splits for image, label in zip(s.inputs, s.labels, strict=True)
    ]
    theirs = read_theirs()
    images = (theirs.images * (255 / 16)).round().astype(np.uint8)
    expected = [(image.tobytes(), int(label)) for image, label in zip(images, theirs.target, strict=True)]
    assert sorted(ours) == sorted(expected)
