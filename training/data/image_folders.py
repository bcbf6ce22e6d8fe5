"""A user's own images, in a folder for each class: `DIR/cat/1.jpg`, `DIR/dog/2.jpg`, …

They are decoded exactly as the service decodes requests. `training.data.image_layout` says how `DIR` can be laid out.

Shapes: N images.
"""

import hashlib
import itertools
import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from models.backbones.backbone import Backbone
from models.inputs.image import ImageSpec
from models.inputs.image_file import FileError
from models.inputs.image_files import read_image_file
from models.inputs.image_formats import NAMES
from models.inputs.pixels import ImageError, decode_image
from models.predictions.detection import DEFAULT_RATE
from models.schema import Shape
from models.tasks.classification import Classification
from training.data.dataset import Dataset, DatasetError, Examples
from training.data.image_layout import File, Layout, Part, read_layout
from training.data.image_tree import show
from training.progress import track

Split = Literal["train", "validation", "calibration", "test"]

SHARES: dict[Split, float] = {"train": 0.6, "validation": 0.1, "calibration": 0.15, "test": 0.15}
"""Shares of each class if a folder is divided into all splits. Fewer splits keep the same proportions."""

HELD_OUT: tuple[Split, ...] = ("validation", "calibration", "test")
"""Splits of a folder of images that no network was trained on."""

LEAST_CALIBRATION = math.ceil(1 / DEFAULT_RATE) - 1
"""Fewest images, of all classes together, for thresholds at the usual rate of false alarms."""

OWN_SIZE, USUAL_SIZE, LEAST_SIZE, LARGEST_SIZE = 64, 32, 8, 512
"""In pixels. If all images have one size, up to the first number, they keep it; otherwise they are resized to the
second. No side is smaller than the third or, for networks trained elsewhere, larger than the fourth."""

UNREADABLE = 0.1
"""Largest share of files that may be unusable; if there are more, something else is wrong."""

LISTED = 5

MAX_IMAGE_PIXELS = 100_000_000


@dataclass(frozen=True)
class ImageFolder:
    """A folder's images, read and divided into splits."""

    name: str
    """The folder's name, and a digest of its images and splits: with other splits it is another dataset."""
    dataset: Dataset
    paths: Mapping[Split, Sequence[Path]]
    """Paths of each split's examples, in the same order, relative to the folder."""
    unreadable: Mapping[str, str]
    """Why files that are meant as images were left out, by path."""
    left_out: Mapping[str, Sequence[str]]
    """Paths of all other files that were left out, by kind."""
    contradictory: Mapping[str, str]
    """Files that equal a file of another class byte for byte, with that file; all of them were left out."""
    copies: Mapping[str, str]
    """Files that equal another file of their class byte for byte, with that file. They were left out, because a network
    trained on one of them would know the answer to the other."""

    def see_through(self, spec: ImageSpec, backbone: Backbone) -> "ImageFolder":
        """The same images, whose features a backbone gives."""
        return replace(self, dataset=replace(self.dataset, input=spec, backbone=backbone))

    def in_folds(self, folds: int | None) -> "ImageFolder":
        """The same images, all but those of the test set in folds; unchanged if there are none."""
        if folds is None:
            return self
        train = [path for split in SHARES if split != "test" for path in self.paths[split]]
        paths: dict[Split, Sequence[Path]] = {"train": train, "test": self.paths["test"]}
        return replace(self, dataset=self.dataset.in_folds(folds), paths=paths)

    def count(self) -> dict[str, dict[Split, int]]:
        """Counts the images of each class in each split."""
        assert isinstance(self.dataset.task, Classification)
        splits: Collection[Split] = SHARES if self.dataset.folds is None else ("train", "test")
        counts = {split: Counter(getattr(self.dataset, split).labels.tolist()) for split in splits}
        names = enumerate(self.dataset.task.classes)
        return {name: {split: counts[split][label] for split in splits} for label, name in names}


def load_image_folder(folder: Path, size: int | None = None, grey: bool | None = None) -> ImageFolder:
    """Reads all images below a folder, and divides each class among the splits.

    Files that are not images are left out and listed. So are unusable images, of which there must be few.

    Args:
        folder: holds a folder for each class, or `train` with `test`, `val` or both, which hold the classes.
        size: width and height that images are resized to. If not given, they keep their size if it is the same for
            all and at most 64 × 64 pixels; otherwise it is 32.
        grey: whether colours are dropped. If not given, they are dropped if all images are stored without.

    Raises:
        DatasetError: if the layout is unknown, if there are fewer than two classes, if a class has too few images, or
            if too many images are unusable.
    """
    layout = read_layout(folder)
    return _load_own(folder, layout, _choose_shape([file.path for file in layout.files], size, grey))


