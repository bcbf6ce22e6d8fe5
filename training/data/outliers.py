"""Synthetic outliers: images that fit no label, made without another dataset.

They are glyphs of random strokes, shuffled patches, two images on top of each other, and smooth noise; some of each
kind are inverted or thickened. Networks that learn to be uncertain on them are uncertain on many other images too
(Hendrycks, Mazeika & Dietterich, "Deep Anomaly Detection with Outlier Exposure", ICLR 2019, use real outliers). The
sets that detection is evaluated on are not used here.

Shapes: N images.
"""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor

from training.data.augmentation import Augmentation, distort

INVERTED, THICKENED = 0.08, 0.12
"""Shares of outliers."""

OVERSAMPLING = 4
"""Factor between the resolution that strokes are drawn at and the images'."""

TURNED = Augmentation(rotation=np.pi, scale=0.2, shift=0.15, shear=0.0)


def synthesize_outliers(images: Tensor, count: int, seed: int) -> Tensor:
    """Makes outliers for a set of images: two fifths are glyphs, and one fifth is each other kind.

    Args:
        images: training images, uint8 [N, C, H, W].
        count: number of outliers.
        seed: seeds all randomness.

    Returns:
        uint8 [count, C, H, W], in random order.
    """
    generator = torch.Generator().manual_seed(seed)
    kinds: list[Callable[[Tensor, int, torch.Generator], Tensor]] = [
        *(draw_glyphs, draw_glyphs),
        *(shuffle_patches, overlay_images, make_noise),
    ]
    sizes = [len(part) for part in torch.arange(count).tensor_split(len(kinds))]
    outliers = torch.cat([make(images, size, generator) for make, size in zip(kinds, sizes, strict=True)])
    outliers = outliers[torch.randperm(count, generator=generator)]
    inverted, thickened = int(INVERTED * count), int((INVERTED + THICKENED) * count)
    outliers[:inverted] = 255 - outliers[:inverted]
    outliers[inverted:thickened] = F.max_pool2d(outliers[inverted:thickened], 3, stride=1, padding=1)
    return outliers[torch.randperm(count, generator=generator)].round().to(torch.uint8)


def draw_glyphs(images: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Two to five white strokes of one width on black: straight, bent or curved, some of them filled."""
    _, channels, height, width = images.shape
    drawn = np.empty((count, height, width), np.float32)
    random = np.random.default_rng(int(torch.randint(2**62, (), generator=generator)))
    for glyph in drawn:
        canvas = Image.new("L", (OVERSAMPLING * width, OVERSAMPLING * height))
        pen = ImageDraw.Draw(canvas)
        thickness = max(1, round(random.uniform(0.043, 0.23) * canvas.width))
        margin = random.uniform(0.08, 0.25)
        for _ in range(random.integers(2, 6)):
            _draw_stroke(pen, random.uniform(margin, 1 - margin, (4, 2)) * canvas.size, thickness, random)
        glyph[:] = np.asarray(canvas.resize((width, height), Image.Resampling.BOX))
    return torch.from_numpy(drawn)[:, None].expand(-1, channels, -1, -1).clone()


def shuffle_patches(images: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Images cut into 2 × 2 or 4 × 4 patches in random order. A remainder at the border is black."""
    halves = [
        _shuffle(_pick(images, len(part), generator), cuts, generator)
        for part, cuts in zip(torch.arange(count).tensor_split(2), (2, 4), strict=True)
    ]
    return torch.cat(halves)


def overlay_images(images: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """The brighter pixels of an image and of another image turned by 45° or more."""
    numbers = 2 * torch.rand(count, 6, generator=generator) - 1
    numbers[:, 0] = numbers[:, 0].sign() * (0.25 + 0.75 * numbers[:, 0].abs())
    turned = distort(_pick(images, count, generator), TURNED, numbers)
    return torch.maximum(_pick(images, count, generator), turned)


def make_noise(images: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Noise of random smoothness, contrast and brightness; it fills the image or fades from its middle."""
    _, channels, height, width = images.shape

    def draw_share(size: int) -> Tensor:
        return torch.rand(size, 1, 1, 1, generator=generator)

    y, x = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
    radius = (x.square() + y.square()).sqrt()
    parts = []
    scales = (3, 5, 9, max(height, width) // 2, max(height, width))
    for part, cells in zip(torch.arange(count).tensor_split(len(scales)), scales, strict=True):
        size = len(part)
        coarse = torch.randn(size, channels, cells, cells, generator=generator)
        field = F.interpolate(coarse, size=(height, width), mode="bicubic", align_corners=False)
        field = field / field.square().mean(dim=(1, 2, 3), keepdim=True).sqrt()
        contrast, brightness = 1.5 * (3 * draw_share(size) - 0.5).exp(), 2.5 * draw_share(size) - 1.5
        noise = torch.sigmoid(contrast * (field + brightness))
        faded = noise * torch.sigmoid(12 * (0.4 + 0.7 * draw_share(size) - radius))
        parts.append(255 * torch.where(draw_share(size) < 0.6, faded, noise))
    return torch.cat(parts)


def _draw_stroke(pen: ImageDraw.ImageDraw, points: np.ndarray, thickness: int, random: np.random.Generator) -> None:
    match random.integers(5):
        case 0:
            pen.line(_flatten(points[:2]), fill=255, width=thickness)
        case 1:
            axis = random.integers(2)
            points[1, axis] = points[0, axis]  # upright or level
            pen.line(_flatten(points[:2]), fill=255, width=thickness)
        case 2:
            box = [*(points[:2].min(0) - 2), *(points[:2].max(0) + 2)]
            start = random.uniform(0, 360)
            pen.arc(box, start, start + random.uniform(60, 360), fill=255, width=thickness)
        case 3:
            t = np.linspace(0, 1, 20)[:, None]  # a cubic Bézier curve
            factors = (1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3
            curve = sum(factor * point for factor, point in zip(factors, points, strict=True))
            pen.line(_flatten(curve), fill=255, width=thickness, joint="curve")
        case _:
            if random.random() < 0.35:
                pen.polygon(_flatten(points[:3]), fill=255)
            else:
                pen.line(_flatten(points[:3]), fill=255, width=thickness, joint="curve")


def _flatten(points: np.ndarray) -> list[float]:
    return [float(number) for number in points.ravel()]


def _shuffle(images: Tensor, cuts: int, generator: torch.Generator) -> Tensor:
    count, channels, height, width = images.shape
    rows, columns = height // cuts, width // cuts
    whole = images[..., : rows * cuts, : columns * cuts].unflatten(3, (cuts, columns)).unflatten(2, (cuts, rows))
    patches = whole.permute(0, 2, 4, 1, 3, 5).flatten(1, 2)  # [count, patches, C, rows, columns]
    order = torch.rand(count, cuts * cuts, generator=generator).argsort(1)
    patches = patches.take_along_dim(order[:, :, None, None, None], dim=1).unflatten(1, (cuts, cuts))
    joined = patches.permute(0, 3, 1, 4, 2, 5).reshape(count, channels, rows * cuts, columns * cuts)
    return F.pad(joined, (0, width - columns * cuts, 0, height - rows * cuts))


def _pick(images: Tensor, count: int, generator: torch.Generator) -> Tensor:
    return images[torch.randint(len(images), (count,), generator=generator)].float()
