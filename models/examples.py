"""Example inputs of a checkpoint: small images, each with its source and its licence.

A checkpoint of images may hold a folder `examples` of images, with `examples.json`, which lists them in order. No
prediction depends on them, so they are no part of the checkpoint's version.
"""

import dataclasses
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from models.checkpoint_files import CheckpointError, dump_json, parse_json, write_file
from models.foreign_files import read_file
from models.inputs.image import ImageSpec
from models.inputs.image_formats import FORMATS, ImageFormat, recognize
from models.inputs.spec import InputSpec
from models.schema import STRICT

FOLDER = "examples"
LIST_FILE = "examples.json"
"""The list of the examples. Without it, the folder holds none."""

MOST_EXAMPLES = 12
MAX_BYTES = 2**20
"""Most bytes of an example."""
MAX_PIXELS = 2**20
"""Most pixels of an example; a JPEG may have twice as many."""
MAX_LIST_BYTES = 2**16

MEDIA_TYPES: dict[str, str] = {
    known.name: known.media_type for known in FORMATS if known.name in ("PNG", "JPEG", "WebP")
}
"""Formats of examples, which every browser shows, and their media types."""

_LINE = r"^\P{Cc}+$"
"""Text without line breaks and other control characters."""


@dataclass(frozen=True, config=STRICT)
class ExampleEntry:
    """What `examples.json` says of an example."""

    file: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9_.-]*$", max_length=100)]
    """Name of the file in the folder."""
    caption: Annotated[str, Field(pattern=_LINE, max_length=300)]
    """What the image shows, such as "a seven"."""
    source: Annotated[str, Field(pattern=_LINE, max_length=300)]
    """Where the image comes from."""
    licence: Annotated[str, Field(pattern=_LINE, max_length=300)]


@dataclasses.dataclass(frozen=True)
class Example:
    """An example and its file."""

    entry: ExampleEntry
    content: bytes

    @property
    def media_type(self) -> str:
        """Media type of the file."""
        name = recognize(self.content)
        assert name is not None
        return MEDIA_TYPES[name]


_Entries = Annotated[tuple[ExampleEntry, ...], Field(max_length=MOST_EXAMPLES)]


def load_examples(directory: Path, spec: InputSpec) -> tuple[Example, ...]:
    """Reads the examples of a checkpoint, if it has any, and checks that the model can take each of them.

    Links are not followed, so that no other file can be shown.

    Args:
        directory: the checkpoint's directory.
        spec: the model's input.

    Raises:
        CheckpointError: if the list or a file is missing, damaged, too large, or a link, or if the model takes no
            images.
    """
    folder = directory / FOLDER
    path = folder / LIST_FILE
    if not os.path.lexists(path):
        return ()
    if folder.is_symlink():
        raise CheckpointError(folder, "is a link; examples must be in a folder of the checkpoint itself")
    if not isinstance(spec, ImageSpec):
        raise CheckpointError(path, "lists images, but the model takes none")
    entries: tuple[ExampleEntry, ...] = parse_json(path, _read(path, MAX_LIST_BYTES), _Entries)
    names = [entry.file for entry in entries]
    if repeated := [name for name in names if names.count(name) > 1]:
        raise CheckpointError(path, f"lists {repeated[0]} more than once")
    return tuple(_load(folder / entry.file, entry, spec) for entry in entries)


def save_examples(directory: Path, examples: Sequence[Example]) -> None:
    """Writes the examples of a checkpoint in place of earlier ones, the list last."""
    folder = directory / FOLDER
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir()
    for example in examples:
        write_file(folder / example.entry.file, example.content)
    write_file(folder / LIST_FILE, dump_json([example.entry for example in examples]))


def _load(path: Path, entry: ExampleEntry, spec: ImageSpec) -> Example:
    from models.inputs.pixels import ImageError, decode_image  # which needs Pillow

    content = _read(path, MAX_BYTES)
    name = recognize(content)
    if name is None or name not in MEDIA_TYPES:
        *others, last = MEDIA_TYPES
        raise CheckpointError(path, f"is not a {', '.join(others)} or {last} file")
    kind: ImageFormat = next(known for known in FORMATS if known.name == name)
    if path.suffix not in kind.suffixes:
        raise CheckpointError(path, f"is a {name} file, so its name must end with {kind.suffixes[0]}")
    try:
        decode_image(content, spec, MAX_PIXELS, "the image")
    except ImageError as error:
        raise CheckpointError(path, f"the model cannot take it: {error.message.removesuffix('.')}") from error
    return Example(entry, content)


def _read(path: Path, most_bytes: int) -> bytes:
    try:
        return read_file(path, most_bytes, follow_links=False)
    except OSError as error:
        raise CheckpointError(path, error.strerror or str(error)) from error
