"""Made-up foreign inputs, which decide what score raises a flag. No recipe trains on these kinds.

A network that learned to be uncertain on `training.data.outliers` cannot be judged on those. These images are made in
other ways: as gratings, as noise with the spectrum of an image, by permuting pixels, and from two halves.

Shapes: N images, or N rows of C columns.
"""

from collections.abc import Callable
from itertools import zip_longest

import torch
from torch import Tensor

from models.inputs.columns import CategoryColumn
from models.inputs.table import TableSpec
from models.inputs.vector import VectorSpec
from models.noise import uniform


def make_foreign_images(images: Tensor, count: int, seed: int) -> Tensor:
    """Makes foreign images for a set of images, equal parts of each kind.

    Args:
        images: uint8 [N, C, H, W]; no network was trained on them.
        count: number of foreign images.
        seed: seeds all randomness.

    Returns:
        uint8 [count, C, H, W], the kinds in turn.
    """
    generator = torch.Generator().manual_seed(seed)
    rounds = -(-count // len(KINDS))
    parts = [
        make(images[torch.randint(len(images), (rounds,), generator=generator)], generator) for make in KINDS.values()
    ]
    return torch.stack(parts, dim=1).flatten(0, 1)[:count].clamp(0, 255).round().to(torch.uint8)


def draw_gratings(images: Tensor, generator: torch.Generator) -> Tensor:
    """Two superposed plane waves in each image, of any direction, phase, wavelength and colour. In half of the images
    they are hard stripes."""
    count, channels, height, width = images.shape
    directions, phases = torch.pi * torch.rand(2, count, 2, 1, 1, generator=generator)
    cycles = 1 + (min(height, width) / 4 - 1) * torch.rand(count, 2, 1, 1, generator=generator)
    y, x = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    waves = (2 * torch.pi * cycles * (x * directions.cos() + y * directions.sin()) + 2 * phases).sin()
    waves = torch.where(torch.rand(count, 1, 1, 1, generator=generator) < 0.5, waves.sign(), waves)
    colours = torch.rand(count, channels, 2, generator=generator)
    sums: Tensor = 127.5 * (1 + torch.einsum("ncw,nwyx->ncyx", colours, waves))
    return sums


def scramble_phases(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each image's spectrum with the phases of noise, the same in all channels. Texture stays, and shapes go."""
    size = images.shape[-2:]
    noise = torch.fft.rfft2(torch.randn(len(images), 1, *size, generator=generator))
    phases = noise / noise.abs()
    phases[..., 0, 0] = 1  # the mean brightness stays
    scrambled: Tensor = torch.fft.irfft2(torch.fft.rfft2(images.float()) * phases, s=size)
    return scrambled


def permute_pixels(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each image's pixels in a random order."""
    pixels = images.float().flatten(2)
    order = torch.rand(len(images), 1, pixels.shape[-1], generator=generator).argsort(-1)
    return pixels.take_along_dim(order, dim=-1).view_as(images)


def join_halves(images: Tensor, generator: torch.Generator) -> Tensor:
    """The upper or left half of each image, with the other half of the image before it."""
    others = images.roll(1, 0)
    upright, across = images.clone(), images.clone()
    upright[..., images.shape[-1] // 2 :] = others[..., images.shape[-1] // 2 :]
    across[..., images.shape[-2] // 2 :, :] = others[..., images.shape[-2] // 2 :, :]
    chosen = torch.rand(len(images), 1, 1, 1, generator=generator) < 0.5
    return torch.where(chosen, upright, across).float()


KINDS: dict[str, Callable[[Tensor, torch.Generator], Tensor]] = {
    "gratings": draw_gratings,
    "textures without shapes": scramble_phases,
    "images with permuted pixels": permute_pixels,
    "images made of two halves": join_halves,
}
"""Kinds of foreign images, in the order in which they take turns."""


def make_foreign_rows(spec: TableSpec | VectorSpec, rows: Tensor, count: int, seed: int) -> Tensor:
    """Makes rows unlike those of a table: every column by itself, numbers and dates from a range three times as wide.

    Args:
        spec: the columns.
        rows: rows of the table, float [N, C].
        count: number of rows to make.
        seed: seed of the choice.
    """
    shares = uniform(seed, range(count), rows.shape[1]).double() / 2 + 0.5  # [count, C], from 0 to 1
    categories = [isinstance(column, CategoryColumn) for column in spec.columns] if isinstance(spec, TableSpec) else []
    made = []
    for own, share, category in zip_longest(rows.unbind(1), shares.unbind(1), categories):
        known = own[~own.isnan()]
        if category:
            made.append(known[(share * len(known)).long().clamp(max=len(known) - 1)])
        else:
            least, greatest = known.min(), known.max()
            made.append(least + (greatest - least) * (3 * share - 1))
    return torch.stack(made, 1).to(rows.dtype)
