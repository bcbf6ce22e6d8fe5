"""Checkpoints of models for sequences: what is written is what is read, and nothing else."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from models.checkpoint import load_checkpoint
from models.checkpoint_files import CheckpointError
from models.sequences.checkpoint import is_sequence_checkpoint, load_sequence_checkpoint, save_sequence_checkpoint
from tests.sequences import HYPER, describe, make_sampler
from training.translation.translator_files import load_translator


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    sampler = make_sampler(HYPER, 3, 2).float()
    save_sequence_checkpoint(tmp_path / "prose", describe(sampler), sampler, "float32")
    return tmp_path / "prose"


def test_a_loaded_sampler_is_the_saved_one(folder: Path) -> None:
    expected = make_sampler(HYPER, 3, 2).float()
    checkpoint = load_sequence_checkpoint(folder)
    assert checkpoint.name == "prose"
    assert checkpoint.config.sampler == expected.config
    latents = expected.draw_latents(0, range(3))
    symbols = torch.zeros(4, 3, dtype=torch.int64)
    assert torch.equal(checkpoint.sampler(symbols, latents)[0], expected(symbols, latents)[0])
    assert not any(parameter.requires_grad for parameter in checkpoint.sampler.parameters())


def test_kinds_are_told_apart(folder: Path, tmp_path: Path) -> None:
    assert is_sequence_checkpoint(folder)
    for content in ("{", "[]", '["kind"]', "[" * 100_000, '{"format_version": 2}'):
        (tmp_path / "config.json").write_text(content)
        assert not is_sequence_checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match="No such file"):
        is_sequence_checkpoint(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("field", "load", "reason"),
    [
        ("kind", load_checkpoint, "this is a model of sequences, where a model of images, tables or vectors is needed"),
        (
            "method",
            load_sequence_checkpoint,
            "this is a model of images, tables or vectors, where a model of sequences",
        ),
        ("translator", load_checkpoint, "this is a translator, where a model of images, tables or vectors is needed"),
        ("kind", load_translator, "this is a model of sequences, where a translator is needed"),
        ("other", load_checkpoint, "method: Field required"),
    ],
)
def test_checkpoints_of_other_kinds_are_named(
    tmp_path: Path, field: str, load: Callable[..., object], reason: str
) -> None:
    (tmp_path / "config.json").write_text(f'{{"{field}": {{}}}}')
    with pytest.raises(CheckpointError, match=f"config.json: {reason}"):
        load(tmp_path, torch.device("cpu"))


def test_measurements_of_other_weights_are_dropped(folder: Path) -> None:
    (folder / "metrics.json").write_text("{}")
    assert load_sequence_checkpoint(folder).metrics == {}
    sampler = make_sampler(HYPER).float()
    save_sequence_checkpoint(folder, describe(sampler), sampler, "bfloat16")
    assert load_sequence_checkpoint(folder).metrics is None


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda config: config["sampler"].update(modes=4), "has shape"),
        (lambda config: config["sampler"]["target"].update(num_outputs=9), "text has 7 inputs and 7 outputs"),
        (lambda config: config["sampler"]["target"]["size"].update(hidden_size=65_536), "describes weights of"),
        (lambda config: config["input"].update(start="é"), "is not among the symbols"),
        (lambda config: config.update(files={"../model.safetensors": ""}), "is not the name of a safetensors file"),
        (lambda config: config.update(more=1), "more: Unexpected keyword argument"),
    ],
)
def test_what_does_not_fit_is_refused(folder: Path, change: object, reason: str) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    assert callable(change)
    change(config)
    path.write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=reason):
        load_sequence_checkpoint(folder, most_bytes=2**26)


def test_damaged_weights_are_refused(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x7f")
    with pytest.raises(CheckpointError, match=r"its SHA-256 is not the one in config\.json"):
        load_sequence_checkpoint(folder)
