"""Checkpoints of models for sequences. They have the files of other checkpoints, and a `config.json` of their own kind.

As there, `config.json` is written last and holds the SHA-256 of each weight file, and nothing is pickled.
"""

import dataclasses
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from typing_extensions import TypeAliasType

from models.checkpoint_files import (
    MAX_JSON_BYTES,
    build_empty,
    check_digest,
    check_file_names,
    drop,
    drop_old_weights,
    dump_json,
    find_fields,
    name_checkpoint,
    parse_config,
    parse_json,
    read_bounded,
    read_weights,
    write_file,
    write_weights,
)
from models.schema import STRICT
from models.sequences.calibration import PassageCalibration
from models.sequences.sampler import SequenceSampler, SequenceSamplerConfig
from models.sequences.strokes import StrokesSpec
from models.sequences.text import TextSpec
from models.stored_tensors import Storage

MEASURED = ("calibration.json", "metrics.json", "README.md", "figures")
"""Files that belong to one version of the weights."""


SequenceInput = TypeAliasType("SequenceInput", Annotated[TextSpec | StrokesSpec, Field(discriminator="kind")])
"""What a sequence consists of."""


@dataclass(frozen=True, config=STRICT)
class SequenceTraining:
    """The origin of a checkpoint."""

    recipe: str
    command: str
    dataset: str
    updates: Annotated[int, Field(ge=0)]
    planned_updates: Annotated[int, Field(ge=1)]
    seed: Annotated[int, Field(ge=0)]
    licence: str | None = None
    """Licence of the data, and whom it names, if that obliges those who pass the weights on."""


@dataclass(frozen=True, config=STRICT)
class SequenceConfig:
    """The content of `config.json`."""

    kind: Literal["sequence"]
    sampler: SequenceSamplerConfig
    input: SequenceInput
    training: SequenceTraining
    files: dict[str, str] = Field(default_factory=dict)
    """SHA-256 of each weight file, by name; `save_sequence_checkpoint` fills it in."""
    format_version: Literal[1] = 1

    def __post_init__(self) -> None:
        target, spec = self.sampler.target, self.input
        if (target.input_size, target.num_outputs) != (spec.num_inputs, spec.num_outputs):
            raise ValueError(
                f"{spec.kind} has {spec.num_inputs} inputs and {spec.num_outputs} outputs, but the target "
                f"{target.input_size} and {target.num_outputs}"
            )
        check_file_names(self.files)


@dataclasses.dataclass(frozen=True, eq=False)
class SequenceCheckpoint:
    """A loaded checkpoint, ready to sample from."""

    name: str
    """Name of its directory."""
    version: str
    """SHA-256 over config.json and calibration.json, in hexadecimal."""
    config: SequenceConfig
    sampler: SequenceSampler
    calibration: PassageCalibration | None
    metrics: Mapping[str, Any] | None


def is_sequence_checkpoint(directory: Path) -> bool:
    """Whether a directory's config.json is that of a model for sequences. Damaged ones are not.

    Raises:
        CheckpointError: if the file cannot be read.
    """
    return "kind" in find_fields(read_bounded(directory / "config.json", MAX_JSON_BYTES))


def save_sequence_checkpoint(
    directory: Path, config: SequenceConfig, sampler: SequenceSampler, storage: Storage
) -> None:
    """Writes the weights and config.json, and drops what was measured for other weights.

    Args:
        directory: created if missing.
        config: `files` is filled in here.
        sampler: in the state to be served.
        storage: how matrices are stored.
    """
    directory.mkdir(parents=True, exist_ok=True)
    drop(directory, *MEASURED)
    files = write_weights(directory, sampler.state_dict(), storage)
    write_file(directory / "config.json", dump_json(dataclasses.replace(config, files=files)))
    drop_old_weights(directory, files)


def save_passage_calibration(directory: Path, calibration: PassageCalibration) -> None:
    """Writes calibration.json, and drops metrics and card, which belong to another version."""
    drop(directory, "metrics.json", "README.md")
    write_file(directory / "calibration.json", dump_json(calibration))


def load_sequence_checkpoint(
    directory: Path, device: torch.device | str = "cpu", *, most_bytes: int | None = None
) -> SequenceCheckpoint:
    """Reads a checkpoint, checks every part of it, and returns its sampler in evaluation mode.

    Args:
        directory: the checkpoint's directory.
        device: where to put the sampler.
        most_bytes: largest size of the weights, in bytes.

    Raises:
        CheckpointError: if a file is missing, damaged, foreign, or does not match the others.
    """
    path = directory / "config.json"
    content = read_bounded(path, MAX_JSON_BYTES)
    config: SequenceConfig = parse_config(path, content, SequenceConfig)
    sampler = build_empty(path, config.sampler.build, most_bytes)
    sampler.load_state_dict(read_weights(directory, config.files, sampler.state_dict()), assign=True)
    calibration_bytes, calibration, path = b"", None, directory / "calibration.json"
    if os.path.lexists(path):
        calibration_bytes = read_bounded(path, MAX_JSON_BYTES)
        calibration = parse_json(path, calibration_bytes, PassageCalibration)
        check_digest(path, calibration.checkpoint, content)
    metrics, path = None, directory / "metrics.json"
    if os.path.lexists(path):
        metrics = parse_json(path, read_bounded(path, MAX_JSON_BYTES), dict[str, Any])
    return SequenceCheckpoint(
        name=name_checkpoint(directory),
        version=hashlib.sha256(content + calibration_bytes).hexdigest(),
        config=config,
        sampler=sampler.to(device).eval().requires_grad_(False),
        calibration=calibration,
        metrics=metrics,
    )
