"""Models that cannot be served, beside others that are."""

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from safetensors.torch import save_file

from models.checkpoint import CheckpointConfig, Training, save_checkpoint
from models.inputs.image import ImageSpec
from models.samplers.deep_ensemble import DeepEnsembleConfig
from models.targets.layers import Convolution, Flatten, GlobalPooling, Linear
from models.targets.target import TargetNetwork
from models.tasks.classification import Classification
from service.app import create_app
from service.catalog import Catalog, ConfigurationError
from service.engine.engine import Engine
from service.settings import Settings
from tests.checkpoints import convert, edit, rewrite_weights, set_layers
from tests.conftest import serve
from tests.pictures import draw_image, encode

PICTURE: dict[str, Any] = {"content": encode(draw_image(size=(8, 8))), "headers": {"Content-Type": "image/png"}}


@pytest.fixture
def saved(checkpoints: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(checkpoints / "digits", tmp_path / "store" / "odd"))


def save_slow(directory: Path, *convolutions: Convolution) -> None:
    """A small checkpoint of networks that take long, or much."""
    target = TargetNetwork((1, 8, 8), (*convolutions, GlobalPooling(), Flatten(), Linear(2)))
    sampler = DeepEnsembleConfig(1).build(target).eval()
    spec, task = ImageSpec(1, 8, 8, (0.0,), (1.0,)), Classification(("a", "b"))
    training = Training("test", "none", "digits", 0, 0, 0)
    config = CheckpointConfig(sampler.config, target, spec, task, training)
    save_checkpoint(directory, config, sampler, "float32")


@pytest.fixture
def odd_ones(saved: Path) -> dict[str, str]:
    """Checkpoints beside a good one, and why they are refused."""
    store = saved.parent
    shutil.copytree(saved, store / "good")
    os.mkfifo(store / "odd" / "pipe")
    (store / "odd" / "config.json").unlink()
    (store / "odd" / "config.json").symlink_to(store / "odd" / "pipe")
    for dtype in (torch.int32, torch.bool, torch.complex64):
        directory = shutil.copytree(store / "good", store / str(dtype))
        rewrite_weights(directory, lambda tensors, dtype=dtype: convert(tensors, [], dtype))  # type: ignore[misc]
    shutil.copytree(store / "good", store / "dangling")
    (store / "dangling" / "calibration.json").unlink()
    (store / "dangling" / "calibration.json").symlink_to("nowhere")
    shutil.copytree(store / "good", store / "bare")
    (store / "bare" / "examples").mkdir()
    entry = {"file": "away.png", "caption": "a stroke", "source": "drawn", "licence": "Apache-2.0"}
    (store / "bare" / "examples" / "examples.json").write_text(json.dumps([entry]))
    shutil.copytree(store / "good", store / "huge")
    huge = {"kind": "conv", "channels": 65536, "kernel_size": 1, "padding": 65536}
    edit(store / "huge" / "config.json", set_layers(huge))
    save_slow(store / "slow", Convolution(8, 1), Convolution(1, 500, padding=5000))
    save_slow(store / "wide", Convolution(1, 1, padding=14_000))
    return {
        "odd": "config.json: not a regular file",
        "torch.int32": "is int32, not",
        "torch.bool": "is bool, not",
        "torch.complex64": "is complex64, not",
        "bare": "examples/away.png: No such file or directory",
        "dangling": "calibration.json: No such file or directory",
        "huge": "more than the 4096 MiB allowed",
        "slow": "multiplications per input, more than 5e+10",
        "wide": "MiB per input, more than the 4096 MiB allowed",
    }


def test_odd_checkpoints_are_listed_with_their_reasons_and_hide_no_other(saved: Path, odd_ones: dict[str, str]) -> None:
    with serve(create_app(Settings(checkpoints=saved.parent, default_model="odd"))) as address:
        listed = httpx.get(f"{address}/v1/models").json()
        assert [model["name"] for model in listed["models"]] == ["good"]
        refused = {entry["name"]: entry["reason"] for entry in listed["refused"]}
        assert refused.keys() == odd_ones.keys()
        for name, reason in odd_ones.items():
            assert reason in refused[name]
            assert httpx.post(f"{address}/v1/models/{name}:reload").status_code == 409
    shutil.rmtree(saved.parent / "good")
    with pytest.raises(ConfigurationError) as caught:
        create_app(Settings(checkpoints=saved.parent))
    for reason in odd_ones.values():
        assert reason in str(caught.value)


def test_damaged_checkpoints_are_refused_and_the_others_served(checkpoints: Path, tmp_path: Path) -> None:
    shutil.copytree(checkpoints / "digits", tmp_path / "good")
    shutil.copytree(checkpoints / "digits", tmp_path / "damaged")
    (tmp_path / "damaged" / "model.safetensors").write_bytes(b"damaged")
    with serve(create_app(Settings(checkpoints=tmp_path))) as address:
        models = httpx.get(f"{address}/v1/models").json()
        assert [model["name"] for model in models["models"]] == ["good"]
        assert models["refused"][0]["name"] == "damaged"
        assert "model.safetensors: its SHA-256" in models["refused"][0]["reason"]
        assert str(tmp_path) not in models["refused"][0]["reason"]
        response = httpx.post(f"{address}/v1/models/damaged/predict", **PICTURE)
        assert response.status_code == 503
        assert "model.safetensors" in response.json()["error"]["message"]


@pytest.mark.parametrize("error", [TypeError("a\x1b[31mb"), RecursionError("deep"), AssertionError(), KeyError("k")])
def test_an_unexpected_exception_refuses_one_model_with_a_traceback_in_the_log(
    saved: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    shutil.copytree(saved, saved.parent / "good")
    load = Engine.load

    def load_some(engine: Engine, directory: Path, *arguments: Any) -> Any:
        if directory.name == "odd":
            raise error
        return load(engine, directory, *arguments)

    monkeypatch.setattr(Engine, "load", load_some)
    engine = Engine(torch.device("cpu"))
    catalog = Catalog(saved.parent, engine, None)
    assert [model.name for model in catalog] == ["good"]
    assert catalog.refused["odd"].startswith(f"odd: {type(error).__name__}")
    assert "\x1b" not in catalog.refused["odd"]
    assert any(record.exc_info for record in caplog.records)
    engine.close()


def test_a_long_list_of_names_makes_no_long_reason(saved: Path) -> None:
    tensors = {f"{'x' * 100}{i}": torch.zeros(1) for i in range(1000)}
    save_file(tensors, saved / "model.safetensors")
    digest = hashlib.sha256((saved / "model.safetensors").read_bytes()).hexdigest()
    edit(saved / "config.json", lambda config: config["files"].update({"model.safetensors": digest}))
    shutil.copytree(saved, saved.parent / "good")
    (saved.parent / "good" / "config.json").write_text(json.dumps({}))
    engine = Engine(torch.device("cpu"))
    with pytest.raises(ConfigurationError) as caught:
        Catalog(saved.parent, engine, None)
    assert len(str(caught.value)) < 2000
    engine.close()
