"""Classifiers in ONNX files become an ensemble."""

import re
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from typer.testing import CliRunner, Result

from models.checkpoint import load_checkpoint
from models.inputs.image import ImageSpec
from models.inputs.pixels import decode_image
from models.predictions.prediction import evaluate
from service.app import create_app
from service.settings import Settings
from tests.backbones import make_onnx, write_onnx
from tests.conftest import serve
from tests.training.data.test_own_images import draw_class, write_folder
from training.__main__ import app

SHAPE = ("batch", 1, "height", "width")


@pytest.fixture(autouse=True)
def _keep_features_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def make_member(
    seed: int, classes: int = 2, *, softmax: bool = False, shape: tuple[int | str, ...] = SHAPE, version: int = 17
) -> onnx.ModelProto:
    """The largest responses of `4 + seed` filters, and a linear layer; all members name their values alike."""
    kernel, weight = draw_weights(seed, classes)
    nodes = [
        helper.make_node("Conv", ["images", "filters"], ["responses"]),
        helper.make_node("GlobalMaxPool", ["responses"], ["largest"]),
        helper.make_node("Flatten", ["largest"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weight"], ["sums" if softmax else "answer"]),
    ]
    if softmax:
        nodes.append(helper.make_node("Softmax", ["sums"], ["answer"]))
    weights = [numpy_helper.from_array(kernel, "filters"), numpy_helper.from_array(weight, "weight")]
    model = make_onnx(nodes, shape=shape, outputs=["answer"], weights=weights)
    model.opset_import[0].version = version
    return model


def draw_weights(seed: int, classes: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    random, width = np.random.default_rng(seed), 4 + seed
    kernel, weight = random.normal(size=(width, 1, 3, 3)), random.normal(size=(width, classes))
    return kernel.astype(np.float32), weight.astype(np.float32)


def compute(seed: int, pixels: torch.Tensor) -> torch.Tensor:
    """The logits of a member, in PyTorch."""
    return describe(seed, pixels) @ torch.from_numpy(draw_weights(seed, 2)[1])


def describe(seed: int, pixels: torch.Tensor) -> torch.Tensor:
    """What the last layer of a member reads."""
    return torch.conv2d(pixels, torch.from_numpy(draw_weights(seed, 2)[0])).amax((2, 3))


def run_import(folder: Path, *files: Path, out: Path, options: tuple[str, ...] = ()) -> Result:
    words = ["--classes", "ring,bar", "--mean", "0.2", "--std", "0.3", "--calibrate", str(folder), "--out", str(out)]
    return CliRunner().invoke(app, ["import", *map(str, files), *words, *options])


def test_the_ensemble_answers_as_its_members_do(tmp_path: Path) -> None:
    """Of different widths, and one of them with a softmax; also over HTTP."""
    folder, out = write_folder(tmp_path / "held", 30), tmp_path / "served" / "three"
    files = [tmp_path / f"{seed}.onnx" for seed in range(3)]
    for seed, path in enumerate(files):
        write_onnx(path, make_member(seed, softmax=seed == 1))
    result = run_import(folder, *files, out=out)
    assert result.exit_code == 0, result.output
    assert "1.onnx gives probabilities; their logarithms are its logits" in " ".join(result.stderr.split())
    checkpoint = load_checkpoint(out)
    assert checkpoint.config.training.command.startswith("hyperdraw-train import 0.onnx 1.onnx 2.onnx --classes")
    assert checkpoint.density is None
    spec = checkpoint.config.input
    assert isinstance(spec, ImageSpec)
    pictures = [draw_class("ring", number) for number in range(8)]
    images = torch.stack([decode_image(picture, spec, 10**6, "x") for picture in pictures])
    found = evaluate(checkpoint.sampler, checkpoint.input, checkpoint.config.task, images, 5, 3).plain.softmax(-1)
    expected = torch.stack([compute(seed, (images / 255 - 0.2) / 0.3).softmax(-1) for seed in range(3)])
    order = [int((found - one).abs().sum((1, 2)).argmin()) for one in expected]
    assert sorted(order) == [0, 1, 2]
    torch.testing.assert_close(found[order], expected, atol=1e-5, rtol=1e-4)
    with serve(create_app(Settings(checkpoints=out.parent))) as address, httpx.Client(base_url=address) as client:
        sent = [("images", picture) for picture in pictures]
        answer = client.post("/v1/models/three/predict", files=sent, params={"ensemble_size": 3}).json()
    assert len(answer["predictions"]) == len(pictures)
    assert "hyperdraw-serve --checkpoints" in result.stdout
    again = CliRunner().invoke(app, ["evaluate", str(out), "--data", str(folder), "--quiet"])
    assert again.exit_code == 0, again.output


def test_training_images_tell_what_is_far(tmp_path: Path) -> None:
    """By the logits of all members, and by what their last linear layers read, if they end in one."""
    held, seen = write_folder(tmp_path / "held", 30), write_folder(tmp_path / "seen-before", 20)
    members = [make_member(0), make_member(1, softmax=True), make_member(2)]
    members[2].graph.node[-1].output[0] = "negative"
    members[2].graph.node.append(helper.make_node("Neg", ["negative"], ["answer"]))
    files = [tmp_path / f"{seed}.onnx" for seed in range(3)]
    for path, model in zip(files, members, strict=True):
        write_onnx(path, model)
    out = tmp_path / "out"
    result = run_import(held, *files, out=out, options=("--fit", str(seen)))
    assert result.exit_code == 0, result.output
    assert "2.onnx does not end in a linear layer; distances look only at its logits" in " ".join(result.stderr.split())
    checkpoint = load_checkpoint(out)
    spec, density = checkpoint.config.input, checkpoint.density
    assert checkpoint.backbone is not None
    assert density is not None
    assert isinstance(spec, ImageSpec)
    images = torch.stack([decode_image(draw_class("ring", 100 + n), spec, 10**6, "x") for n in range(50)])
    noise = torch.randint(256, images.shape, generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    pixels = (images / 255 - 0.2) / 0.3
    found = checkpoint.backbone.extract(pixels)
    assert found.shape == (50, 3 * 2 + 4 + 5) == (50, *checkpoint.backbone.spec.feature_shape)
    torch.testing.assert_close(found[:, :2], compute(0, pixels), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found[:, 4:6], -compute(2, pixels), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found[:, 6:10], describe(0, pixels), atol=1e-5, rtol=1e-4)
    far, usual = (density.measure_distance(checkpoint.input.prepare(raw)) for raw in (noise, images))
    assert (far > usual.quantile(0.95)).all()
    again = CliRunner().invoke(app, ["calibrate", str(out), "--data", str(held), "--quiet"])
    assert again.exit_code == 0, again.output
    assert load_checkpoint(out).version == checkpoint.version


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: [make_member(0)], "a single ONNX file is one network, which cannot disagree with itself"),
        (lambda: [make_member(0), make_member(0)], "0.onnx and .*1.onnx hold the same network"),
        (lambda: [make_member(0), make_member(1, 3)], r"1.onnx gives outputs of shape \(3,\), but --classes names 2"),
        (
            lambda: [make_member(0), make_member(1, version=18)],
            "1.onnx has version 18 of ONNX's operators, but .*0.onnx has 17; export them alike",
        ),
        (
            lambda: [make_member(0, shape=("batch", 8, 8, 1)), make_member(1)],
            r"0.onnx takes inputs of shape \(any, 8, 8, 1\), not images of shape",
        ),
        (
            lambda: [make_member(0), make_onnx(shape=SHAPE)],
            "1.onnx has the outputs 'features', 'map'; export the logits",
        ),
        (lambda: [make_member(0), make_member(1, shape=("batch", 3, 8, 8))], "1.onnx takes 3 channels, but .*0.onnx 1"),
    ],
)
def test_what_is_no_ensemble_is_refused(
    tmp_path: Path, make: Callable[[], list[onnx.ModelProto]], message: str
) -> None:
    files = []
    for number, model in enumerate(make()):
        files.append(tmp_path / f"{number}.onnx")
        write_onnx(files[-1], model)
    result = run_import(write_folder(tmp_path / "held", 30), *files, out=tmp_path / "out")
    assert result.exit_code == 1, result.output
    assert re.search(message, " ".join(result.stderr.split()))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("files", "options", "message"),
    [
        (["a.onnx", "b.safetensors"], (), "state dicts or ONNX files, not both"),
        (["a.onnx", "b.onnx"], ("--target", "net.py:network"), "--target is for state dicts"),
        (["a.safetensors"], (), "--target is needed for state dicts"),
    ],
)
def test_what_does_not_go_together(tmp_path: Path, files: list[str], options: tuple[str, ...], message: str) -> None:
    result = run_import(tmp_path, *map(Path, files), out=tmp_path / "out", options=options)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.replace("│", " ").split())
