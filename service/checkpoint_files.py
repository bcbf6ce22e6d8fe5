"""The files of checkpoints, as the catalog sees them: where they are, whether they changed, why they are refused."""

import os
from pathlib import Path

from models.checkpoint import CheckpointError, name_checkpoint
from models.device import is_out_of_memory
from models.foreign_files import Stamp, may_pass, take_stamp
from models.tasks.probabilities import NotFiniteError
from service.names import escape

MAX_REASON = 500
"""Most characters of a reason why a model is refused."""


def list_checkpoints(directory: Path) -> dict[str, Path]:
    """Directories of checkpoints by name: the subdirectories of one, or itself.

    A subdirectory that cannot be read counts, so that it is refused, not ignored.

    Raises:
        OSError: if they cannot be listed.
    """
    if _is_there(directory / "config.json"):
        return {name_checkpoint(directory): directory}
    with os.scandir(directory) as entries:
        names = [entry.name for entry in entries if not entry.name.startswith(".")]
    return {name: directory / name for name in names if _holds_checkpoint(directory / name)}


def stamp_checkpoint(directory: Path) -> dict[str, Stamp]:
    """Stamps of a checkpoint's files, which differ when one was replaced, or written again."""
    try:
        paths = sorted(path for path in directory.iterdir() if path.suffix in (".json", ".safetensors"))
    except OSError:
        return {".": take_stamp(directory)}
    return {path.name: take_stamp(path) for path in paths}


def may_load_later(error: Exception) -> bool:
    """Whether the same files may be loaded another time."""
    return is_out_of_memory(error) or may_pass(error) or may_pass(error.__cause__)


def explain_refusal(error: Exception, path: Path) -> str:
    """Why a checkpoint is refused, for clients: without the server's paths and without control characters."""
    if isinstance(error, CheckpointError):
        reason = f"{error.path.name}: {error.reason}"
    elif isinstance(error, NotFiniteError):
        reason = f"{path.name}: {error}"
    elif is_out_of_memory(error):
        reason = f"{path.name}: not enough memory to load it"
    else:
        reason = f"{path.name}: {type(error).__name__}: {error}".replace(str(path), path.name)
    return escape(reason[:MAX_REASON] + "…" * (len(reason) > MAX_REASON))


def _holds_checkpoint(directory: Path) -> bool:
    try:
        return _is_there(directory / "config.json")
    except OSError:
        return True


def _is_there(path: Path) -> bool:
    """Whether there is a file, or a link that leads nowhere.

    Raises:
        OSError: if it cannot be told.
    """
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True
