"""Checkpoints: a directory of config.json, weight files and, where measured, calibration.json and metrics.json.

Nothing is pickled. `config.json` names the weight files with their SHA-256, `calibration.json` the SHA-256 of the
`config.json` it belongs to, so the digest of the two JSON files, the model's version, stands for every byte that
an answer depends on. A checkpoint is written with `config.json` last: a reader sees the old one, the new one, or a
checksum that does not fit, never a mixture that loads.
"""

import dataclasses
import hashlib
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass
from safetensors import SafetensorError
from safetensors.torch import load as parse_tensors
from safetensors.torch import save as serialize_tensors
from torch import Tensor

from models.apd import APDConfig
from models.deep_ensemble import DeepEnsembleConfig
from models.detection import Calibration, check_calibration
from models.deutsch import DeutschConfig
from models.files import replace_file
from models.hyperdraw import HyperDrawConfig
from models.hypergan import HyperGANConfig
from models.input import InputSpec
from models.layers import STRICT
from models.mc_dropout import MCDropoutConfig
from models.mlp import MLPConfig
from models.mnf import MNFConfig
from models.sampler import WeightSampler
from models.static_hypernetwork import StaticHypernetworkConfig
from models.target import TargetNetwork
from models.task import Task

SAMPLER_FILE = "model.safetensors"
"""Or model-00001-of-00003.safetensors and so on, where the weights are large."""

SHARD_BYTES = 2**30
"""Of a weight file, unless a single tensor is larger."""

MEASURED = ("metrics.json", "attack.json", "report.json", "README.md", "figures")
"""What belongs to one version of a checkpoint, beside its weights and its calibration."""

MAX_JSON_BYTES = 4 * 2**20

Storage = Literal["float32", "bfloat16", "int8"]
"""How matrices are stored; vectors are always float32. In int8 each row has a scale of its own."""

MethodConfig = Annotated[
    HyperDrawConfig
    | HyperGANConfig
    | DeutschConfig
    | MLPConfig
    | DeepEnsembleConfig
    | MCDropoutConfig
    | StaticHypernetworkConfig
    | MNFConfig
    | APDConfig,
    Field(discriminator="method"),
]


