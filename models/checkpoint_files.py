"""The files of a checkpoint: read within bounds and checked, or written so that a reader never sees half of one."""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Mapping, Set
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from pydantic import TypeAdapter, ValidationError
from safetensors.torch import load as parse_safetensors
from safetensors.torch import save as serialize_tensors
from torch import Tensor, nn

from models.files import replace_file
from models.foreign_files import read_file
from models.meta import building_empty
from models.stored_tensors import Storage, bound_bytes, decode_tensors, encode_tensors, split_shards

CONVERTED_LINE_ENDS = (
    "its line endings were converted to CRLF, as git does where core.autocrlf is set; set that to false, and clone or "
    "check out again"
)
"""The reason given for a file whose digest would match with its original line endings."""

SAMPLER_FILE = "model.safetensors"
"""The weight file. Large weights are split into model-00001-of-00003.safetensors and so on."""

KINDS = {"method": "a model of images, tables or vectors", "kind": "a model of sequences", "translator": "a translator"}
"""Kinds of checkpoints, by a field of `config.json` that no other kind has."""

MAX_JSON_BYTES = 4 * 2**20
MAX_JSON_MEMBERS = 100_000

Built = TypeVar("Built", bound=nn.Module)


class CheckpointError(Exception):
    """A checkpoint that cannot be loaded; the message names the file and the reason."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(path, reason)  # all arguments, so that it can be copied
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


def check_file_names(names: Iterable[str]) -> None:
    """Checks names of weight files, which a config.json states.

    Raises:
        ValueError: if one is not the name of a safetensors file inside the checkpoint's directory.
    """
    for name in names:
        if not re.fullmatch(r"[\w-][\w.-]*\.safetensors", name, re.ASCII):
            raise ValueError(f"{name!r} is not the name of a safetensors file inside the checkpoint's directory")


def name_checkpoint(directory: Path) -> str:
    """The name of a checkpoint: that of its directory, or of the link to it."""
    return Path(os.path.abspath(directory)).name  # noqa: PTH100 (Path.resolve would follow the link)


def digest_config(directory: Path) -> str:
    """SHA-256 of a checkpoint's config.json, which a calibration names."""
    return hashlib.sha256((directory / "config.json").read_bytes()).hexdigest()


def dump_json(value: Any) -> bytes:
    """Readable JSON of a dataclass or of plain data."""
    return TypeAdapter(type(value)).dump_json(value, indent=1) + b"\n"


def write_file(path: Path, content: bytes) -> None:
    """Replaces a file atomically: readers see the old content or all of the new, even after a crash."""
    with replace_file(path) as file:
        file.write(content)


def write_weights(directory: Path, tensors: Mapping[str, Tensor], storage: Storage) -> dict[str, str]:
    """Writes weight files, and returns the SHA-256 of each, by name."""
    shards = split_shards(encode_tensors(tensors, storage))
    files = {}
    for number, shard in enumerate(shards, 1):
        name = SAMPLER_FILE if len(shards) == 1 else f"model-{number:05}-of-{len(shards):05}.safetensors"
        content = serialize_tensors(shard)
        files[name] = hashlib.sha256(content).hexdigest()
        write_file(directory / name, content)
    return files


def build_empty(path: Path, build: Callable[[], Built], most_bytes: int | None) -> Built:
    """A module without weights, as a config.json describes it.

    Args:
        path: path of the config.json, for messages.
        build: makes the module, on the meta device.
        most_bytes: largest size of the weights, in bytes.

    Raises:
        CheckpointError: if there is no such module, or it is too large.
    """
    try:
        with building_empty():
            module = build()
    except Exception as error:  # for impossible sizes, PyTorch raises errors of many types
        raise CheckpointError(path, f"does not describe a sampler: {error}") from error
    size = count_bytes(module)
    if most_bytes is not None and size > most_bytes:
        reason = f"describes weights of {size / 2**20:.0f} MiB, more than the {most_bytes / 2**20:.0f} MiB allowed"
        raise CheckpointError(path, reason)
    return module


def count_bytes(module: nn.Module) -> int:
    """Size of a module's weights, in bytes."""
    return sum(tensor.nbytes for tensor in module.state_dict().values())


