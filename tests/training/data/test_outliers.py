import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from training.data.augmentation import NUMBERS, Augmentation, distort
from training.data.datasets import load_digits
from training.data.outliers import draw_glyphs, make_noise, overlay_images, shuffle_patches, synthesize_outliers
from training.objectives.objectives import outlier_loss

DIGITS = load_digits(Path()).train.inputs


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (1, 8, 8), (1, 9, 7)])
def test_outliers_look_like_inputs(shape: tuple[int, int, int]) -> None:
    images = torch.randint(256, (20, *shape), generator=generator(), dtype=torch.uint8)
    outliers = synthesize_outliers(images, 53, seed=3)
    assert outliers.shape == (53, *shape)
    assert outliers.dtype == torch.uint8
    assert len(torch.unique(outliers.flatten(1), dim=0)) > 45
    assert torch.equal(outliers, synthesize_outliers(images, 53, seed=3))
    assert not torch.equal(outliers, synthesize_outliers(images, 53, seed=4))


def test_the_global_generators_are_left_alone() -> None:
    before = torch.get_rng_state()
    synthesize_outliers(DIGITS, 20, seed=0)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("make", [draw_glyphs, shuffle_patches, overlay_images, make_noise])
def test_kinds_of_outliers_are_varied_and_within_range(
    make: Callable[[torch.Tensor, int, torch.Generator], torch.Tensor],
) -> None:
    outliers = make(DIGITS, 40, generator())
    assert outliers.shape == (40, 1, 8, 8)
    assert outliers.min() >= 0
    assert outliers.max() <= 255.001
    assert outliers.flatten(1).std(0).mean() > 10


def test_shuffled_patches_keep_their_pixels() -> None:
    pixels = torch.arange(64, dtype=torch.uint8).view(1, 1, 8, 8)
    for image in shuffle_patches(pixels, 6, generator()):
        assert torch.equal(image.flatten().sort().values, torch.arange(64.0))


def test_no_distortion_changes_nothing() -> None:
    images = DIGITS[:5]
    torch.testing.assert_close(distort(images, Augmentation(), torch.zeros(5, NUMBERS)), images.float())


def test_a_shift_is_that_of_its_number() -> None:
    image = torch.zeros(1, 1, 8, 8)
    image[0, 0, 3, 4] = 1
    numbers = torch.zeros(1, NUMBERS)
    numbers[0, 4] = 1
    shifted = distort(image, Augmentation(shift=0.25), numbers)  # a quarter of half of 8 pixels
    assert shifted[0, 0, 3, 3].item() == pytest.approx(1)


def test_uncertainty_on_outliers_known_answers() -> None:
    certain = 1000 * torch.eye(3)[[0, 1, 2]][:, None]  # three networks, each certain of another class
    assert outlier_loss(certain).item() == pytest.approx(0, abs=1e-6)
    assert outlier_loss(torch.zeros(4, 2, 3)).item() == pytest.approx(0, abs=1e-6)
    assert outlier_loss(certain[:1]).item() == pytest.approx(math.log(3))
    pairs = certain[[0, 0, 1, 2]]  # the first two agree, the others do not
    assert outlier_loss(pairs, group_size=2).item() == pytest.approx((math.log(3) + math.log(3 / 2)) / 2)
    assert outlier_loss(pairs, group_size=3).item() == outlier_loss(pairs, group_size=2).item()  # equal groups
    logits = torch.randn(4, 5, 3, generator=generator(), requires_grad=True)
    outlier_loss(logits).backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