def load_named_folder(folder: Path, classes: Sequence[str], spec: ImageSpec, splits: Sequence[Split]) -> ImageFolder:
    """Reads a folder of images for networks that exist already, and divides each class among some splits only.

    Args:
        folder: holds a folder for each class.
        classes: names of the classes, in the order of the networks' outputs.
        spec: the networks' input.
        splits: the splits that get the images; the others are empty.

    Raises:
        DatasetError: as `load_image_folder`, or if the folder is divided into parts, or has other classes.
    """
    layout = read_layout(folder)
    if "" not in layout.parts:
        named = ", ".join(show(path.relative_to(folder)) for path in layout.parts.values())
        raise DatasetError(f"{show(folder)} is divided into {named}; pass one of these folders instead")
    if missing := [name for name in classes if name not in layout.classes]:
        raise DatasetError(f"{show(folder)} has no folder {missing[0]}, only {', '.join(layout.classes)}")
    if unknown := [name for name in layout.classes if name not in classes]:
        raise DatasetError(f"{show(folder / unknown[0])} is not one of the classes {', '.join(classes)}")
    return _load(folder, replace(layout, classes=tuple(classes)), spec, {"": tuple(splits)})


def find_common_size(folder: Path) -> tuple[int, int]:
    """Height and width of the images in a folder, if they are the same for all.

    Raises:
        DatasetError: if the sizes differ or are too large, if no image can be read, or as `read_layout`.
    """
    sizes, _ = _look([file.path for file in read_layout(folder).files])
    if len(sizes) != 1 or max(max(sizes)) > LARGEST_SIZE:
        seen = ", ".join(f"{width} × {height}" for width, height in sorted(sizes)[:LISTED]) or "no size"
        more = " …" if len(sizes) > LISTED else ""
        raise DatasetError(
            f"the images in {show(folder)} have {seen}{more} pixels. Pass --size, the width and height that the "
            "networks take; images are resized to it"
        )
    ((width, height),) = sizes
    return height, width


def load_folder_again(
    name: str, folder: Path, spec: ImageSpec, held_out_classes: Sequence[str] | None = None
) -> Dataset:
    """Loads the dataset that a checkpoint was trained on from its folder.

    Args:
        name: name of the dataset, with its digest.
        folder: where the images are now.
        spec: the networks' input.
        held_out_classes: names of the classes if the folder was held out from networks that were trained elsewhere.

    Raises:
        DatasetError: if it is another folder, or if its images have changed.
    """
    original, digest = name.rsplit("@", 1)
    try:
        if held_out_classes is None:
            found = _load_own(folder, read_layout(folder), spec.shape)
        else:
            found = load_named_folder(folder, held_out_classes, spec, HELD_OUT)
    except DatasetError as error:
        raise DatasetError(f"{error}. The model was trained on the folder {original}; pass it with --data") from error
    if found.name.rsplit("@", 1)[1] != digest:
        raise DatasetError(
            f"{show(folder)} is not the folder {original} that the model was trained on: --data names another folder, "
            "or images were added, changed or removed. The model may have been trained on some of its test images"
        )
    return found.dataset


def divide(count: int, classes: int, splits: Collection[Split]) -> dict[Split, int] | None:
    """How many of a class's images go into each split: the split's share, rounded down; the first split gets the rest.

    The calibration split gets more images if it had fewer than 19 of all classes together.

    Args:
        count: number of images of the class.
        classes: number of classes.
        splits: the splits to divide the images among.

    Returns:
        Numbers by split, or None if there are too few images: less than half of them would be left for training.
    """
    first, *others = splits
    total = sum(SHARES[split] for split in splits)
    sizes = {split: max(1, math.floor(round(count * SHARES[split] / total, 9))) for split in others}
    if "calibration" in sizes:
        sizes["calibration"] = max(sizes["calibration"], math.ceil(LEAST_CALIBRATION / classes))
    rest = count - sum(sizes.values())
    if rest < 1 or (first == "train" and 2 * rest < count):
        return None
    return {first: rest, **sizes}