class CheckpointError(Exception):
    """A checkpoint that cannot be loaded; the message names the file and the reason."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(path, reason)  # all that it takes, for copies
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


@dataclass(frozen=True, config=STRICT)
class Training:
    """Where a checkpoint comes from."""

    recipe: str
    command: str
    dataset: str
    steps: int
    planned_steps: int
    seed: int
    failure: str | None = None
    """Why the training ended before its last step, unless it was interrupted."""
    largest_ensemble: Annotated[int, Field(ge=1)] = 100
    """That is calibrated and evaluated, if there are as many networks."""


@dataclass(frozen=True, config=STRICT)
class CheckpointConfig:
    """What `config.json` holds."""

    method: MethodConfig
    target: TargetNetwork
    input: InputSpec
    task: Task
    training: Training
    files: dict[str, str] = Field(default_factory=dict)
    """SHA-256 of each weight file, by name; `save_checkpoint` fills it in."""
    format_version: Literal[2] = 2

    def __post_init__(self) -> None:
        if self.task.num_outputs != self.target.num_outputs:
            raise ValueError(f"{self.task.num_outputs} names for a target with {self.target.num_outputs} outputs")
        if self.target.input_shape != self.input.shape:
            raise ValueError(f"the target takes {self.target.input_shape}, the input is {self.input}")
        for name in self.files:
            if not re.fullmatch(r"[\w-][\w.-]*\.safetensors", name, re.ASCII):
                raise ValueError(f"{name!r} is not the name of a safetensors file inside the checkpoint's directory")


@dataclasses.dataclass(frozen=True, eq=False)
class Checkpoint:
    """A loaded checkpoint, ready to sample from."""

    name: str
    """Of its directory."""
    version: str
    """SHA-256 over config.json and calibration.json, in hexadecimal."""
    config: CheckpointConfig
    sampler: WeightSampler
    calibration: Calibration | None
    metrics: Mapping[str, Any] | None

    @property
    def default_size(self) -> int:
        """Networks of an ensemble of which nobody said how large it should be: as many as it was evaluated with."""
        return self.sampler.limit_networks(self.config.training.largest_ensemble)


def save_checkpoint(directory: Path, config: CheckpointConfig, sampler: WeightSampler, storage: Storage) -> None:
    """Writes the weights and config.json; drops what was measured for other weights.

    Args:
        directory: made if missing.
        config: its `files` are filled in here.
        sampler: as it is to be served.
        storage: how matrices are stored.
    """
    directory.mkdir(parents=True, exist_ok=True)
    shards = _split_shards(encode_tensors(sampler.state_dict(), storage))
    _drop(directory, "calibration.json", *MEASURED)
    files = {}
    for number, shard in enumerate(shards, 1):
        name = SAMPLER_FILE if len(shards) == 1 else f"model-{number:05}-of-{len(shards):05}.safetensors"
        content = serialize_tensors(shard)
        files[name] = hashlib.sha256(content).hexdigest()
        write_file(directory / name, content)
    write_file(directory / "config.json", dump_json(dataclasses.replace(config, files=files)))
    _drop(directory, *(path.name for path in directory.glob("model*.safetensors") if path.name not in files))


def save_calibration(directory: Path, calibration: Calibration) -> None:
    """Writes calibration.json; drops metrics, figures and card, which belong to another version."""
    _drop(directory, *MEASURED)
    write_file(directory / "calibration.json", dump_json(calibration))


def load_checkpoint(
    directory: Path, device: torch.device | str = "cpu", *, with_measurements: bool = True
) -> Checkpoint:
    """Reads a checkpoint, checks every part of it, and returns its sampler in evaluation mode.

    Args:
        directory: of the checkpoint.
        device: that the sampler is put on.
        with_measurements: whether calibration and metrics are read; else they count as missing.

    Raises:
        CheckpointError: if a file is missing, damaged, foreign, or does not fit the others.
    """
    config_bytes = _read_json(directory / "config.json")
    config: CheckpointConfig = _parse(directory / "config.json", config_bytes, CheckpointConfig)
    try:
        with torch.device("meta"):
            sampler: WeightSampler = config.method.build(config.target)
    except ValueError as error:
        raise CheckpointError(directory / "config.json", str(error)) from error
    shapes = {name: tensor.shape for name, tensor in sampler.state_dict().items()}
    sampler.load_state_dict(_read_weights(directory, config.files, shapes), assign=True)

    calibration_bytes, calibration = b"", None
    path = directory / "calibration.json"
    if with_measurements and path.exists():
        calibration_bytes = _read_json(path)
        calibration = _parse(path, calibration_bytes, Calibration)
        if calibration.checkpoint != hashlib.sha256(config_bytes).hexdigest():
            raise CheckpointError(path, "was measured for another checkpoint than the config.json beside it")
        try:
            check_calibration(calibration, config.task, config.input, sampler.num_networks)
        except ValueError as error:
            raise CheckpointError(path, str(error)) from error
    metrics = None
    if with_measurements and (directory / "metrics.json").exists():
        metrics = _parse(directory / "metrics.json", _read_json(directory / "metrics.json"), dict[str, Any])
    return Checkpoint(
        name=name_checkpoint(directory),
        version=hashlib.sha256(config_bytes + calibration_bytes).hexdigest(),
        config=config,
        sampler=sampler.to(device).eval().requires_grad_(False),
        calibration=calibration,
        metrics=metrics,
    )


def name_checkpoint(directory: Path) -> str:
    """The name of a checkpoint: that of its directory, or of the link that stands for it."""
    return Path(os.path.abspath(directory)).name  # noqa: PTH100 (Path.resolve would follow the link)


def digest_config(directory: Path) -> str:
    """SHA-256 of a checkpoint's config.json, which a calibration names."""
    return hashlib.sha256((directory / "config.json").read_bytes()).hexdigest()


