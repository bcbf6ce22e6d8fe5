"""How folders of images may be laid out: each layout is recognised, or refused with the odd folder named."""

import json
import os
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from models.checkpoint import load_checkpoint
from tests.pictures import draw_image, encode
from tests.training.data.test_own_images import CLASSES, draw_class, write_folder
from training.__main__ import app
from training.data.dataset import DatasetError
from training.data.image_folders import Split, load_image_folder
from training.data.image_layout import OUTSIDE, read_layout
from training.data.image_tree import HIDDEN, SYSTEM
from training.data.outlier_sets import load_outliers
from training.report.own_images import describe_omissions

COUNTS = {"train": 50, "validation": 12, "test": 9}


def write_parts(folder: Path, **names: str) -> Path:
    for part, name in names.items():
        write_folder(folder / name, COUNTS[part])
    return folder


@pytest.mark.parametrize(
    "names",
    [
        {"train": "train", "test": "test"},
        {"train": "Train", "test": "Test"},
        {"train": "Training", "test": "Testing"},
        {"train": "training_set", "test": "test_set"},
        {"train": "TrainImages", "test": "TestImages"},
        {"train": "train", "validation": "val"},
        {"train": "train2017", "validation": "val2017"},
        {"train": "TRAIN", "validation": "Validation", "test": "TEST"},
        {"train": "train", "validation": "validation", "test": "test"},
        {"train": "seg_train/seg_train", "test": "seg_test/seg_test"},
    ],
    ids=lambda names: "-".join(names.values()),
)
def test_usual_names_divide(tmp_path: Path, names: dict[str, str]) -> None:
    images = load_image_folder(write_parts(tmp_path, **names))
    assert tuple(images.count()) == CLASSES
    both = "validation" in names and "test" in names
    tested = names.get("test", names.get("validation", ""))
    held: dict[Split, str] = {"train": names["train"], "test": tested}
    held["validation"] = held["calibration"] = names["validation"] if both else names["train"]
    for split, name in held.items():
        assert {path.parts[0] for path in images.paths[split]} == {Path(name).parts[0]}
    assert sum(map(len, images.paths.values())) == sum(2 * COUNTS[part] for part in names)


def test_a_class_may_be_named_as_a_part(tmp_path: Path) -> None:
    """What tells them apart is that a part holds folders."""
    assert load_image_folder(write_folder(tmp_path / "a", classes=("train", "bus"))).count().keys() == {"train", "bus"}
    assert load_image_folder(write_folder(tmp_path / "b", classes=("test", "control"))).count().keys() == {
        "test",
        "control",
    }


def divide_within(folder: Path) -> None:
    for label in CLASSES:
        write_folder(folder / label, classes=("train", "test"))


ODD: dict[str, tuple[Callable[[Path], object], str]] = {
    "third folder": (
        lambda f: write_folder(write_parts(f, train="train", test="test"), classes=("extra",)),
        "is divided into test and train, but extra holds images too",
    ),
    "beside train alone": (
        lambda f: write_folder(write_parts(f, train="Train"), classes=("extra",)),
        "is divided into Train, but extra holds images too",
    ),
    "val and valid": (
        lambda f: write_parts(write_parts(f, train="train", validation="val"), validation="valid"),
        "val and valid in .* all mean validation; merge them, or keep only one",
    ),
    "train and Training": (
        lambda f: write_parts(write_parts(f, train="train", test="test"), train="Training"),
        "Training and train in .* all mean train",
    ),
    "no train": (
        lambda f: write_parts(f, validation="val", test="test"),
        "holds test and val but not train",
    ),
    "test without classes": (
        lambda f: write_folder(write_parts(f, train="train"), classes=("test",)),
        "test holds no folders; it needs one for each class, as in train/cat/1.jpg",
    ),
    "parts without classes": (
        lambda f: write_folder(f, classes=("Train", "Test")),
        "Test holds no folders; it needs one for each class",
    ),
    "parts within classes": (divide_within, "bar holds train and other parts. .* as in train/bar/1.jpg"),
    "one folder around": (
        lambda f: write_folder(f / "shapes"),
        "holds only one class, shapes; .* If its folders are the classes, pass .*shapes",
    ),
    "empty class": (lambda f: (write_folder(f) / "star").mkdir(), "star holds 0 usable images"),
}


