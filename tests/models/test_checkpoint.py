import hashlib
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from models.checkpoint import load_checkpoint, save_calibration, save_checkpoint
from models.checkpoint_files import CheckpointError, digest_config, dump_json, write_file
from models.predictions.calibration_origin import Seeds
from models.predictions.detection import Calibration
from models.predictions.size_calibration import ClassCalibration, SizeCalibration
from models.samplers.deep_ensemble import DeepEnsembleConfig
from models.samplers.hypergan import HyperGAN
from models.samplers.sampler import WeightSampler
from models.stored_tensors import Storage, decode_tensors, encode_tensors
from tests.checkpoints import edit, make_config, rewrite_weights
from tests.conftest import SMALL_CONFIG, SMALL_TARGET

CALIBRATION = Calibration(
    checkpoint="0" * 64,
    split="test/calibration",
    n=9,
    seeds=Seeds(0, 1),
    temperature_split="test/validation",
    rates=(0.1, 0.2),
    sizes=tuple(
        SizeCalibration(
            size,
            {"out_of_distribution": "predictive_entropy", "suspect_adversarial": "fragility"},
            {"out_of_distribution": (0.9, 0.8), "suspect_adversarial": (0.7, 0.6)},
            ClassCalibration(0.9, (0.1, 0.2)),
        )
        for size in (1, 5)
    ),
)


@pytest.fixture
def sampler() -> WeightSampler:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return HyperGAN(SMALL_CONFIG, SMALL_TARGET).eval()


@pytest.fixture
def saved(sampler: WeightSampler, tmp_path: Path) -> Path:
    save_checkpoint(tmp_path / "model", make_config(sampler), sampler, "float32")
    return tmp_path / "model"


@pytest.mark.parametrize(("storage", "bits"), [("float32", 23), ("bfloat16", 7), ("int8", 7)])
def test_storage_rounds_as_it_says(storage: Storage, bits: int) -> None:
    tensors = {
        "matrix": torch.randn(20, 300, generator=torch.Generator().manual_seed(0)) * torch.logspace(-6, 3, 20)[:, None],
        "zeros": torch.zeros(3, 4),
        "vector": torch.randn(7, generator=torch.Generator().manual_seed(1)),
        "count": torch.tensor(5),
    }
    decoded = decode_tensors(encode_tensors(tensors, storage))
    assert decoded.keys() == tensors.keys()
    assert torch.equal(decoded["vector"], tensors["vector"])
    assert torch.equal(decoded["count"], tensors["count"])
    assert torch.equal(decoded["zeros"], tensors["zeros"])
    largest = tensors["matrix"].abs().amax(1, keepdim=True)
    assert ((decoded["matrix"] - tensors["matrix"]).abs() <= largest * 2.0**-bits * 0.51).all()


def test_version_is_a_digest_of_the_content(saved: Path, sampler: WeightSampler) -> None:
    version = load_checkpoint(saved).version
    assert len(version) == 64
    shutil.copytree(saved, saved.parent / "copy")
    assert load_checkpoint(saved.parent / "copy").version == version
    with torch.no_grad():
        next(sampler.parameters()).flatten()[0] += 1e-3
    save_checkpoint(saved, make_config(sampler), sampler, "float32")
    assert load_checkpoint(saved).version != version


def test_saving_again_drops_what_was_measured_for_other_weights(saved: Path, sampler: WeightSampler) -> None:
    for name in ("calibration.json", "metrics.json", "README.md"):
        (saved / name).write_text("stale")
    save_checkpoint(saved, make_config(sampler), sampler, "float32")
    assert sorted(path.name for path in saved.iterdir()) == ["config.json", "model.safetensors"]


