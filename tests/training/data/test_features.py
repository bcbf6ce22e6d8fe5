"""Features that a backbone computes once, and that are kept."""

import threading
from pathlib import Path

import pytest
import torch
from torch import Tensor

from models.backbones.backbone import Backbone, BackboneSpec, load_backbone
from tests.backbones import CHANNELS, IMAGES, write_onnx
from training.data.features import DIGESTS, FEATURES, CachedBackbone


@pytest.fixture
def backbone(tmp_path: Path) -> Backbone:
    digest = write_onnx(tmp_path / "x.onnx")
    return load_backbone(tmp_path / "x.onnx", IMAGES, BackboneSpec(digest, "features", (CHANNELS,), normalised=True))


def draw_pixels(count: int, seed: int = 0) -> Tensor:
    return torch.randn(count, *IMAGES.shape, generator=torch.Generator().manual_seed(seed))


def test_features_are_computed_once_and_found_again(
    backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = draw_pixels(40)
    expected = backbone.extract(pixels)
    cached = CachedBackbone(backbone, tmp_path / "cache")
    torch.testing.assert_close(cached.extract(pixels[:20]), expected[:20])
    again = CachedBackbone(backbone, tmp_path / "cache")
    torch.testing.assert_close(again.extract(pixels.flip(0)), expected.flip(0))

    def refuse(self: Backbone, pixels: Tensor) -> Tensor:
        raise AssertionError("computed again")

    monkeypatch.setattr(Backbone, "run", refuse)
    torch.testing.assert_close(CachedBackbone(backbone, tmp_path / "cache").extract(pixels), expected)
    torch.testing.assert_close(cached.extract(pixels), expected)  # which another has computed meanwhile
    with pytest.raises(AssertionError, match="computed again"):
        cached.extract(draw_pixels(1, seed=1))


def test_equal_images_have_one_entry(backbone: Backbone, tmp_path: Path) -> None:
    cached = CachedBackbone(backbone, tmp_path / "cache")
    pixels = draw_pixels(3)
    assert cached.locate(torch.cat([pixels, pixels])).tolist() == [0, 1, 2, 0, 1, 2]
    assert cached.read(torch.tensor([[2, 0], [1, 1]])).shape == (2, 2, CHANNELS)


def test_each_output_has_a_cache_of_its_own(backbone: Backbone, tmp_path: Path) -> None:
    spec = BackboneSpec(backbone.spec.sha256, "map", (CHANNELS, 5, 5))
    other = Backbone(spec, backbone.session, backbone.nbytes)
    for each in (backbone, other):
        found = CachedBackbone(each, tmp_path / "cache").extract(draw_pixels(2))
        torch.testing.assert_close(found, each.extract(draw_pixels(2)))
    assert len(list((tmp_path / "cache").iterdir())) == 2


@pytest.mark.parametrize("name", [FEATURES, DIGESTS])
def test_what_was_written_in_part_is_computed_again(backbone: Backbone, tmp_path: Path, name: str) -> None:
    pixels = draw_pixels(5)
    expected = CachedBackbone(backbone, tmp_path / "cache").extract(pixels)
    (path,) = (tmp_path / "cache").glob(f"*/{name}")
    path.write_bytes(path.read_bytes()[:-7])
    cached = CachedBackbone(backbone, tmp_path / "cache")
    torch.testing.assert_close(cached.extract(draw_pixels(2, seed=1)), backbone.extract(draw_pixels(2, seed=1)))
    torch.testing.assert_close(cached.extract(pixels), expected)


def test_several_may_fill_a_cache_at_once(backbone: Backbone, tmp_path: Path) -> None:
    pixels = draw_pixels(30)
    found: list[Tensor] = []

    def fill() -> None:
        cached = CachedBackbone(backbone, tmp_path / "cache")
        found.extend([torch.cat([cached.extract(block) for block in pixels.split(3)])])

    threads = [threading.Thread(target=fill) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 3
    for each in found:
        torch.testing.assert_close(each, backbone.extract(pixels))
