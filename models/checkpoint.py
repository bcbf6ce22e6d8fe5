"""Checkpoints: a directory of config.json, weight files and, where measured, calibration.json and metrics.json.

Nothing is pickled. `config.json` holds the SHA-256 of each weight file, and `calibration.json` that of `config.json`.
The digest of these two is the model's version, and stands for every byte that an answer depends on. `config.json` is
written last: a reader sees the old checkpoint, the new one, or a wrong checksum, never a mixture that loads.
"""

import dataclasses
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, SerializerFunctionWrapHandler, model_serializer
from pydantic.dataclasses import dataclass
from safetensors.torch import save as serialize_tensors

from models.backbones.backbone import MAX_BYTES, Backbone, BackboneError, BackboneSpec, load_backbone, look_through
from models.checkpoint_files import (
    MAX_JSON_BYTES,
    CheckpointError,
    build_empty,
    check_digest,
    check_file_names,
    count_bytes,
    drop,
    drop_old_weights,
    dump_json,
    name_checkpoint,
    parse_config,
    parse_json,
    parse_tensors,
    read_bounded,
    read_weights,
    write_file,
    write_weights,
)
from models.inputs.image import ImageSpec
from models.inputs.kind import InputKind
from models.inputs.spec import InputSpec
from models.predictions.anchor import Anchor
from models.predictions.density import FeatureDensity, bound_density_bytes, pack_density, unpack_density
from models.predictions.detection import Calibration, check_calibration
from models.samplers.apd import APDConfig
from models.samplers.deep_ensemble import DeepEnsembleConfig
from models.samplers.deutsch import DeutschConfig
from models.samplers.hyperdraw import HyperDrawConfig
from models.samplers.hypergan import HyperGANConfig
from models.samplers.laplace import LaplaceConfig
from models.samplers.mc_dropout import MCDropoutConfig
from models.samplers.mlp import MLPConfig
from models.samplers.mnf import MNFConfig
from models.samplers.sampler import WeightSampler
from models.samplers.static_hypernetwork import StaticHypernetworkConfig
from models.schema import STRICT, Shape
from models.stored_tensors import Storage
from models.targets.target import TargetNetwork
from models.tasks.task import Task

DENSITY_FILE = "density.safetensors"
"""The density of the training's prepared inputs, if flags look at it. It belongs to the calibration."""

MEASURED = ("metrics.json", "report.json", "README.md")
"""Files that belong to one version of a checkpoint, beside its weights and its calibration."""

MEASURED_OF_WEIGHTS = ("attack.json", "certificates.json", "figures")
"""Files that a new calibration keeps. They took hours, and state their calibration or depend on weights alone."""

MethodConfig = Annotated[
    HyperDrawConfig
    | HyperGANConfig
    | DeutschConfig
    | MLPConfig
    | DeepEnsembleConfig
    | MCDropoutConfig
    | LaplaceConfig
    | StaticHypernetworkConfig
    | MNFConfig
    | APDConfig,
    Field(discriminator="method"),
]


@dataclass(frozen=True, config=STRICT)
class Training:
    """The origin of a checkpoint."""

    recipe: str
    command: str
    dataset: str
    steps: int
    planned_steps: int
    seed: int
    failure: str | None = None
    """The reason why the training ended before its last step, unless it was interrupted."""
    largest_ensemble: Annotated[int, Field(ge=1, le=10_000)] = 100
    """Size of the largest ensemble that is calibrated and evaluated, if there are that many networks."""
    folds: Annotated[int, Field(ge=2)] | None = None
    """Number of folds that calibrated the checkpoint, if nothing was held out for that."""