def check_digest(path: Path, digest: str, config: bytes) -> None:
    """Checks that a file of measurements belongs to a config.json.

    Args:
        path: path of the file.
        digest: the SHA-256 that it names.
        config: the content of the config.json beside it.

    Raises:
        CheckpointError: if the digest is another one's.
    """
    if digest == hashlib.sha256(config).hexdigest():
        return
    if digest == hashlib.sha256(config.replace(b"\r\n", b"\n")).hexdigest():
        raise CheckpointError(path.parent / "config.json", CONVERTED_LINE_ENDS)
    raise CheckpointError(path, "was measured for a different checkpoint, not for the config.json beside it")


def drop_old_weights(directory: Path, files: Mapping[str, str]) -> None:
    """Removes weight files that the new config.json does not name."""
    drop(directory, *(path.name for path in directory.glob("model*.safetensors") if path.name not in files))


def drop(directory: Path, *names: str) -> None:
    """Removes files and folders, if they are there."""
    for path in (directory / name for name in names):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def read_bounded(path: Path, most_bytes: int) -> bytes:
    """The content of a file of a checkpoint, or a `CheckpointError`."""
    try:
        return read_file(path, most_bytes)
    except OSError as error:
        raise CheckpointError(path, error.strerror or str(error)) from error


def parse_json(path: Path, content: bytes, schema: Any) -> Any:
    """Reads a file of a checkpoint by a schema of pydantic, or raises a `CheckpointError`."""
    if content.count(b":") > MAX_JSON_MEMBERS:  # each may be an error
        raise CheckpointError(path, f"has more than {MAX_JSON_MEMBERS} members, so it is not a checkpoint's file")
    try:
        return TypeAdapter(schema).validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        reason = first["msg"].removeprefix("Value error, ")
        raise CheckpointError(path, ": ".join(filter(None, (".".join(map(str, first["loc"])), reason)))) from error
    except Exception as error:  # for impossible sizes, PyTorch raises errors of many types
        raise CheckpointError(path, str(error)) from error


def parse_config(path: Path, content: bytes, schema: Any) -> Any:
    """Reads a `config.json` by the schema of one kind of checkpoint. One of another kind is named in the error."""
    try:
        return parse_json(path, content, schema)
    except CheckpointError as error:
        [wanted] = KINDS.keys() & schema.__annotations__
        for kind in sorted(find_fields(content) & KINDS.keys() - {wanted}):
            raise CheckpointError(path, f"this is {KINDS[kind]}, where {KINDS[wanted]} is needed") from error
        raise


def find_fields(content: bytes) -> Set[str]:
    """Names of the fields of a JSON object; none if the content is anything else."""
    try:
        fields = json.loads(content)
    except (ValueError, RecursionError):
        return set()
    return fields.keys() if isinstance(fields, dict) else set()


def parse_tensors(path: Path, content: bytes, digest: str, source: str) -> dict[str, Tensor]:
    """Tensors of a safetensors file whose digest is in another file."""
    if hashlib.sha256(content).hexdigest() != digest:
        raise CheckpointError(path, f"its SHA-256 is not the one in {source}: damaged, cut short or foreign")
    try:
        return parse_safetensors(content)
    except Exception as error:  # safetensors' own errors, and those of types unknown to PyTorch
        raise CheckpointError(path, f"is not a valid safetensors file: {error}") from error


def read_weights(directory: Path, files: Mapping[str, str], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights by name, with the expected shapes and types."""
    stored: dict[str, Tensor] = {}
    room = bound_bytes(expected)
    for name, digest in files.items():
        path = directory / name
        content = read_bounded(path, room)
        room -= len(content)
        stored |= parse_tensors(path, content, digest, "config.json")
    try:
        weights = decode_tensors(stored)
    except ValueError as error:
        raise CheckpointError(directory, str(error)) from error
    if missing := sorted(expected.keys() - weights.keys()):
        raise CheckpointError(directory, f"weights are missing: {', '.join(missing)}")
    if unknown := sorted(weights.keys() - expected.keys()):
        raise CheckpointError(directory, f"weights are unknown to the method: {', '.join(unknown)}")
    for name, tensor in weights.items():
        wanted = expected[name]
        if tensor.shape != wanted.shape:
            raise CheckpointError(directory, f"{name} has shape {tuple(tensor.shape)}, not {tuple(wanted.shape)}")
        if tensor.dtype != wanted.dtype:
            kinds = (str(dtype).removeprefix("torch.") for dtype in (tensor.dtype, wanted.dtype))
            raise CheckpointError(directory, "{} is {}, not {}".format(name, *kinds))
        if not np.isfinite(tensor.numpy()).all():
            raise CheckpointError(directory, f"{name} contains numbers that are not finite")
    return weights
