"""Backbones as onnxruntime runs them, and checkpoints that have one."""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from models.backbones.backbone import (
    FILE,
    FOLDER,
    IMAGES_PER_RUN,
    BackboneSpec,
    list_outputs,
    load_backbone,
    open_session,
)
from models.checkpoint import load_checkpoint
from models.checkpoint_files import CheckpointError, dump_json
from models.model import Model
from tests.backbones import CHANNELS, IMAGES, draw_kernel, make_onnx, save_with_backbone, write_onnx
from tests.checkpoints import edit, save_curve


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save_with_backbone(tmp_path / "checkpoints" / "animals")
    return tmp_path / "checkpoints" / "animals"


def draw_images(count: int) -> Tensor:
    return torch.randint(256, (count, *IMAGES.shape), dtype=torch.uint8)


def compute_map(images: Tensor) -> Tensor:
    """What the small backbone computes, by PyTorch."""
    return F.conv2d(IMAGES.prepare(images), torch.from_numpy(draw_kernel()), stride=2).relu()


def test_features_are_those_of_the_network(tmp_path: Path) -> None:
    digest = write_onnx(tmp_path / "x.onnx")
    images = draw_images(2 * IMAGES_PER_RUN + 1)
    vector = load_backbone(tmp_path / "x.onnx", IMAGES, BackboneSpec(digest, "features", (CHANNELS,)))
    torch.testing.assert_close(vector.extract(IMAGES.prepare(images)), compute_map(images).mean((2, 3)))
    found = load_backbone(tmp_path / "x.onnx", IMAGES, BackboneSpec(digest, "map", (CHANNELS, 5, 5)))
    torch.testing.assert_close(found.extract(IMAGES.prepare(images)), compute_map(images))
    assert found.extract(torch.empty(0, *IMAGES.shape)).shape == (0, CHANNELS, 5, 5)
    assert found.nbytes == (tmp_path / "x.onnx").stat().st_size


def test_vectors_of_any_scale_are_normalised_alike(tmp_path: Path) -> None:
    digest = write_onnx(tmp_path / "x.onnx")
    spec = BackboneSpec(digest, "features", (CHANNELS,), normalised=True)
    found = load_backbone(tmp_path / "x.onnx", IMAGES, spec).extract(IMAGES.prepare(images := draw_images(5)))
    plain = compute_map(images).mean((2, 3))
    expected = (plain - plain.mean(1, keepdim=True)) / plain.std(1, correction=0, keepdim=True)
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)  # as a small constant is added to the variance


def test_a_model_sees_images_through_its_backbone(saved: Path) -> None:
    model = Model(load_checkpoint(saved))
    images = draw_images(3)
    inputs = model.prepare(images)
    torch.testing.assert_close(inputs.prepared, compute_map(images).mean((2, 3)))
    several = model.checkpoint.input.prepare(images.view(3, 1, *IMAGES.shape))
    torch.testing.assert_close(several, inputs.prepared[:, None])
    outputs = model.evaluate(model.draw(7, range(5)), inputs)
    assert outputs.plain.shape == (5, 3, 3)
    assert outputs.jittered is None
    prediction = model.interpret(outputs)
    torch.testing.assert_close(prediction.probabilities.sum(-1), torch.ones(3).double())


def test_a_model_counts_its_backbone_and_gives_no_gradient(saved: Path) -> None:
    model = Model(load_checkpoint(saved))
    weights = sum(tensor.nbytes for tensor in model.checkpoint.sampler.state_dict().values())
    assert model.nbytes == weights + (saved / FILE).stat().st_size
    assert model.input.perturbable
    assert not model.perturbable
    with pytest.raises(ValueError, match="animals cannot be perturbed: its pretrained backbone gives no gradient"):
        model.perturb(draw_images(1), 0, 1, 0.1, 1)
    *_, end = iterate(model, draw_images(1))
    assert end["straight"].shape == (4, 1, 3)


def iterate(model: Model, images: Tensor) -> list[dict[str, Tensor]]:
    """The results of a walk, the last of which is complete."""
    steps = model.follow_paths(images, 0, (0, 1), 4)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return [end.value]


def test_the_config_of_a_checkpoint_without_a_backbone_is_as_it_was(tmp_path: Path) -> None:
    save_curve(tmp_path / "curve")
    content = (tmp_path / "curve" / "config.json").read_bytes()
    assert list(json.loads(content)) == ["method", "target", "input", "task", "training", "files", "format_version"]
    assert dump_json(load_checkpoint(tmp_path / "curve").config) == content


def test_models_share_a_backbone_beside_or_above_them(saved: Path) -> None:
    version, digest = load_checkpoint(saved).version, load_checkpoint(saved).config.backbone
    assert digest is not None
    for folder in (saved.parent, saved.parent.parent):
        shared = folder / FOLDER / f"{digest.sha256}.onnx"
        shared.parent.mkdir()
        shutil.move(saved / FILE if (saved / FILE).exists() else saved.parent / FOLDER / shared.name, shared)
        assert load_checkpoint(saved).version == version
    shared.unlink()
    with pytest.raises(
        CheckpointError,
        match=r"backbone\.onnx: is missing, and no folder named backbones",
    ):
        load_checkpoint(saved)


