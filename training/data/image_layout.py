"""The layout of a user's folder of images: a folder for each class, possibly within folders for parts, such as train.

A layout is either recognised or refused. A part is never mistaken for a class, and all files left out are listed.
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
"""A part of a divided folder, or no name if the folder is not divided."""

_PART = re.compile(r"(?:(train|training)|(test|testing)|(val|valid|validation|dev))(?:set|data|images|imgs)?")
_ORDER = ["", "test", "validation", "train"]
OUTSIDE = "images outside the classes' folders"


@dataclass(frozen=True)
class File:
    """A file that is meant as an image."""

    path: Path
    part: Part
    label: str


@dataclass(frozen=True)
class Layout:
    """A recognised layout."""

    parts: Mapping[Part, Path]
    """The folders that hold the classes' folders."""
    classes: tuple[str, ...]
    files: Sequence[File]
    """Images to test on come first."""
    left_out: Mapping[str, Sequence[Path]]
    """Other files, by kind."""


def read_layout(folder: Path) -> Layout:
    """Lists a folder's images with their classes.

    Raises:
        DatasetError: if the layout is unknown, or if there are no images or fewer than two classes.
    """
    if not folder.is_dir():
        raise DatasetError(f"{show(folder)} is not a folder")
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
        raise DatasetError(f"{show(folder)} holds no images; put them into the classes' folders, as in cat/1.jpg")
    if len(classes) == 1:
        (alone,) = classes
        inner = parts.get("", folder) / alone
        hint = f". If its folders are the classes, pass {show(inner)}" if inner.is_dir() and list_folders(inner) else ""
        raise DatasetError(f"{show(folder)} holds only one class, {alone}; at least two are needed{hint}")
    return Layout(parts, tuple(sorted(classes)), files, {kind: paths for kind, paths in left.others.items() if paths})


def _find_parts(folder: Path) -> tuple[dict[Part, Path], list[Path]]:
    """Finds the folders that hold classes' folders, and folders beside them that hold no images.

    A folder is a part if it has a part's name and holds folders, because a class can be called train.
    """
    folders = list_folders(folder)
    if not folders:
        raise DatasetError(f"{show(folder)} holds no folders; it needs one for each class, as in cat/1.jpg")
    named = {path: part for path in folders if (part := _name_part(path.name))}
    dividing = [path for path in named if list_folders(path)]
    if not dividing and ("train" not in named.values() or len({*named.values()}) == 1):
        for path in folders:
            inner = {part for inner in list_folders(path) if (part := _name_part(inner.name))}
            if "train" in inner and len(inner) > 1:
                raise DatasetError(
                    f"{show(path)} holds train and other parts. If it is not a class, pass it instead; if it is, put "
                    f"the classes into the parts, as in train/{show(path.name)}/1.jpg"
                )
        return {"": folder}, []
    names, where = _list(path.name for path in named), show(folder)
    for part in dict.fromkeys(named.values()):
        same = [path.name for path in named if named[path] == part]
        if len(same) > 1:
            raise DatasetError(f"{_list(same)} in {where} all mean {part}; merge them, or keep only one")
    if "train" not in named.values():
        raise DatasetError(f"{where} holds {names} but not train; add train, or keep only the classes' folders")
    for path in named:
        if path not in dividing:
            raise DatasetError(f"{show(path)} holds no folders; it needs one for each class, as in train/cat/1.jpg")
    beside = [path for path in folders if path not in named]
    if odd := [path.name for path in beside if search(path).images]:
        raise DatasetError(
            f"{where} is divided into {names}, but {_list(odd)} holds images too. Only train, val and test are "
            "allowed side by side; move other folders elsewhere"
        )
    return {part: _enter(path, part) for path, part in named.items()}, beside


def _enter(path: Path, part: Part) -> Path:
    """The folder itself, or the only folder in it if that is the same part, as in archives: train/train/cat/1.jpg."""
    folders = list_folders(path)
    alone = len(folders) == 1 and _name_part(folders[0].name) == part and list_folders(folders[0])
    return folders[0] if alone else path


def _name_part(name: str) -> Part | None:
    """The part that a folder's name means, in any case: Train, seg_train, training set, train2017, TrainImages."""
    for word in re.split(r"[^a-z]+", name.lower()):
        if found := _PART.fullmatch(word):
            train, test, _ = found.groups()
            return "train" if train else "test" if test else "validation"
    return None


def _list(names: Iterable[str]) -> str:
    return " and ".join(show(name) for name in names)