@dataclass(frozen=True, config=STRICT)
class CheckpointConfig:
    """The content of `config.json`."""

    method: MethodConfig
    target: TargetNetwork
    input: InputSpec
    task: Task
    training: Training
    files: dict[str, str] = Field(default_factory=dict)
    """SHA-256 of each weight file, by name; `save_checkpoint` fills it in."""
    format_version: Literal[2] = 2
    backbone: BackboneSpec | None = None
    """The pretrained network whose features the target takes instead of images, if any."""

    def __post_init__(self) -> None:
        if self.task.num_outputs != self.target.num_outputs:
            needs, has = self.task.num_outputs, self.target.num_outputs
            raise ValueError(f"the task needs {needs} outputs, but the target has {has}")
        if self.backbone is not None and not isinstance(self.input, ImageSpec):
            raise ValueError(f"a backbone takes images, but the input is {self.input}")
        if self.target.input_shape != self.feature_shape:
            given = self.input if self.backbone is None else self.backbone
            raise ValueError(f"the target takes {self.target.input_shape}, but the input is {given}")
        check_file_names(self.files)

    @property
    def feature_shape(self) -> Shape:
        """Shape of what the target takes."""
        return self.input.prepared_shape if self.backbone is None else self.backbone.feature_shape

    @model_serializer(mode="wrap")
    def _leave_out_what_is_new(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without a backbone the file is what it was before there were any."""
        content: dict[str, Any] = serialize(self)
        if self.backbone is None:
            del content["backbone"]
        return content


@dataclasses.dataclass(frozen=True, eq=False)
class Checkpoint:
    """A loaded checkpoint, ready to sample from."""

    name: str
    """Name of its directory."""
    version: str
    """SHA-256 over config.json and calibration.json, in hexadecimal."""
    config: CheckpointConfig
    sampler: WeightSampler
    calibration: Calibration | None
    metrics: Mapping[str, Any] | None
    density: FeatureDensity | None = None
    """Density of the training's prepared inputs, if it is known."""
    backbone: Backbone | None = None

    @property
    def input(self) -> InputKind:
        """What the target sees of an input: features, if there is a backbone."""
        return look_through(self.config.input, self.backbone)

    @property
    def default_size(self) -> int:
        """Size of an ensemble when none is given: as many networks as it was evaluated with."""
        return self.sampler.limit_networks(self.config.training.largest_ensemble)


def save_checkpoint(directory: Path, config: CheckpointConfig, sampler: WeightSampler, storage: Storage) -> None:
    """Writes the weights and config.json, and drops what was measured for other weights.

    Args:
        directory: created if missing.
        config: `files` is filled in here.
        sampler: in the state to be served.
        storage: how matrices are stored.
    """
    directory.mkdir(parents=True, exist_ok=True)
    drop(directory, "calibration.json", DENSITY_FILE, *MEASURED, *MEASURED_OF_WEIGHTS)
    files = write_weights(directory, sampler.state_dict(), storage)
    write_file(directory / "config.json", dump_json(dataclasses.replace(config, files=files)))
    drop_old_weights(directory, files)


def save_calibration(directory: Path, calibration: Calibration, density: FeatureDensity | None = None) -> None:
    """Writes calibration.json, and drops metrics, report and card, which belong to another version.

    Args:
        directory: the checkpoint's directory.
        calibration: `density` is filled in here.
        density: density of the training's prepared inputs, if scores depend on it; written to a file of its own.
    """
    drop(directory, DENSITY_FILE, *MEASURED)
    if density is not None:
        content = serialize_tensors(pack_density(density))
        write_file(directory / DENSITY_FILE, content)
        calibration = dataclasses.replace(calibration, density=hashlib.sha256(content).hexdigest())
    write_file(directory / "calibration.json", dump_json(calibration))


def load_checkpoint(
    directory: Path,
    device: torch.device | str = "cpu",
    *,
    with_measurements: bool = True,
    most_bytes: int | None = None,
) -> Checkpoint:
    """Reads a checkpoint, checks every part of it, and returns its sampler in evaluation mode.

    Only the calling thread reads, which leaves the other cores free.

    Args:
        directory: the checkpoint's directory.
        device: where to put the sampler.
        with_measurements: whether to read calibration and metrics; otherwise they count as missing.
        most_bytes: largest size of the weights and the backbone, in bytes.

    Raises:
        CheckpointError: if a file is missing, damaged, foreign, or does not match the others.
    """
    path = directory / "config.json"
    config_bytes = read_bounded(path, MAX_JSON_BYTES)
    config: CheckpointConfig = parse_config(path, config_bytes, CheckpointConfig)
    sampler: WeightSampler = build_empty(path, lambda: config.method.build(config.target), most_bytes)
    sampler.load_state_dict(read_weights(directory, config.files, sampler.state_dict()), assign=True)
    sampler = sampler.to(device).eval().requires_grad_(False)
    backbone = _load_backbone(directory, config, MAX_BYTES if most_bytes is None else most_bytes - count_bytes(sampler))

    path, calibration_bytes, calibration, density = directory / "calibration.json", b"", None, None
    if with_measurements and os.path.lexists(path):
        calibration_bytes = read_bounded(path, MAX_JSON_BYTES)
        calibration = parse_json(path, calibration_bytes, Calibration)
        check_digest(path, calibration.checkpoint, config_bytes)
        try:
            check_calibration(calibration, config.task, look_through(config.input, backbone), sampler.num_networks)
        except ValueError as error:
            raise CheckpointError(path, str(error)) from error
        if calibration.density:
            anchor = Anchor(sampler) if isinstance(config.input, ImageSpec) and not backbone else None
            density = _read_density(directory / DENSITY_FILE, calibration.density, config, anchor)
    metrics, path = None, directory / "metrics.json"
    if with_measurements and os.path.lexists(path):
        metrics = parse_json(path, read_bounded(path, MAX_JSON_BYTES), dict[str, Any])
    return Checkpoint(
        name=name_checkpoint(directory),
        version=hashlib.sha256(config_bytes + calibration_bytes).hexdigest(),
        config=config,
        sampler=sampler,
        calibration=calibration,
        metrics=metrics,
        backbone=backbone,
        density=density,
    )


def _load_backbone(directory: Path, config: CheckpointConfig, most_bytes: int) -> Backbone | None:
    if config.backbone is None:
        return None
    assert isinstance(config.input, ImageSpec)
    try:
        return load_backbone(config.backbone.find_file(directory), config.input, config.backbone, most_bytes)
    except BackboneError as error:
        raise CheckpointError(error.path, error.reason) from error.__cause__


def _read_density(path: Path, digest: str, config: CheckpointConfig, anchor: Anchor | None) -> FeatureDensity:
    features = anchor.num_features if anchor else config.target.input_shape[0]
    tensors = parse_tensors(path, read_bounded(path, bound_density_bytes(features)), digest, "calibration.json")
    try:
        return dataclasses.replace(unpack_density(tensors, features), anchor=anchor)
    except ValueError as error:
        raise CheckpointError(path, str(error)) from error
