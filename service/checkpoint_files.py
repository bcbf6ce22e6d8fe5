"""The files of checkpoints for the catalog: where they are, whether they changed, why they are refused."""

import os
from collections.abc import Iterable
from pathlib import Path

from models.backbones.backbone import list_shared_folders
from models.checkpoint_files import CheckpointError, name_checkpoint
from models.device import is_out_of_memory
from models.examples import FOLDER as EXAMPLES
from models.foreign_files import Stamp, may_pass, take_stamp
from models.tasks.probabilities import NotFiniteError
from service.names import escape

VERSIONS_FILE = "versions.json"
"""The file in a model's folder that says which of the checkpoints in it are served."""

MAX_REASON = 500
"""Most characters of a reason for a refusal."""


def list_checkpoints(directory: Path) -> dict[str, Path]:
    """Directories of models by name: a directory's subdirectories, or the directory itself. Each is a checkpoint or has
    a `versions.json`.

    A subdirectory that cannot be read is included, so that it is refused, not ignored.

    Raises:
        OSError: if the directory cannot be listed.
    """
    if _holds_model(directory):
        return {name_checkpoint(directory): directory}
    with os.scandir(directory) as entries:
        names = [entry.name for entry in entries if not entry.name.startswith(".")]
    return {name: directory / name for name in names if _may_hold_model(directory / name)}


def stamp_checkpoint(directory: Path) -> dict[str, Stamp]:
    """Stamps of a checkpoint's files, which change when a file is replaced or rewritten.

    Examples count, too. So do folders of shared backbones: a checkpoint can be loaded once its backbone is there.
    """
    try:
        paths = sorted(path for path in directory.iterdir() if path.suffix in (".json", ".safetensors", ".onnx"))
        paths = [path for path in paths if path.name != VERSIONS_FILE]
    except OSError:
        return {".": take_stamp(directory)}
    shared = [folder for folder in list_shared_folders(directory) if folder.is_dir()]
    examples = directory / EXAMPLES
    return {str(path): take_stamp(path) for path in (*paths, *shared, examples, *sorted(examples.glob("*")))}


def stamp_model(folder: Path, versions: Iterable[str]) -> dict[str, Stamp]:
    """Stamps of a model's `versions.json`, and of the checkpoints in folders within its own."""
    stamps = {VERSIONS_FILE: take_stamp(folder / VERSIONS_FILE)}
    for version in versions:
        stamps |= stamp_checkpoint(folder / version)
    return stamps


def may_load_later(error: Exception) -> bool:
    """Whether loading the same files may succeed later."""
    return is_out_of_memory(error) or may_pass(error) or may_pass(error.__cause__)


def explain_refusal(error: Exception, folder: Path, version: str) -> str:
    """The reason for a refusal, for clients: without the server's paths or control characters.

    Args:
        error: why it is refused.
        folder: the model's folder.
        version: the version's folder within it, or the name of `versions.json`.
    """
    path = folder / version
    if isinstance(error, CheckpointError):
        within = error.path.is_relative_to(folder) and error.path != folder
        name = error.path.relative_to(folder).as_posix() if within else error.path.name
        reason = f"{name}: {error.reason}"
    elif isinstance(error, NotFiniteError):
        reason = f"{path.name}: {error}"
    elif is_out_of_memory(error):
        reason = f"{path.name}: not enough memory to load it"
    else:
        reason = f"{path.name}: {type(error).__name__}: {error}".replace(str(path), path.name)
    return escape(reason[:MAX_REASON] + "…" * (len(reason) > MAX_REASON))


def _may_hold_model(directory: Path) -> bool:
    try:
        return _holds_model(directory)
    except OSError:
        return True


def _holds_model(directory: Path) -> bool:
    return is_there(directory / "config.json") or is_there(directory / VERSIONS_FILE)


def is_there(path: Path) -> bool:
    """Whether there is a file or a broken link.

    Raises:
        OSError: if this cannot be determined.
    """
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True