@pytest.mark.parametrize("case", ODD)
def test_what_is_no_layout_is_refused_by_name(tmp_path: Path, case: str) -> None:
    prepare, message = ODD[case]
    prepare(tmp_path)
    with pytest.raises(DatasetError, match=message):
        load_image_folder(tmp_path)


def test_what_is_no_image_is_listed_and_no_harm(tmp_path: Path) -> None:
    """Captions beside every image, and what operating systems leave behind, in parts and beside them, too."""
    folder = write_parts(tmp_path / "own", train="train", test="test")
    plain = load_image_folder(folder)
    for path in sorted(folder.rglob("*.png")):
        path.with_suffix(".txt").write_text("a caption")
    (folder / "annotations").mkdir()
    (folder / "annotations" / "all.JSON").write_text("{}")
    for place in (folder, folder / "train", folder / "train" / "bar"):
        for name in ("Thumbs.db", "desktop.ini", ".DS_Store", "LICENSE"):
            (place / name).write_bytes(b"of no interest")
        (place / "__MACOSX" / "bar").mkdir(parents=True)
        (place / "__MACOSX" / "bar" / "._1.png").write_bytes(b"no image")
    for place, number in ((folder, 1), (folder / "train", 2)):
        (place / f"{number}.png").write_bytes(draw_class("bar", 5000 + number))
    (folder / "train" / "bar" / "17.png").rename(folder / "train" / "bar" / "17")  # an image, without a suffix
    images = load_image_folder(folder)
    assert {kind: len(paths) for kind, paths in images.left_out.items()} == {
        ".txt files": 118,
        ".json files": 1,
        SYSTEM: 9,
        HIDDEN: 3,
        "files without a suffix": 3,
        OUTSIDE: 2,
    }
    assert images.left_out[OUTSIDE] == ["1.png", "train/2.png"]
    assert images.left_out[".json files"] == ["annotations/all.JSON"]
    assert images.unreadable == {}
    assert images.count() == plain.count()
    assert "left out images outside the classes' folders (2): 1.png train/2.png" in describe_omissions(images)


def test_images_that_cannot_be_taken_count_whatever_their_kind(tmp_path: Path) -> None:
    folder = write_folder(tmp_path)
    for number, suffix in enumerate((".GIF", ".heic", ".Tiff", ".jpg")):
        (folder / "bar" / f"more{number}{suffix}").write_bytes(b"something")
    (folder / "bar" / "nowhere.png").symlink_to(tmp_path / "gone.png")
    os.mkfifo(folder / "ring" / "pipe.png")
    (folder / "ring" / "linked.png").symlink_to(folder / "ring" / "pipe.png")
    images = load_image_folder(folder)
    assert len(images.unreadable) == 5
    assert images.unreadable["bar/nowhere.png"] == "bar/nowhere.png cannot be read: No such file or directory."
    assert images.left_out[".png files"] == ["ring/linked.png", "ring/pipe.png"]
    for number in range(9):
        (folder / "ring" / f"damaged{number}.jpg").write_bytes(b"something")
    with pytest.raises(DatasetError, match=r"14 of 94 files in .* cannot be used as images"):
        load_image_folder(folder)


def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    write_folder(tmp_path / "elsewhere")
    own = tmp_path / "own"
    (own / "bar" / "deeper").mkdir(parents=True)
    (own / "ring").symlink_to(tmp_path / "elsewhere" / "ring")
    (own / "bar" / "deeper" / "linked").symlink_to(tmp_path / "elsewhere" / "bar")
    (own / "bar" / "circle").symlink_to(own)
    (own / "bar" / "deeper" / "up").symlink_to(own / "bar")
    assert Counter(file.label for file in read_layout(own).files) == {"bar": 40, "ring": 40}
    assert load_image_folder(own).count() == load_image_folder(tmp_path / "elsewhere").count()
    (own / "all").symlink_to(own)
    with pytest.raises(DatasetError, match="all holds 0 usable images"):
        load_image_folder(own)


