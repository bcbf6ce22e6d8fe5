"""Images of a user's own, in a folder for each class: `DIR/cat/1.jpg`, `DIR/dog/2.jpg`, …

They are read exactly as the service reads the images that it is sent. How `DIR` may be laid out is said in
`training.data.image_layout`.

Shapes: N images.
"""

import hashlib
import itertools
import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from models.inputs.image import ImageSpec
from models.inputs.image_file import FileError
from models.inputs.image_files import read_image_file
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
"""Of each class, where a folder holds all splits; else the splits that it holds have the same proportions."""

LEAST_CALIBRATION = math.ceil(1 / DEFAULT_RATE) - 1
"""Images, of all classes together, without which flags have no threshold at their usual rate of false alarms."""

OWN_SIZE, USUAL_SIZE, LEAST_SIZE = 64, 32, 8
"""Pixels: images of one size, up to the first, keep it; others become the second. No side is smaller than the third."""

UNREADABLE = 0.1
"""Share of the files that may be left out; more of them mean that something else is wrong."""

LISTED = 5

MAX_IMAGE_PIXELS = 100_000_000


@dataclass(frozen=True)
class ImageFolder:
    """A folder's images, read and divided."""

    name: str
    """The folder's, and a digest of its images and of how they are divided: another division is another dataset."""
    dataset: Dataset
    paths: Mapping[Split, Sequence[Path]]
    """Of each split's examples, in their order, relative to the folder."""
    unreadable: Mapping[str, str]
    """Why a file that is meant as an image was left out, by its path."""
    left_out: Mapping[str, Sequence[str]]
    """Paths of all other files that were left out, by what they are."""
    contradictory: Mapping[str, str]
    """Files that equal one of another class byte for byte, and that one; all of them were left out."""
    copies: Mapping[str, str]
    """Files that equal another one byte for byte, and that one; they were left out, as a network that was trained on
    one of them would know the answer to the other."""

    def count(self) -> dict[str, dict[Split, int]]:
        """Images of each class in each split."""
        assert isinstance(self.dataset.task, Classification)
        counts = {split: Counter(getattr(self.dataset, split).labels.tolist()) for split in SHARES}
        names = enumerate(self.dataset.task.classes)
        return {name: {split: counts[split][label] for split in SHARES} for label, name in names}


def load_image_folder(folder: Path, size: int | None = None, grey: bool | None = None) -> ImageFolder:
    """Reads all images below a folder, and divides them among the splits, class by class.

    What is no image by its name is left out and listed, and so are images that cannot be taken, which must be few.

    Args:
        folder: with a folder for each class, or with `train`, and `test`, `val` or both, that have them.
        size: of the images that the networks see, width and height; if none is given, the images' own if all have the
            same, of at most 64 × 64 pixels, else 32 × 32.
        grey: whether colours are dropped; if not given, where all images are stored without.

    Raises:
        DatasetError: if the layout is unknown, there are no classes or only one, a class has too few images, or too
            many images cannot be taken.
    """
    layout = read_layout(folder)
    return _load(folder, layout, _choose_shape([file.path for file in layout.files], size, grey))


def load_folder_again(name: str, folder: Path, shape: Shape) -> Dataset:
    """The dataset that a folder was when a checkpoint was trained on it.

    Args:
        name: of the dataset, with the digest of its images.
        folder: that holds the images now.
        shape: of the images that the networks see.

    Raises:
        DatasetError: if the folder is another one, or its images have changed.
    """
    original, digest = name.rsplit("@", 1)
    try:
        found = _load(folder, read_layout(folder), shape)
    except DatasetError as error:
        raise DatasetError(
            f"{error}. The model was trained on the folder {original}, which --data must name"
        ) from error
    if found.name.rsplit("@", 1)[1] != digest:
        raise DatasetError(
            f"{folder} does not hold what the model was trained on, the folder {original}: --data names another one, "
            "or images were added, changed or removed, so that some of its test images may have been trained on"
        )
    return found.dataset


