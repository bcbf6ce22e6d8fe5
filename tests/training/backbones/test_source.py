"""ONNX files that a user names, and the JSON files beside them."""

import json
from pathlib import Path

import pytest

from models.backbones.backbone import FILE, FOLDER, BackboneError
from tests.backbones import CHANNELS, write_onnx
from training.backbones.source import open_backbone, place_backbone


def test_the_file_beside_it_says_how_a_backbone_is_used(tmp_path: Path) -> None:
    digest = write_onnx(tmp_path / "net.onnx")
    notes = {"mean": [0.5] * 3, "std": [0.25] * 3, "output": "map", "source": "mine", "licence": "MIT"}
    (tmp_path / "net.json").write_text(json.dumps(notes))
    images, backbone = open_backbone(tmp_path / "net.onnx", 24)
    assert (images.shape, images.mean, images.std) == ((3, 24, 24), (0.5,) * 3, (0.25,) * 3)
    spec = backbone.spec
    assert (spec.sha256, spec.output, spec.feature_shape) == (digest, "map", (CHANNELS, 11, 11))
    assert (spec.source, spec.licence) == ("mine", "MIT")
    assert open_backbone(tmp_path / "net.onnx", 24, "features")[1].spec.feature_shape == (CHANNELS,)


def test_without_it_the_usual_applies_and_an_output_must_be_chosen(tmp_path: Path) -> None:
    write_onnx(tmp_path / "net.onnx")
    images, backbone = open_backbone(tmp_path / "net.onnx", 12, "features")
    assert images.mean == (0.485, 0.456, 0.406)
    assert backbone.spec.source == "net.onnx"
    with pytest.raises(BackboneError, match="has several outputs; name one of 'features', 'map' with --output"):
        open_backbone(tmp_path / "net.onnx", 12)
    with pytest.raises(BackboneError, match="has no output 'logits'; name one of"):
        open_backbone(tmp_path / "net.onnx", 12, "logits")


@pytest.mark.parametrize(
    ("notes", "reason"),
    [
        ('{"mean": [0.5, 0.5]}', "one number for each of 1 or 3 channels"),
        ('{"mean": [0.5], "std": [0]}', r"std\.0: Input should be greater than 0"),
        ('{"average": 1}', "average: Unexpected keyword argument"),
        ("{", "the file: Invalid JSON"),
    ],
)
def test_notes_that_are_wrong_are_refused(tmp_path: Path, notes: str, reason: str) -> None:
    write_onnx(tmp_path / "net.onnx")
    (tmp_path / "net.json").write_text(notes)
    with pytest.raises(BackboneError, match=rf"net\.json: {reason}|net\.json: .*{reason}"):
        open_backbone(tmp_path / "net.onnx", 12)


def test_a_checkpoint_gets_a_copy_unless_it_finds_a_shared_one(tmp_path: Path) -> None:
    digest = write_onnx(tmp_path / "net.onnx")
    spec = open_backbone(tmp_path / "net.onnx", 12, "features")[1].spec
    place_backbone(tmp_path / "net.onnx", spec, tmp_path / "checkpoints" / "own")
    assert (tmp_path / "checkpoints" / "own" / FILE).read_bytes() == (tmp_path / "net.onnx").read_bytes()
    write_onnx(tmp_path / "checkpoints" / FOLDER / f"{digest}.onnx")
    place_backbone(tmp_path / "net.onnx", spec, tmp_path / "checkpoints" / "other")
    assert not (tmp_path / "checkpoints" / "other").exists()
    (tmp_path / "net.onnx").write_bytes(b"")
    with pytest.raises(BackboneError, match="changed while it was used"):
        place_backbone(tmp_path / "net.onnx", spec, tmp_path / "elsewhere" / "deep" / "own")