def test_one_image_of_two_classes_is_of_neither(tmp_path: Path) -> None:
    folder = write_folder(tmp_path)
    content = draw_class("bar", 5000)
    for path in ("bar/x.png", "bar/y.png", "ring/z.png"):
        (folder / path).write_bytes(content)
    (folder / "ring" / "copy.png").write_bytes((folder / "ring" / "7.png").read_bytes())
    images = load_image_folder(folder)
    assert images.contradictory == {"bar/x.png": "ring/z.png", "bar/y.png": "ring/z.png", "ring/z.png": "bar/x.png"}
    assert images.copies == {"ring/copy.png": "ring/7.png"}
    taken = {str(path) for paths in images.paths.values() for path in paths}
    assert len(taken) == 80
    assert not taken & {*images.contradictory, *images.copies}
    assert any(
        text.startswith("left out contradictory files (3): bar/x.png equals") for text in describe_omissions(images)
    )


def test_an_unreadable_folder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_folder(tmp_path)
    (folder / "ring" / "locked").mkdir()
    iterate = Path.iterdir

    def refuse(path: Path) -> object:
        if path.name == "locked":
            raise PermissionError(13, "Permission denied", str(path))
        return iterate(path)

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(DatasetError, match="locked cannot be read: Permission denied"):
        load_image_folder(folder)


def test_a_size_is_that_of_upright_images(tmp_path: Path) -> None:
    folder = write_folder(tmp_path)
    exif = Image.Exif()
    exif[0x0112] = 6
    for number, path in enumerate(sorted(folder.rglob("*.png"))):
        pixels = np.random.default_rng(number).integers(0, 256, (20, 10), dtype=np.uint8)
        upright, turned = Image.fromarray(pixels), Image.fromarray(np.rot90(pixels).copy())
        path.write_bytes(encode(turned, exif=exif) if number % 2 else encode(upright))
    assert load_image_folder(folder).dataset.input.shape == (1, 20, 10)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere names of files are text")
def test_names_that_are_no_text_are_printed_and_written(tmp_path: Path) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    write_folder(folder, classes=("ring",))
    odd = Path(os.fsdecode(os.fsencode(folder) + b"/b\xe4r"))
    odd.mkdir()
    for number in range(40):
        (odd / os.fsdecode(b"%d\xff.png" % number)).write_bytes(draw_class("bar", number))
    (odd / os.fsdecode(b"broken\xff.png")).write_bytes(b"nothing")
    (odd / os.fsdecode(b"notes\xff.txt")).write_text("nothing")
    (odd / os.fsdecode(b"notes.\xff")).write_text("nothing")
    out = tmp_path / "out"
    result = CliRunner().invoke(app, ["images", str(folder), "--out", str(out), "--json", "--steps", "5"])
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert json.loads((out / "report.json").read_text()) == report
    assert set(report["images"]) == {r"b\xe4r", "ring"}
    assert list(report["unreadable"]) == [r"b\xe4r/broken\xff.png"]
    assert report["left_out"] == {r".\xff files": [r"b\xe4r/notes.\xff"], ".txt files": [r"b\xe4r/notes\xff.txt"]}
    assert load_checkpoint(out).config.training.dataset.startswith(r"caf\xe9@")
    result = CliRunner().invoke(app, ["evaluate", str(out), "--data", str(folder), "--quiet"])
    assert result.exit_code == 0, result.output
    (odd / os.fsdecode(b"0\xff.png")).unlink()
    result = CliRunner().invoke(app, ["evaluate", str(out), "--data", str(folder), "--quiet"])
    assert result.exit_code == 1
    assert r"caf\xe9 is not the folder caf\xe9" in " ".join(result.output.split())


def test_outliers_are_searched_for_likewise(tmp_path: Path) -> None:
    folder = tmp_path / "others"
    (folder / "__MACOSX").mkdir(parents=True)
    (folder / "__MACOSX" / "._1.png").write_bytes(b"no image")
    (folder / "1.PNG").write_bytes(encode(draw_image()))
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "2.jpeg").write_bytes(encode(draw_image("RGB"), "JPEG"))
    (folder / "linked").symlink_to(tmp_path / "far")
    assert load_outliers("digits", tmp_path, [folder])["others"].shape == torch.Size([2, 1, 8, 8])
