"""A backbone's ONNX file, and the JSON file beside it that says how it wants to be used."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter, ValidationError, model_validator
from pydantic.dataclasses import dataclass

from models.backbones.backbone import (
    FILE,
    Backbone,
    BackboneError,
    BackboneSpec,
    digest_backbone,
    list_outputs,
    list_shared_folders,
    open_session,
    probe,
    read_backbone,
)
from models.checkpoint_files import write_file
from models.foreign_files import read_file
from models.inputs.image import ImageSpec
from models.schema import STRICT, Deviations, Means

MAX_NOTES_BYTES = 2**16
USUAL_SIZE = 224
"""Width and height of images that most backbones were trained on."""

Text = Annotated[str, Field(max_length=1_000)]


@dataclass(frozen=True, config=STRICT)
class BackboneNotes:
    """How a backbone wants to be used. The defaults are usual for networks that were trained on ImageNet."""

    mean: Means = (0.485, 0.456, 0.406)
    std: Deviations = (0.229, 0.224, 0.225)
    """Subtracted from pixels in [0, 1], and what they are then divided by, for each channel."""
    output: Text = ""
    """Name of the output to read; it may be left out if there is only one."""
    source: Text = ""
    licence: Text = ""

    @model_validator(mode="after")
    def _check(self) -> "BackboneNotes":
        if not len(self.mean) == len(self.std) or len(self.mean) not in (1, 3):
            raise ValueError("mean and std must both have one number for each of 1 or 3 channels")
        return self


def locate_notes(path: Path) -> Path:
    """The file beside an ONNX file that says how it wants to be used."""
    return path.with_suffix(".json")


def read_notes(path: Path) -> BackboneNotes:
    """Reads what is beside an ONNX file; if there is nothing, the usual applies.

    Raises:
        BackboneError: if the file beside it is not valid.
    """
    beside = locate_notes(path)
    if not beside.exists():
        return BackboneNotes()
    try:
        return TypeAdapter(BackboneNotes).validate_json(read_file(beside, MAX_NOTES_BYTES))
    except OSError as error:
        raise BackboneError(beside, error.strerror or str(error)) from error
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise BackboneError(beside, f"{where}: {first['msg'].removeprefix('Value error, ')}") from error


def open_backbone(path: Path, size: int, output: str | None = None) -> tuple[ImageSpec, Backbone]:
    """Opens a backbone for images of a size; returns what images it takes, too.

    Args:
        path: path of the ONNX file.
        size: width and height of the images.
        output: name of the output to read, if not what the notes say.

    Raises:
        BackboneError: if it cannot be used.
    """
    notes, content = read_notes(path), read_backbone(path)
    channels: Literal[1, 3] = 1 if len(notes.mean) == 1 else 3
    images = ImageSpec(channels=channels, height=size, width=size, mean=notes.mean, std=notes.std)
    session = open_session(path, content, images)
    names = [each.name for each in session.get_outputs()]
    chosen = output or notes.output or (names[0] if len(names) == 1 else "")
    if chosen not in names:
        wrong = f"has no output {chosen!r}" if chosen else "has several outputs"
        raise BackboneError(path, f"{wrong}; name one of {list_outputs(session)} with --output")
    shape = probe(path, session, images, chosen)
    try:
        spec = BackboneSpec(
            sha256=digest_backbone(content),
            output=chosen,
            feature_shape=shape,  # type: ignore[arg-type]  # checked here
            normalised=len(shape) == 1,
            source=notes.source or path.name,
            licence=notes.licence,
        )
    except ValidationError as error:
        raise BackboneError(path, f"has features of shape {shape}, which no target network takes") from error
    return images, Backbone(spec, session, len(content))


def place_backbone(path: Path, spec: BackboneSpec, directory: Path) -> None:
    """Copies an ONNX file into a checkpoint's directory, unless the checkpoint finds a shared one.

    Raises:
        BackboneError: if the file has changed since it was opened.
    """
    if any((folder / f"{spec.sha256}.onnx").exists() for folder in list_shared_folders(directory)):
        return
    content = read_backbone(path)
    if digest_backbone(content) != spec.sha256:
        raise BackboneError(path, "changed while it was used")
    directory.mkdir(parents=True, exist_ok=True)
    write_file(directory / FILE, content)
