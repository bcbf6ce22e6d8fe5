"""Checkpoints on disk, made and changed."""

import hashlib
import json
import shutil
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from models.checkpoint import CheckpointConfig, Training, load_checkpoint, save_calibration, save_checkpoint
from models.checkpoint_files import digest_config
from models.inputs.columns import CategoryColumn, DateColumn, NumberColumn
from models.inputs.image import ImageSpec
from models.inputs.table import TableSpec
from models.inputs.vector import VectorSpec
from models.samplers.hyperdraw import HyperDrawConfig
from models.samplers.sampler import WeightSampler
from models.targets.layers import Activation, Linear
from models.targets.target import TargetNetwork
from models.tasks.classification import Classification
from models.tasks.regression import Regression

TRAINING = Training("test", "none", "digits", 0, 0, 0)


def make_config(sampler: WeightSampler) -> CheckpointConfig:
    """Of a sampler of networks for small images of five classes."""
    return CheckpointConfig(
        method=sampler.config,  # type: ignore[arg-type]  # an nn.Module promises a Tensor or Module
        target=sampler.target,
        input=ImageSpec(channels=1, height=12, width=12, mean=(0.5,), std=(0.5,)),
        task=Classification(("a", "b", "c", "d", "e")),
        training=TRAINING,
    )


def save_curve(directory: Path) -> None:
    """Saves a model of one number in, one number out, not trained."""
    target = TargetNetwork((1,), (Linear(16), Activation(), Linear(1)))
    sampler = HyperDrawConfig(modes=8, latent_size=4).build(target).eval()
    spec = VectorSpec(names=("x",), mean=(0.0,), std=(2.0,))
    task = Regression(names=("y",), mean=(1.0,), std=(3.0,), noise_std=(0.5,))
    training = Training("test", "none", "cubic", 0, 0, 0)
    save_checkpoint(directory, CheckpointConfig(sampler.config, target, spec, task, training), sampler, "float32")


def save_table(directory: Path) -> None:
    """Saves a model that classifies rows of a table, not trained."""
    spec = TableSpec(
        (
            NumberColumn("age", missing=True, mean=40.0, std=10.0, least=18.0, greatest=90.0),
            CategoryColumn("sex", missing=False, categories=("f", "m"), others=False),
            DateColumn(
                "since", missing=False, mean=18_262.0, std=500.0, least=17_000.0, greatest=19_000.0, times=False
            ),
        )
    )
    (features,) = spec.prepared_shape
    target = TargetNetwork((features,), (Linear(8), Activation(), Linear(3)))
    sampler = HyperDrawConfig(modes=4, latent_size=4).build(target).eval()
    training = Training("test", "none", "people.csv:town@0", 0, 0, 0)
    task = Classification(("Bonn", "Rome", "Ulm"))
    save_checkpoint(directory, CheckpointConfig(sampler.config, target, spec, task, training), sampler, "float32")


def renew(directory: Path) -> str:
    """Writes another version of a checkpoint, as training does; returns the version."""
    checkpoint = load_checkpoint(directory)
    for parameter in checkpoint.sampler.parameters():
        parameter.mul_(1.001)
    save_checkpoint(directory, checkpoint.config, checkpoint.sampler, "float32")
    renewed = load_checkpoint(directory)
    assert renewed.version != checkpoint.version
    return renewed.version


def vary(directory: Path) -> str:
    """Writes another version of a checkpoint with the same calibration; returns the version."""
    checkpoint = load_checkpoint(directory)
    renew(directory)
    assert checkpoint.calibration is not None
    calibration = replace(checkpoint.calibration, checkpoint=digest_config(directory))
    save_calibration(directory, calibration, checkpoint.density)
    return load_checkpoint(directory).version


def copy_with_another(checkpoint: Path, folder: Path) -> Path:
    """Makes a model's folder: a copy of a checkpoint, and another version of it in `two`. Returns the folder."""
    shutil.copytree(checkpoint, folder)
    shutil.copytree(checkpoint, folder / "two")
    vary(folder / "two")
    return folder


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> object:
    """Changes a file of JSON."""
    content = json.loads(path.read_text())
    change(content)
    return path.write_text(json.dumps(content))


def set_layers(*layers: dict[str, Any], **method: Any) -> Callable[[dict[str, Any]], None]:
    """An edit of config.json that gives its target layers before the last one, and perhaps names a method."""

    def change(config: dict[str, Any]) -> None:
        config["target"]["layers"] = [*layers, {"kind": "flatten"}, {"kind": "linear", "features": 10}]
        if method:
            config["method"] = method

    return change


def rewrite_weights(directory: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """Changes the weights and makes the checksum fit, as somebody who means it would."""
    tensors = load_file(directory / "model.safetensors")
    change(tensors)
    save_file(tensors, directory / "model.safetensors")
    digest = hashlib.sha256((directory / "model.safetensors").read_bytes()).hexdigest()
    edit(directory / "config.json", lambda config: config["files"].update({"model.safetensors": digest}))


def convert(tensors: dict[str, torch.Tensor], names: Collection[str], dtype: torch.dtype) -> None:
    """Gives tensors another type, all of them if no names are given."""
    tensors.update({name: tensors[name].to(dtype) for name in names or list(tensors)})
