"""Files below a folder: which are images by their names, and which are not; every one is either found or listed."""

import os
import re
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

USUAL_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
IMAGE_SUFFIXES = (
    *USUAL_SUFFIXES,
    *(
        ".jpe",
        ".jfif",
        ".mpo",
        ".apng",
        ".avif",
        ".bmp",
        ".dib",
        ".gif",
        ".heic",
        ".heif",
        ".ico",
        ".jp2",
        ".jxl",
        ".pbm",
        ".pgm",
        ".ppm",
    ),
    *(".psd", ".svg", ".tga", ".tif", ".tiff", ".arw", ".cr2", ".cr3", ".dng", ".nef", ".orf", ".raw", ".rw2"),
)
"""Of files that are meant as images, whether they can be taken or not."""

HIDDEN = "hidden files and folders"
SYSTEM = "files and folders of operating systems"
_SYSTEM_NAMES = {"__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "@eadir", "$recycle.bin"}
_BEGINNINGS = re.compile(rb"\x89PNG\r\n\x1a\n|\xff\xd8\xff|RIFF.{4}WEBP", re.DOTALL)


@dataclass(frozen=True)
class Tree:
    """What lies below a folder."""

    images: list[Path] = field(default_factory=list)
    """By their suffixes, whatever they hold, or by how they begin; sorted."""
    others: dict[str, list[Path]] = field(default_factory=dict)
    """Everything else, by what it is. Of a folder that was left out as a whole, the folder."""

    def add(self, other: "Tree") -> None:
        """Adds what lies in another place."""
        self.images.extend(other.images)
        for kind, paths in other.others.items():
            self.others.setdefault(kind, []).extend(paths)


def search(folder: Path, seen: Collection[str] = (), *, deep: bool = True) -> Tree:
    """All files below a folder, through links too, but through none to a folder that was seen already.

    Args:
        folder: to begin with.
        seen: real paths of folders that are not entered.
        deep: whether its folders are entered at all.

    Raises:
        OSError: if a folder cannot be read.
    """
    tree, visited, waiting = Tree(), set(seen), [folder]
    while waiting:
        current = waiting.pop()
        if (real := os.path.realpath(current)) in visited:
            continue
        visited.add(real)
        for path in sorted(current.iterdir()):
            if kind := _name_left_out(path):
                tree.others.setdefault(kind, []).append(path)
            elif path.is_dir():
                waiting += [path] * deep
            elif _is_image(path):
                tree.images.append(path)
            else:
                kind = f"{show(path.suffix.lower())} files" if path.suffix else "files without a suffix"
                tree.others.setdefault(kind, []).append(path)
    tree.images.sort()
    return tree


def list_folders(folder: Path) -> list[Path]:
    """The folders in a folder, and links to such, that are neither hidden nor an operating system's.

    Raises:
        OSError: if it cannot be read.
    """
    return sorted(path for path in folder.iterdir() if path.is_dir() and not _name_left_out(path))


def show(path: Path | str) -> str:
    """A path as it can be printed; bytes that are no UTF-8 as `\\xe9`."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _name_left_out(path: Path) -> str | None:
    if path.name.lower() in _SYSTEM_NAMES:
        return SYSTEM
    return HIDDEN if path.name.startswith(".") else None


def _is_image(path: Path) -> bool:
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return path.is_file() or (path.is_symlink() and not path.exists())  # a lost link counts as unreadable
    if not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            return _BEGINNINGS.match(file.read(12)) is not None
    except OSError:
        return False
