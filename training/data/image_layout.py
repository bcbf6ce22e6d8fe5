"""How a user's folder of images is laid out: a folder for each class, or folders that divide them, with such folders.

A layout is recognised or refused; nothing is taken for a class that divides, and nothing is left out unlisted.
"""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from training.data.dataset import DatasetError
from training.data.image_tree import Tree, list_folders, search, show

Part = Literal["", "test", "validation", "train"]
"""Of a folder that is divided; no name, of one that is not."""

_PART = re.compile(r"(?:(train|training)|(test|testing)|(val|valid|validation|dev))(?:set|data|images|imgs)?")
_ORDER = ["", "test", "validation", "train"]
_PURPOSES: dict[Part, str] = {"train": "to train on", "validation": "to validate", "test": "to test"}
OUTSIDE = "images outside the classes' folders"


@dataclass(frozen=True)
class File:
    """A file that is meant as an image."""

    path: Path
    part: Part
    label: str


@dataclass(frozen=True)
class Layout:
    """Where which images lie."""

    parts: Mapping[Part, Path]
    """The folders that hold the classes' folders."""
    classes: tuple[str, ...]
    files: Sequence[File]
    """What is to be tested on comes first."""
    left_out: Mapping[str, Sequence[Path]]
    """By what they are."""


def read_layout(folder: Path) -> Layout:
    """Lists a folder's images with their classes.

    Raises:
        DatasetError: if the layout is none that is known, or no images or less than two classes are there.
    """
    if not folder.is_dir():
        raise DatasetError(f"there is no folder {show(folder)}")
    try:
        return _read(folder)
    except OSError as error:
        raise DatasetError(f"{show(error.filename or folder)} cannot be read: {error.strerror}") from error


def _read(folder: Path) -> Layout:
    parts, beside = _find_parts(folder)
    places = {folder} | {place for part in parts.values() for place in (part, *part.parents) if folder in place.parents}
    left, files, classes = Tree(), [], set()
    for place in sorted(places):
        left.add(search(place, deep=False))
    left.others.setdefault(OUTSIDE, []).extend(left.images)
    for place in beside:
        left.add(search(place))
    above = {os.path.realpath(place) for place in places}
    for part in sorted(parts, key=_ORDER.index):
        for kind in list_folders(parts[part]):
            found = search(kind, above)
            files += [File(path, part, show(kind.name)) for path in found.images]
            classes.add(show(kind.name))
            left.add(Tree(others=found.others))
    if not files:
        raise DatasetError(f"{show(folder)} holds no images; the classes' folders must hold them, as in cat/1.jpg")
    if len(classes) == 1:
        (alone,) = classes
        inner = parts.get("", folder) / alone
        hint = f". If its folders are the classes, give {show(inner)}" if inner.is_dir() and list_folders(inner) else ""
        raise DatasetError(f"{show(folder)} holds one class alone, {alone}; it takes two or more to tell apart{hint}")
    return Layout(parts, tuple(sorted(classes)), files, {kind: paths for kind, paths in left.others.items() if paths})


def _find_parts(folder: Path) -> tuple[dict[Part, Path], list[Path]]:
    """The folders that hold classes' folders, and those beside them that hold no images.

    A folder is taken to divide by its name, and as it holds folders: a class may be trains.
    """
    folders = list_folders(folder)
    if not folders:
        raise DatasetError(f"{show(folder)} holds no folders; it must hold one for each class, as in cat/1.jpg")
    named = {path: part for path in folders if (part := _name_part(path.name))}
    dividing = [path for path in named if list_folders(path)]
    if not dividing and ("train" not in named.values() or len({*named.values()}) == 1):
        for path in folders:
            inner = {part for inner in list_folders(path) if (part := _name_part(inner.name))}
            if "train" in inner and len(inner) > 1:
                raise DatasetError(
                    f"{show(path)} is divided into train and others. If it is no class, give it alone; if it is, the "
                    f"classes must lie within the parts, as in train/{show(path.name)}/1.jpg"
                )
        return {"": folder}, []
    names, where = _list(path.name for path in named), show(folder)
    for part, purpose in _PURPOSES.items():
        same = [path.name for path in named if named[path] == part]
        if len(same) > 1:
            raise DatasetError(f"{_list(same)} in {where} are all {purpose}; join them, or leave one")
    if "train" not in named.values():
        raise DatasetError(f"{where} holds {names} but no train; it must, or hold the classes' folders and no others")
    for path in named:
        if path not in dividing:
            raise DatasetError(f"{show(path)} holds no folders; it must hold one for each class, as in train/cat/1.jpg")
    beside = [path for path in folders if path not in named]
    if odd := [path.name for path in beside if search(path).images]:
        raise DatasetError(
            f"{where} is divided into {names}, but there are images in {_list(odd)}, too. Only train, val and test can "
            "stand side by side: move what is none of them elsewhere"
        )
    return {part: _enter(path, part) for path, part in named.items()}, beside


def _enter(path: Path, part: Part) -> Path:
    """The folder itself, or one of its kind that is alone in it, as archives have it: train/train/cat/1.jpg."""
    folders = list_folders(path)
    alone = len(folders) == 1 and _name_part(folders[0].name) == part and list_folders(folders[0])
    return folders[0] if alone else path


def _name_part(name: str) -> Part | None:
    """What a folder divides by its name, in any case: Train, seg_train, training set, train2017, TrainImages."""
    for word in re.split(r"[^a-z]+", name.lower()):
        if found := _PART.fullmatch(word):
            train, test, _ = found.groups()
            return "train" if train else "test" if test else "validation"
    return None


def _list(names: Iterable[str]) -> str:
    return " and ".join(show(name) for name in names)
