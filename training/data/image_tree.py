"""Files below a folder: every file is either an image or listed as something else."""

import os
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from models.inputs.image_formats import SIGNATURE_BYTES, SUFFIXES, recognize

IMAGE_SUFFIXES = (
    *SUFFIXES,
    *(".jpe", ".jfif", ".apng", ".dib", ".heic", ".heif", ".ico", ".jp2", ".jxl", ".pbm", ".pgm", ".ppm"),
    *(".psd", ".svg", ".tga", ".arw", ".cr2", ".cr3", ".dng", ".nef", ".orf", ".raw", ".rw2"),
)
"""Suffixes of files that are meant as images, whether or not they can be used."""

HIDDEN = "hidden files and folders"
SYSTEM = "files and folders of operating systems"
_SYSTEM_NAMES = {"__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "@eadir", "$recycle.bin"}


@dataclass(frozen=True)
class Tree:
    """The files below a folder."""

    images: list[Path] = field(default_factory=list)
    """Images by their suffix, whatever they hold, or by their first bytes; sorted."""
    others: dict[str, list[Path]] = field(default_factory=dict)
    """Everything else, by kind. A folder that was left out as a whole is listed as one path."""

    def add(self, other: "Tree") -> None:
        """Adds what lies below another folder."""
        self.images.extend(other.images)
        for kind, paths in other.others.items():
            self.others.setdefault(kind, []).extend(paths)


def search(folder: Path, seen: Collection[str] = (), *, deep: bool = True) -> Tree:
    """Finds all files below a folder. Links are followed, except to folders that were seen already.

    Args:
        folder: where to begin.
        seen: real paths of folders that are skipped.
        deep: whether folders within the folder are searched.

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
    """Lists the folders in a folder, and links to folders, except hidden ones and those of operating systems.

    Raises:
        OSError: if the folder cannot be read.
    """
    return sorted(path for path in folder.iterdir() if path.is_dir() and not _name_left_out(path))


def show(path: Path | str) -> str:
    """A path that can be printed; bytes that are not UTF-8 become `\\xe9`."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _name_left_out(path: Path) -> str | None:
    if path.name.lower() in _SYSTEM_NAMES:
        return SYSTEM
    return HIDDEN if path.name.startswith(".") else None


def _is_image(path: Path) -> bool:
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return path.is_file() or (path.is_symlink() and not path.exists())  # a broken link is listed as unreadable
    if not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            return recognize(file.read(SIGNATURE_BYTES)) is not None
    except OSError:
        return False