@pytest.mark.parametrize("storage", ["float32", "int8"])
def test_large_weights_are_sharded(
    sampler: WeightSampler, tmp_path: Path, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_checkpoint(tmp_path / "whole", make_config(sampler), sampler, storage)
    monkeypatch.setattr("models.stored_tensors.SHARD_BYTES", 2_000)
    save_checkpoint(tmp_path / "model", make_config(sampler), sampler, storage)
    loaded = load_checkpoint(tmp_path / "model")
    shards = sorted(path.name for path in (tmp_path / "model").glob("*.safetensors"))
    assert len(shards) > 2
    assert shards == list(loaded.config.files)
    assert shards[1] == f"model-00002-of-{len(shards):05}.safetensors"
    for shard in shards:
        tensors = load_file(tmp_path / "model" / shard)
        assert len(tensors) == 1 or sum(tensor.nbytes for tensor in tensors.values()) <= 2_000
    whole = load_checkpoint(tmp_path / "whole").sampler.state_dict()
    for name, tensor in loaded.sampler.state_dict().items():
        assert torch.equal(tensor, whole[name])
    monkeypatch.undo()
    save_checkpoint(tmp_path / "model", make_config(sampler), sampler, storage)
    assert [path.name for path in (tmp_path / "model").glob("*.safetensors")] == ["model.safetensors"]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_file(path, b"old")

    def fail(descriptor: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        write_file(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)


WEIGHT = "mixer.1.weight"
REGRESSION = {"kind": "regression", "names": ["y"], "mean": [0], "std": [1], "noise_std": [1]}
VECTOR = {"kind": "vector", "names": ["x"], "mean": [0], "std": [1]}


def save_ensemble_of_two(directory: Path) -> None:
    """With a calibration for five."""
    sampler = DeepEnsembleConfig(networks=2).build(SMALL_TARGET).eval()
    save_checkpoint(directory, make_config(sampler), sampler, "float32")
    save_calibration(directory, replace(CALIBRATION, checkpoint=digest_config(directory)))


def calibrate_energy(directory: Path) -> None:
    sizes = tuple(replace(s, scores={**s.scores, "out_of_distribution": "energy"}) for s in CALIBRATION.sizes)
    save_calibration(directory, replace(CALIBRATION, checkpoint=digest_config(directory), sizes=sizes))


DAMAGES: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "no config": (lambda d: (d / "config.json").unlink(), "config.json", "No such file"),
    "config cut short": (
        lambda d: (d / "config.json").write_bytes((d / "config.json").read_bytes()[:200]),
        "config.json",
        "Invalid JSON",
    ),
    "config of something else": (
        lambda d: (d / "config.json").write_text('{"model_type": "bert"}'),
        "config.json",
        "method: Field required",
    ),
    "huge config": (lambda d: (d / "config.json").write_text(" " * 5_000_000), "config.json", "larger than"),
    "unknown method": (
        lambda d: edit(d / "config.json", lambda c: c["method"].update(method="gpt")),
        "config.json",
        "method",
    ),
    "unknown layer": (
        lambda d: edit(d / "config.json", lambda c: c["target"]["layers"][0].update(kind="attention")),
        "config.json",
        "attention",
    ),
    "future format": (lambda d: edit(d / "config.json", lambda c: c.update(format_version=3)), "config.json", "Input"),
    "huge layer": (
        lambda d: edit(d / "config.json", lambda c: c["method"].update(hidden_size=10**12)),
        "config.json",
        "less than or equal",
    ),
    "path outside": (
        lambda d: edit(d / "config.json", lambda c: c.update(files={"../other.safetensors": "0"})),
        "config.json",
        "not the name of a safetensors file inside",
    ),
    "absolute path": (
        lambda d: edit(d / "config.json", lambda c: c.update(files={"/etc/x.safetensors": "0"})),
        "config.json",
        "not the name of a safetensors file inside",
    ),
    "no weights": (lambda d: (d / "model.safetensors").unlink(), "model.safetensors", "No such file"),
    "bit flip": (lambda d: flip_a_bit(d / "model.safetensors"), "model.safetensors", "SHA-256"),
    "cut short": (
        lambda d: (d / "model.safetensors").write_bytes((d / "model.safetensors").read_bytes()[:-8]),
        "model.safetensors",
        "SHA-256",
    ),
    "no safetensors": (
        lambda d: (
            (d / "model.safetensors").write_bytes(b"\x80\x04pickle"),
            edit(
                d / "config.json",
                lambda c: c["files"].update({"model.safetensors": hashlib.sha256(b"\x80\x04pickle").hexdigest()}),
            ),
        ),
        "model.safetensors",
        "not a valid safetensors file",
    ),
    "missing tensor": (lambda d: rewrite_weights(d, lambda t: t.pop(WEIGHT)), "model", "are missing: mixer.1.weight"),
    "extra tensor": (
        lambda d: rewrite_weights(d, lambda t: t.update(extra=torch.zeros(1))),
        "model",
        "unknown to the method: extra",
    ),
    "wrong shape": (
        lambda d: rewrite_weights(d, lambda t: t.update({WEIGHT: torch.zeros(2, 2)})),
        "model",
        "has shape (2, 2)",
    ),
    "not finite": (
        lambda d: rewrite_weights(d, lambda t: t[WEIGHT].fill_(float("nan"))),
        "model",
        "not finite",
    ),
    "int8 without scale": (
        lambda d: rewrite_weights(d, lambda t: t.update({WEIGHT: t[WEIGHT].to(torch.int8)})),
        "model",
        "needs mixer.1.weight.scale",
    ),
    "another method": (
        lambda d: edit(d / "config.json", lambda c: c.update(method={"method": "mlp"})),
        "",
        "weights are missing: layers.0.bias",
    ),
    "another task": (
        lambda d: edit(d / "config.json", lambda c: c.update(task=REGRESSION)),
        "config.json",
        "the task needs 1 outputs, but the target has 5",
    ),
    "another input": (
        lambda d: edit(d / "config.json", lambda c: c.update(input=VECTOR)),
        "config.json",
        "the target takes (1, 12, 12)",
    ),
    "calibration of another": (
        lambda d: (d / "calibration.json").write_bytes(dump_json(CALIBRATION)),
        "calibration.json",
        "a different checkpoint",
    ),
    "calibration of more networks than there are": (
        save_ensemble_of_two,
        "calibration.json",
        "calibrates ensembles of 5 networks, but the sampler has only 2",
    ),
    "calibration of another score": (
        calibrate_energy,
        "calibration.json",
        "raised by predictive_entropy or mutual_information, not by energy",
    ),
    "calibration cut short": (lambda d: (d / "calibration.json").write_text("{"), "calibration.json", "Invalid JSON"),
    "metrics cut short": (lambda d: (d / "metrics.json").write_text("[1"), "metrics.json", "Invalid JSON"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_refused_with_file_and_reason(saved: Path, damage: str) -> None:
    act, file, reason = DAMAGES[damage]
    act(saved)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(saved)
    path, _, explanation = str(caught.value).partition(": ")
    assert path.endswith(file)
    assert reason in explanation
