"""Images of a user's own, in a folder for each class: `DIR/cat/1.jpg`, `DIR/dog/2.jpg`, …

They are read exactly as the service reads the images that it is sent. Below `DIR` there may be `train` with `test`,
`val`, or both, each with a folder for each class.

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
from PIL import Image
from torch import Tensor

from models.checkpoint import CheckpointConfig
from models.detection import DEFAULT_RATE
from models.images import ImageError, decode_image
from models.input import ImageSpec
from models.layers import Shape
from models.task import Classification
from training.datasets import MAX_IMAGE_PIXELS, Dataset, DatasetError, Examples, Mixture, load_dataset
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
FORMATS = ("PNG", "JPEG", "WEBP")
GREY_MODES = ("1", "L", "LA")
_VALIDATION = ("val", "valid", "validation")
_PARTS = ("", "test", *_VALIDATION, "train")
"""Folders that divide, or none."""


@dataclass(frozen=True)
class ImageFolder:
    """A folder's images, read and divided."""

    name: str
    """The folder's, and a digest of its images and of how they are divided: another division is another dataset."""
    dataset: Dataset
    paths: Mapping[Split, Sequence[Path]]
    """Of each split's examples, in their order, relative to the folder."""
    unreadable: Mapping[str, str]
    """Why a file was left out, by its path."""
    copies: Mapping[str, str]
    """Files that equal another one byte for byte, and that one; they were left out, as a network that was trained on
    one of them would know the answer to the other."""

    def count(self) -> dict[str, dict[Split, int]]:
        """Images of each class in each split."""
        assert isinstance(self.dataset.task, Classification)
        counts = {split: Counter(getattr(self.dataset, split).labels.tolist()) for split in SHARES}
        names = enumerate(self.dataset.task.classes)
        return {name: {split: counts[split][label] for split in SHARES} for label, name in names}


@dataclass(frozen=True)
class _File:
    path: Path
    part: str
    """The folder that divides: train, val, test, or none."""
    label: str


def load_image_folder(folder: Path, size: int | None = None, grey: bool | None = None) -> ImageFolder:
    """Reads all images below a folder, and divides them among the splits, class by class.

    Files whose names begin with a dot count as absent; others that are no images are left out and listed.

    Args:
        folder: with a folder for each class, or with `train`, and `test` or `val`, that have them.
        size: of the images that the networks see, width and height; if none is given, the images' own if all have the
            same, of at most 64 × 64 pixels, else 32 × 32.
        grey: whether colours are dropped; if not given, where all images are stored without.

    Raises:
        DatasetError: if there are no classes or only one, a class has too few images, or too many files are no images.
    """
    files, classes = _list_files(folder)
    return _load(folder, files, classes, _choose_shape([file.path for file in files], size, grey))