def refuse(directory: Path, match: str, most_bytes: int | None = None) -> None:
    with pytest.raises(CheckpointError, match=match) as caught:
        load_checkpoint(directory, most_bytes=most_bytes)
    assert caught.value.path.suffix == ".onnx"


def test_a_damaged_or_large_file_is_refused(saved: Path) -> None:
    content = (saved / FILE).read_bytes()
    (saved / FILE).write_bytes(content[:-1])
    refuse(saved, "its SHA-256 is not the one in config.json")
    (saved / FILE).write_bytes(content)
    weights = Model(load_checkpoint(saved)).nbytes - len(content)
    load_checkpoint(saved, most_bytes=weights + len(content))
    refuse(saved, f"larger than {len(content) - 1} bytes", most_bytes=weights + len(content) - 1)
    (saved / FILE).unlink()
    (saved / FILE).mkdir()
    refuse(saved, "not a regular file")


def test_a_config_that_fits_no_backbone_is_refused(saved: Path) -> None:
    config = (saved / "config.json").read_text()
    for change, match in (
        ({"feature_shape": [7]}, "the target takes"),
        ({"feature_shape": [0]}, "greater than 0"),
        ({"sha256": "../../etc/passwd"}, "sha256"),
        ({"custom_library": "x.so"}, "custom_library"),
    ):
        edit(saved / "config.json", lambda content, change=change: content["backbone"].update(change))  # type: ignore[misc]
        with pytest.raises(CheckpointError, match=match):
            load_checkpoint(saved)
        (saved / "config.json").write_text(config)
    names = {"kind": "vector", "names": ["x"], "mean": [0.0], "std": [1.0]}
    edit(saved / "config.json", lambda content: content.update(input=names))
    with pytest.raises(CheckpointError, match="a backbone takes images"):
        load_checkpoint(saved)


def flatten(*nodes: onnx.NodeProto) -> list[onnx.NodeProto]:
    """Nodes that make `x`, of which a vector is made."""
    pool = helper.make_node("GlobalAveragePool", ["x"], ["means"])
    return [*nodes, pool, helper.make_node("Flatten", ["means"], ["features"])]


HALF = numpy_helper.from_array(np.array([float("nan")], np.float32), "number")
ODD = {
    "another output": (
        make_onnx([helper.make_node("Relu", ["images"], ["map"])], outputs=["map"]),
        "has no output 'features'; it has 'map'",
    ),
    "another shape": (make_onnx(flatten(helper.make_node("Relu", ["images"], ["x"]))), r"shape \(3,\) at"),
    "fixed batch": (make_onnx(shape=(1, 3, 12, 12)), "takes tensor.float. of shape"),
    "other channels": (make_onnx(shape=("b", 1, "h", "w")), "not float images of shape"),
    "other size": (make_onnx(shape=("b", 3, 224, 224)), r"not float images of shape \(any number, 3, 12, 12\)"),
    "vector": (
        make_onnx([helper.make_node("Relu", ["images"], ["features"])], shape=("b", 3)),
        "takes tensor.float. of shape",
    ),
    "doubles": (make_onnx([helper.make_node("Identity", ["images"], ["features"])], kind=TensorProto.DOUBLE), "double"),
    "NaN": (
        make_onnx(flatten(helper.make_node("Mul", ["images", "number"], ["x"])), weights=[HALF]),
        "is not finite for a black image",
    ),
    "wrong rank": (make_onnx([helper.make_node("Flatten", ["images"], ["features"], axis=3)]), "has shape"),
    "no batch": (make_onnx([helper.make_node("Flatten", ["images"], ["features"], axis=0)]), "has shape"),
    "unknown operator": (make_onnx(flatten(helper.make_node("Magic", ["images"], ["x"]))), "cannot be run by"),
    "custom operator": (
        make_onnx(flatten(helper.make_node("Gelu", ["images"], ["x"], domain="com.microsoft"))),
        "operator 'Gelu' of 'com.microsoft'",
    ),
}


@pytest.mark.parametrize("kind", ODD)
def test_what_is_not_such_a_backbone_is_refused(saved: Path, kind: str) -> None:
    model, reason = ODD[kind]
    digest = write_onnx(saved / FILE, model)
    edit(saved / "config.json", lambda content: content["backbone"].update(sha256=digest))
    refuse(saved, reason)


def test_a_file_is_always_read_as_onnx(tmp_path: Path) -> None:
    """Files of onnxruntime's own format have ORTM here. It can hold any operator, but was checked as ONNX."""
    model = make_onnx()
    model.producer_name = "ORTM"
    content = model.SerializeToString()
    assert content[4:8] == b"ORTM"
    session = open_session(tmp_path / "x.onnx", content, IMAGES)
    assert list_outputs(session) == "'features', 'map'"


def test_without_onnxruntime_the_message_says_what_to_install(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    refuse(saved, r"needs onnxruntime, which is not installed: pip install 'hyperdraw-server\[backbone\]'")


def test_the_version_stands_for_the_backbone(saved: Path, tmp_path: Path) -> None:
    config = load_checkpoint(saved).config
    assert config.backbone is not None
    content = json.loads(dump_json(config))
    assert content["backbone"]["sha256"] == config.backbone.sha256
    other = replace(config, backbone=replace(config.backbone, sha256="0" * 64))
    assert dump_json(other) != dump_json(config)
