from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

import training.data.foreign
import training.data.outliers
from training.data.datasets import load_digits
from training.data.foreign import draw_gratings, join_halves, make_foreign_images, permute_pixels, scramble_phases

DIGITS = load_digits(Path()).validation.inputs


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (1, 8, 8), (1, 9, 7)])
def test_foreign_images_look_like_inputs(shape: tuple[int, int, int]) -> None:
    images = torch.randint(256, (20, *shape), generator=generator(), dtype=torch.uint8)
    before = torch.get_rng_state()
    foreign = make_foreign_images(images, 53, seed=3)
    assert foreign.shape == (53, *shape)
    assert foreign.dtype == torch.uint8
    assert len(torch.unique(foreign.flatten(1), dim=0)) > 45
    assert torch.equal(foreign, make_foreign_images(images, 53, seed=3))
    assert not torch.equal(foreign, make_foreign_images(images, 53, seed=4))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("make", [draw_gratings, scramble_phases, permute_pixels, join_halves])
def test_every_kind_changes_every_image(make: Callable[[Tensor, torch.Generator], Tensor]) -> None:
    images = DIGITS[:40]
    foreign = make(images, generator())
    assert foreign.shape == images.shape
    assert foreign.isfinite().all()
    assert ((foreign - images).abs().flatten(1).amax(1) > 10).all()


def test_pixels_stay_the_same_in_another_order() -> None:
    colours = torch.randint(256, (5, 3, 8, 8), generator=generator())
    permuted = permute_pixels(colours, generator())
    for image, other in zip(colours.float(), permuted, strict=True):
        before, after = ({tuple(pixel) for pixel in part.flatten(1).T.tolist()} for part in (image, other))
        assert before == after


@pytest.mark.parametrize("size", [(8, 8), (9, 7)])
def test_scrambled_images_keep_their_spectrum(size: tuple[int, int]) -> None:
    images = 255 * torch.rand(5, 3, *size, generator=generator())
    spectra = [torch.fft.rfft2(part).abs() for part in (images, scramble_phases(images, generator()))]
    torch.testing.assert_close(*spectra, rtol=1e-3, atol=1e-2)


def test_halves_are_those_of_two_images() -> None:
    images = torch.arange(6.0)[:, None, None, None].expand(6, 1, 4, 4)
    for number, image in enumerate(join_halves(images, generator())):
        assert image.unique().tolist() == sorted({number, (number - 1) % 6})
        assert (image == number).sum() == 8


def test_no_recipe_trains_with_these_kinds() -> None:
    kinds = {"draw_gratings", "scramble_phases", "permute_pixels", "join_halves"}
    assert not kinds & {*vars(training.data.outliers)}
    assert "training.data.outliers" not in {
        getattr(value, "__module__", "") for value in vars(training.data.foreign).values()
    }