def _plan(parts: Collection[Part]) -> dict[Part, tuple[Split, ...]]:
    """The splits that each part is divided into. If there is only one of validation and test, it serves for testing."""
    if {"validation", "test"} <= set(parts):
        return {"train": ("train",), "validation": ("validation", "calibration"), "test": ("test",)}
    for part in ("validation", "test"):
        if part in parts:
            return {"train": ("train", "validation", "calibration"), part: ("test",)}
    return dict.fromkeys(parts, tuple(SHARES))


def _look(paths: Sequence[Path]) -> tuple[set[tuple[int, int]], bool]:
    """All sizes of images, as width and height, and whether one is stored in colour."""
    sizes, colours = set(), False
    for path in track(paths, "looking at images", "image"):
        try:
            file = read_image_file(path.read_bytes(), MAX_IMAGE_PIXELS)
        except (OSError, FileError):
            continue  # it is listed when it is decoded
        sizes.add(file.upright_size)
        colours |= not file.grey
    return sizes, colours


def _choose_shape(paths: Sequence[Path], size: int | None, grey: bool | None) -> Shape:
    sizes, colours = _look(paths)
    if grey is None:
        grey = not colours
    width, height = size or USUAL_SIZE, size or USUAL_SIZE
    if size is None and len(sizes) == 1:
        (own,) = sizes
        if min(own) >= LEAST_SIZE and max(own) <= OWN_SIZE:
            width, height = own
    return 1 if grey else 3, height, width


def _load_own(folder: Path, layout: Layout, shape: Shape) -> ImageFolder:
    """Reads a folder of images to train on, which are normalised by their own mean and standard deviation."""
    channels, height, width = shape
    colours: Literal[1, 3] = 1 if channels == 1 else 3
    plain = ImageSpec(channels=colours, height=height, width=width, mean=(0.0,) * colours, std=(1.0,) * colours)
    found = _load(folder, layout, plain, _plan(layout.parts))
    return replace(found, dataset=replace(found.dataset, input=_normalize(plain, found.dataset.train.inputs)))


def _load(folder: Path, layout: Layout, spec: ImageSpec, plan: Mapping[Part, tuple[Split, ...]]) -> ImageFolder:
    names = {file: show(file.path.relative_to(folder)) for file in layout.files}
    images = torch.empty(len(layout.files), *spec.shape, dtype=torch.uint8)
    rows: dict[str, int] = {}
    holders: dict[str, list[File]] = {}
    unreadable: dict[str, str] = {}
    for file in track(layout.files, "reading images", "image"):
        try:
            content = file.path.read_bytes()
            digest = hashlib.sha256(content).hexdigest()
            if digest not in rows:
                images[len(rows)] = decode_image(content, spec, MAX_IMAGE_PIXELS, names[file])
                rows[digest] = len(rows)
            holders.setdefault(digest, []).append(file)
        except ImageError as error:
            unreadable[names[file]] = error.message
        except OSError as error:
            unreadable[names[file]] = f"{names[file]} cannot be read: {error.strerror}."
    if len(unreadable) > UNREADABLE * len(layout.files):
        listed = " ".join(list(unreadable.values())[:LISTED])
        raise DatasetError(
            f"{len(unreadable)} of {len(layout.files)} files in {show(folder)} cannot be used as images. {listed} "
            f"Use {NAMES} files, each with a single opaque picture"
        )
    digests: dict[File, str] = {}
    copies: dict[str, str] = {}
    contradictory: dict[str, str] = {}
    for digest, (first, *others) in holders.items():
        if all(file.label == first.label for file in others):
            digests[first] = digest
            copies |= {names[file]: names[first] for file in others}
            continue
        for file in (first, *others):
            contradictory[names[file]] = next(names[o] for o in (first, *others) if o.label != file.label)
    splits = _split(layout, plan, list(digests), {names[file]: file for file in layout.files}, copies | contradictory)
    lines = sorted(f"{split} {names[file]} {digests[file]}" for split, own in splits.items() for file in own)
    _arrange(images, [rows[digests[file]] for own in splits.values() for file in own])
    parts = images.split([*map(len, splits.values()), len(images) - sum(map(len, splits.values()))])
    examples = {
        split: Examples(inputs, torch.tensor([layout.classes.index(file.label) for file in own], dtype=torch.int64))
        for (split, own), inputs in zip(splits.items(), parts, strict=False)
    }
    return ImageFolder(
        name=f"{show(folder.resolve().name)}@{hashlib.sha256(chr(10).join(lines).encode()).hexdigest()[:12]}",
        dataset=Dataset(
            spec,
            Classification(layout.classes),
            *(examples[split] for split in SHARES),
        ),
        paths={split: [file.path.relative_to(folder) for file in own] for split, own in splits.items()},
        unreadable=unreadable,
        copies=copies,
        contradictory=contradictory,
        left_out={
            kind: [show(path.relative_to(folder)) for path in sorted(paths)] for kind, paths in layout.left_out.items()
        },
    )