def encode_tensors(tensors: Mapping[str, Tensor], storage: Storage) -> dict[str, Tensor]:
    """Tensors as they are stored: matrices by `storage`, with `NAME.scale` [rows, 1] beside an int8 one."""
    encoded: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        if tensor.dim() < 2 or not tensor.is_floating_point() or storage == "float32":
            encoded[name] = tensor
        elif storage == "bfloat16":
            encoded[name] = tensor.bfloat16()
        else:
            scale = tensor.abs().amax(dim=1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny) / 127
            encoded[name] = (tensor / scale).round().to(torch.int8)
            encoded[f"{name}.scale"] = scale
    return encoded


def decode_tensors(stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `encode_tensors`, to rounding: float32 (integers stay what they are).

    Raises:
        ValueError: if an int8 matrix has no scale that fits.
    """
    decoded: dict[str, Tensor] = {}
    for name, tensor in stored.items():
        if tensor.dtype == torch.int8:
            if tensor.dim() != 2 or name + ".scale" not in stored or stored[name + ".scale"].shape != (len(tensor), 1):
                raise ValueError(f"{name} is int8 and wants {name}.scale with one number a row")
            decoded[name] = tensor.float() * stored[f"{name}.scale"]
        elif not name.endswith(".scale"):
            decoded[name] = tensor.float() if tensor.is_floating_point() else tensor
    return decoded


def dump_json(value: Any) -> bytes:
    """Readable JSON of a dataclass or of plain data."""
    return TypeAdapter(type(value)).dump_json(value, indent=1) + b"\n"


def write_file(path: Path, content: bytes) -> None:
    """Replaces a file atomically: its readers see the old content or all of the new, also after a crash."""
    with replace_file(path) as file:
        file.write(content)


def _split_shards(tensors: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
    shards: list[dict[str, Tensor]] = [{}]
    room = SHARD_BYTES
    for name, tensor in tensors.items():
        if shards[-1] and tensor.nbytes > room:
            shards.append({})
            room = SHARD_BYTES
        shards[-1][name] = tensor
        room -= tensor.nbytes
    return shards


def _drop(directory: Path, *names: str) -> None:
    for path in (directory / name for name in names):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _read_json(path: Path) -> bytes:
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise CheckpointError(path, f"larger than {MAX_JSON_BYTES} bytes, so it is no file of ours")
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(path, error.strerror or str(error)) from error


def _parse(path: Path, content: bytes, schema: Any) -> Any:
    try:
        return TypeAdapter(schema).validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise CheckpointError(path, f"{where}: {first['msg']}") from error


def _read_weights(directory: Path, files: Mapping[str, str], shapes: Mapping[str, torch.Size]) -> dict[str, Tensor]:
    stored: dict[str, Tensor] = {}
    for name, expected in files.items():
        path = directory / name
        try:
            content = path.read_bytes()
        except OSError as error:
            raise CheckpointError(path, error.strerror or str(error)) from error
        if hashlib.sha256(content).hexdigest() != expected:
            raise CheckpointError(path, "its SHA-256 is not the one in config.json: damaged, cut short or foreign")
        try:
            stored |= parse_tensors(content)
        except SafetensorError as error:
            raise CheckpointError(path, f"no valid safetensors file: {error}") from error
    try:
        weights = decode_tensors(stored)
    except ValueError as error:
        raise CheckpointError(directory, str(error)) from error
    if missing := sorted(shapes.keys() - weights.keys()):
        raise CheckpointError(directory, f"weights are missing: {', '.join(missing)}")
    if unknown := sorted(weights.keys() - shapes.keys()):
        raise CheckpointError(directory, f"weights that the method does not know: {', '.join(unknown)}")
    for name, tensor in weights.items():
        if tensor.shape != shapes[name]:
            raise CheckpointError(directory, f"{name} has shape {tuple(tensor.shape)}, not {tuple(shapes[name])}")
        if not torch.isfinite(tensor).all():
            raise CheckpointError(directory, f"{name} holds numbers that are not finite")
    return weights