def load_training_data(config: CheckpointConfig, data: Path) -> Dataset | Mixture:
    """The dataset that a checkpoint was trained on; `data` holds its files, or is the user's own folder of images.

    Raises:
        DatasetError: as for `load_dataset`, or if the folder is another one, or its images have changed.
    """
    name = config.training.dataset
    if "@" not in name:
        return load_dataset(name, data)
    folder, _ = name.rsplit("@", 1)
    try:
        found = _load(data, *_list_files(data), config.input.shape)
    except DatasetError as error:
        raise DatasetError(f"{error}. The model was trained on the folder {folder}, which --data must name") from error
    if found.name.rsplit("@", 1)[1] != name.rsplit("@", 1)[1]:
        raise DatasetError(
            f"{data} does not hold what the model was trained on, the folder {folder}: --data names another one, or "
            "images were added, changed or removed, so that some of its test images may have been trained on"
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


def _plan(parts: Collection[str]) -> dict[str, tuple[Split, ...]]:
    """Which splits each dividing folder holds. What users call validation is what others call test, if it is alone."""
    validation = [part for part in parts if part in _VALIDATION]
    if validation and "test" in parts:
        return {"train": ("train",), validation[0]: ("validation", "calibration"), "test": ("test",)}
    if validation or "test" in parts:
        return {"train": ("train", "validation", "calibration"), (validation or ["test"])[0]: ("test",)}
    return dict.fromkeys(parts, tuple(SHARES))


def _list_files(folder: Path) -> tuple[list[_File], tuple[str, ...]]:
    """All files that may be images, and the names of the classes."""
    if not folder.is_dir():
        raise DatasetError(f"there is no folder {folder}")
    parts = [path.name for path in _list_folders(folder)]
    if not parts:
        raise DatasetError(f"{folder} holds no folders; it must hold one for each class, as in {folder}/cat/1.jpg")
    if "train" not in parts or not set(parts) <= {*_PARTS}:
        parts = [""]
    files = []
    # What is to be tested on comes first, so that of copies it is the training's that are left out.
    for part in sorted(parts, key=_PARTS.index):
        for kind in _list_folders(folder / part):
            paths = sorted(path for path in kind.rglob("*") if path.is_file())
            shown = (path for path in paths if not any(p.startswith(".") for p in path.relative_to(kind).parts))
            files += [_File(path, part, kind.name) for path in shown]
    classes = tuple(sorted({kind.name for part in parts for kind in _list_folders(folder / part)}))
    if not files:
        raise DatasetError(f"{folder} holds no images; it must hold a folder of them for each class, as cat/1.jpg")
    if len(classes) == 1:
        raise DatasetError(f"{folder} holds one class alone, {classes[0]}; it takes two or more to tell apart")
    return files, classes


def _list_folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _choose_shape(paths: Sequence[Path], size: int | None, grey: bool | None) -> Shape:
    sizes, modes = set(), set()
    for path in track(paths, "looking at images", "image"):
        try:
            with Image.open(path, formats=FORMATS) as image:  # reads no more than the header
                sizes.add(image.size)
                modes.add(image.mode)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            continue  # it will be listed when it is decoded
    if grey is None:
        grey = modes <= set(GREY_MODES)
    width, height = size or USUAL_SIZE, size or USUAL_SIZE
    if size is None and len(sizes) == 1:
        (own,) = sizes
        if min(own) >= LEAST_SIZE and max(own) <= OWN_SIZE:
            width, height = own
    return 1 if grey else 3, height, width


def _load(folder: Path, files: Sequence[_File], classes: tuple[str, ...], shape: Shape) -> ImageFolder:
    channels, height, width = shape
    colours: Literal[1, 3] = 1 if channels == 1 else 3
    plain = ImageSpec(channels=colours, height=height, width=width, mean=(0.0,) * colours, std=(1.0,) * colours)
    images: dict[_File, Tensor] = {}
    unreadable: dict[str, str] = {}
    copies: dict[str, str] = {}
    digests: dict[str, _File] = {}
    for file in track(files, "reading images", "image"):
        name = str(file.path.relative_to(folder))
        try:
            content = file.path.read_bytes()
            digest = hashlib.sha256(content).hexdigest()
            if digest in digests:
                copies[name] = str(digests[digest].path.relative_to(folder))
                continue
            images[file] = decode_image(content, plain, MAX_IMAGE_PIXELS, name)
            digests[digest] = file
        except ImageError as error:
            unreadable[name] = error.message
        except OSError as error:
            unreadable[name] = f"{name} cannot be read: {error.strerror}."
    if len(unreadable) > UNREADABLE * len(files):
        listed = " ".join(list(unreadable.values())[:LISTED])
        raise DatasetError(
            f"{len(unreadable)} of {len(files)} files in {folder} are no images that can be taken. {listed} "
            "PNG, JPEG and WebP files can, with 8 bits a channel, opaque, not animated and without a palette"
        )
    splits = _split(folder, list(images), classes, copies)
    names = {file: digest for digest, file in digests.items()}
    lines = sorted(f"{split} {f.path.relative_to(folder)} {names[f]}" for split, own in splits.items() for f in own)
    examples = {
        split: Examples(
            torch.stack([images[file] for file in own]), torch.tensor([classes.index(file.label) for file in own])
        )
        for split, own in splits.items()
    }
    return ImageFolder(
        name=f"{folder.resolve().name}@{hashlib.sha256(chr(10).join(lines).encode()).hexdigest()[:12]}",
        dataset=Dataset(_normalize(plain, examples["train"].inputs), Classification(classes), **examples),
        paths={split: [file.path.relative_to(folder) for file in own] for split, own in splits.items()},
        unreadable=unreadable,
        copies=copies,
    )


def _split(
    folder: Path, files: Sequence[_File], classes: Sequence[str], copies: Mapping[str, str]
) -> dict[Split, list[_File]]:
    """Random parts of each class, the same in every run, whatever its seed."""
    generator = torch.Generator().manual_seed(0)
    chosen: dict[Split, list[_File]] = {split: [] for split in SHARES}
    grouped: dict[tuple[str, str], list[_File]] = {}
    for file in files:
        grouped.setdefault((file.part, file.label), []).append(file)
    parts = {part for part, _ in grouped}
    for part, splits in _plan(parts if parts == {""} else parts | {"train"}).items():
        for label in classes:
            own = grouped.get((part, label), [])
            sizes = divide(len(own), len(classes), splits)
            if sizes is None:
                lack = _explain_lack(folder / part / label, len(own), len(classes), splits)
                left = [name for name in copies if Path(name).is_relative_to(Path(part, label))]
                hint = f". {len(left)} equal others, as {left[0]} does {copies[left[0]]}" if left else ""
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
    return f"{folder} {held}; with {classes} classes it must hold {needed}: {listed}"