def _arrange(images: Tensor, order: Sequence[int]) -> None:
    """Puts the images of these numbers first, in this order, without a copy of all, which can be larger than memory."""
    places = list(range(len(images)))  # where the image of each number is, and which is in each place
    numbers = list(range(len(images)))
    for place, number in enumerate(order):
        other, source = numbers[place], places[number]
        images[[place, source]] = images[[source, place]]
        numbers[source], places[other] = other, source
        numbers[place], places[number] = number, place


def _split(
    layout: Layout,
    plan: Mapping[Part, Sequence[Split]],
    files: Sequence[File],
    named: Mapping[str, File],
    others: Mapping[str, str],
) -> dict[Split, list[File]]:
    """Random parts of each class, which are the same in every run, whatever its seed.

    Args:
        layout: the folder's layout.
        plan: the splits that each part is divided into.
        files: usable files.
        named: all files by name.
        others: files that were left out because they equal another file, with that file.
    """
    generator, classes = torch.Generator().manual_seed(0), layout.classes
    chosen: dict[Split, list[File]] = {split: [] for split in SHARES}
    grouped: dict[tuple[str, str], list[File]] = {}
    for file in files:
        grouped.setdefault((file.part, file.label), []).append(file)
    for part, splits in plan.items():
        for label in classes:
            own = grouped.get((part, label), [])
            sizes = divide(len(own), len(classes), splits)
            if sizes is None:
                lack = _explain_lack(layout.parts[part] / label, len(own), len(classes), splits)
                left = [name for name in others if (named[name].part, named[name].label) == (part, label)]
                hint = f". {len(left)} equal other files, as {left[0]} equals {others[left[0]]}" if left else ""
                raise DatasetError(lack + hint)
            order = iter(torch.randperm(len(own), generator=generator).tolist())
            for split, size in sizes.items():
                chosen[split] += [own[index] for index in itertools.islice(order, size)]
    # Parts of a split are judged by different draws, so the classes are mixed.
    return {
        split: [own[index] for index in torch.randperm(len(own), generator=generator).tolist()]
        for split, own in chosen.items()
    }


def _normalize(plain: ImageSpec, images: Tensor) -> ImageSpec:
    """The spec with the rounded mean and standard deviation of images [N, C, H, W]; deviations are never 0."""
    counts = torch.zeros(plain.channels, 256, dtype=torch.float64)
    for image in images:
        for channel, own in zip(image, counts, strict=True):
            own += channel.flatten().bincount(minlength=256)
    values = torch.arange(256, dtype=torch.float64) / 255
    totals = counts.sum(1)
    means = counts @ values / totals
    variances = (counts * (values - means[:, None]).square()).sum(1) / (totals - 1)
    mean, std = (tuple(round(n, 4) for n in numbers.tolist()) for numbers in (means, variances.sqrt()))
    return ImageSpec(plain.channels, plain.height, plain.width, mean, tuple(max(number, 0.01) for number in std))


def _explain_lack(folder: Path, count: int, classes: int, splits: Sequence[Split]) -> str:
    needed = next(n for n in itertools.count(1) if divide(n, classes, splits))
    sizes = divide(needed, classes, splits)
    assert sizes is not None
    purposes: dict[Split, str] = {
        "train": "to train on",
        "validation": "to validate",
        "calibration": f"to calibrate (false alarms of {DEFAULT_RATE:.0%} need {LEAST_CALIBRATION} over all classes)",
        "test": "to test",
    }
    listed = ", ".join(f"{size} {purposes[split]}" for split, size in sizes.items())
    plural = "image" if count == 1 else "images"
    held = f"holds {count} usable {plural}" if folder.is_dir() else "is missing"
    return f"{show(folder)} {held}; with {classes} classes it needs {needed}: {listed}"