def divide(count: int, classes: int, splits: Collection[Split]) -> dict[Split, int] | None:
    """How many of a class's images go into each split: its share, rounded down, and to the first split all others.

    The calibration split takes more where it would have fewer than 19 images of all classes.

    Args:
        count: images of the class.
        classes: how many there are.
        splits: among which the images are divided.

    Returns:
        numbers by split; None where the images are too few, and would leave less than half of them for training.
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
    """Which splits each dividing folder holds. What users call validation is what others call test, if it is alone."""
    if {"validation", "test"} <= set(parts):
        return {"train": ("train",), "validation": ("validation", "calibration"), "test": ("test",)}
    for part in ("validation", "test"):
        if part in parts:
            return {"train": ("train", "validation", "calibration"), part: ("test",)}
    return dict.fromkeys(parts, tuple(SHARES))


def _choose_shape(paths: Sequence[Path], size: int | None, grey: bool | None) -> Shape:
    sizes, colours = set(), False
    for path in track(paths, "looking at images", "image"):
        try:
            file = read_image_file(path.read_bytes(), MAX_IMAGE_PIXELS)
        except (OSError, FileError):
            continue  # it will be listed when it is decoded
        sizes.add(file.upright_size)
        colours |= not file.grey
    if grey is None:
        grey = not colours
    width, height = size or USUAL_SIZE, size or USUAL_SIZE
    if size is None and len(sizes) == 1:
        (own,) = sizes
        if min(own) >= LEAST_SIZE and max(own) <= OWN_SIZE:
            width, height = own
    return 1 if grey else 3, height, width


def _load(folder: Path, layout: Layout, shape: Shape) -> ImageFolder:
    channels, height, width = shape
    colours: Literal[1, 3] = 1 if channels == 1 else 3
    plain = ImageSpec(channels=colours, height=height, width=width, mean=(0.0,) * colours, std=(1.0,) * colours)
    names = {file: show(file.path.relative_to(folder)) for file in layout.files}
    decoded: dict[str, Tensor] = {}
    holders: dict[str, list[File]] = {}
    unreadable: dict[str, str] = {}
    for file in track(layout.files, "reading images", "image"):
        try:
            content = file.path.read_bytes()
            digest = hashlib.sha256(content).hexdigest()
            if digest not in decoded:
                decoded[digest] = decode_image(content, plain, MAX_IMAGE_PIXELS, names[file])
            holders.setdefault(digest, []).append(file)
        except ImageError as error:
            unreadable[names[file]] = error.message
        except OSError as error:
            unreadable[names[file]] = f"{names[file]} cannot be read: {error.strerror}."
    if len(unreadable) > UNREADABLE * len(layout.files):
        listed = " ".join(list(unreadable.values())[:LISTED])
        raise DatasetError(
            f"{len(unreadable)} of {len(layout.files)} files in {show(folder)} are no images that can be taken. "
            f"{listed} PNG, JPEG and WebP files can, with 8 bits a channel, opaque, not animated and without a palette"
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
    splits = _split(layout, list(digests), {names[file]: file for file in layout.files}, copies | contradictory)
    lines = sorted(f"{split} {names[file]} {digests[file]}" for split, own in splits.items() for file in own)
    examples = {
        split: Examples(
            torch.stack([decoded[digests[file]] for file in own]),
            torch.tensor([layout.classes.index(file.label) for file in own]),
        )
        for split, own in splits.items()
    }
    return ImageFolder(
        name=f"{show(folder.resolve().name)}@{hashlib.sha256(chr(10).join(lines).encode()).hexdigest()[:12]}",
        dataset=Dataset(_normalize(plain, examples["train"].inputs), Classification(layout.classes), **examples),
        paths={split: [file.path.relative_to(folder) for file in own] for split, own in splits.items()},
        unreadable=unreadable,
        copies=copies,
        contradictory=contradictory,
        left_out={
            kind: [show(path.relative_to(folder)) for path in sorted(paths)] for kind, paths in layout.left_out.items()
        },
    )


def _split(
    layout: Layout, files: Sequence[File], named: Mapping[str, File], others: Mapping[str, str]
) -> dict[Split, list[File]]:
    """Random parts of each class, the same in every run, whatever its seed.

    Args:
        layout: of the folder.
        files: that can be taken.
        named: all files, by their names.
        others: files that were left out as they equal another one, which is named, too.
    """
    generator, classes = torch.Generator().manual_seed(0), layout.classes
    chosen: dict[Split, list[File]] = {split: [] for split in SHARES}
    grouped: dict[tuple[str, str], list[File]] = {}
    for file in files:
        grouped.setdefault((file.part, file.label), []).append(file)
    for part, splits in _plan(layout.parts).items():
        for label in classes:
            own = grouped.get((part, label), [])
            sizes = divide(len(own), len(classes), splits)
            if sizes is None:
                lack = _explain_lack(layout.parts[part] / label, len(own), len(classes), splits)
                left = [name for name in others if (named[name].part, named[name].label) == (part, label)]
                hint = f". {len(left)} equal others, as {left[0]} does {others[left[0]]}" if left else ""
                raise DatasetError(lack + hint)
            order = iter(torch.randperm(len(own), generator=generator).tolist())
            for split, size in sizes.items():
                chosen[split] += [own[index] for index in itertools.islice(order, size)]
    # Parts of a split are judged by draws of their own, so the classes are mixed.
    return {
        split: [own[index] for index in torch.randperm(len(own), generator=generator).tolist()]
        for split, own in chosen.items()
    }


def _normalize(plain: ImageSpec, images: Tensor) -> ImageSpec:
    """The spec with the mean and the standard deviation of images [N, C, H, W], rounded, and no deviation of 0."""
    pixels = images.transpose(0, 1).flatten(1).double() / 255
    mean, std = (tuple(round(number, 4) for number in values.tolist()) for values in (pixels.mean(1), pixels.std(1)))
    return ImageSpec(plain.channels, plain.height, plain.width, mean, tuple(max(number, 0.01) for number in std))


def _explain_lack(folder: Path, count: int, classes: int, splits: Sequence[Split]) -> str:
    needed = next(n for n in itertools.count(1) if divide(n, classes, splits))
    sizes = divide(needed, classes, splits)
    assert sizes is not None
    purposes: dict[Split, str] = {
        "train": "to train on",
        "validation": "to validate",
        "calibration": f"to calibrate (false alarms of {DEFAULT_RATE:.0%} take {LEAST_CALIBRATION} of all classes)",
        "test": "to test",
    }
    listed = ", ".join(f"{size} {purposes[split]}" for split, size in sizes.items())
    plural = "image" if count == 1 else "images"
    held = f"holds {count} {plural} that can be taken" if folder.is_dir() else "is missing"
    return f"{show(folder)} {held}; with {classes} classes it must hold {needed}: {listed}"
