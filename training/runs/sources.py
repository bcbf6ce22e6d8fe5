"""Sources of a training's inputs: pixels that are distorted at each step, or features of views made before.

Shapes: N examples, V views of each, n inputs.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable

import torch
from torch import Tensor

from models.backbones.backbone import IMAGES_PER_RUN
from models.inputs.image import ImageSpec
from models.noise import choices, uniform
from training.data.augmentation import distort
from training.data.dataset import Dataset
from training.data.features import CachedBackbone
from training.data.outliers import synthesize_outliers
from training.progress import Bar
from training.recipes.recipe import Recipe

AUGMENTATION_STREAM, VIEW_STREAM = 10, 16
"""Streams of the noise that distorts images, and that chooses among the views of an image."""


VIEW_SEED = 0


class Source(ABC):
    """What the target network takes, for training examples and for synthetic outliers."""

    num_outliers: int
    """Number of synthetic outliers."""

    @abstractmethod
    def take(self, index: Tensor, step: int) -> Tensor:
        """Prepared training examples, augmented by the noise of a step: float32 [n, …] for indices [n]."""

    @abstractmethod
    def take_all(self) -> Tensor:
        """All prepared training examples, not augmented: float32 [N, …]."""

    @abstractmethod
    def take_outliers(self, index: Tensor) -> Tensor:
        """Prepared outliers: float32 [n, …] for indices [n]."""


class RawSource(Source):
    """Raw inputs, which are distorted and prepared at each step."""

    def __init__(self, recipe: Recipe, dataset: Dataset, seed: int, device: torch.device) -> None:
        self._augmentation, self._spec, self._seed = recipe.augmentation, dataset.input, seed
        self._inputs = dataset.train.inputs.to(device)
        self._outliers = make_outliers(recipe, dataset, seed).to(device)
        self.num_outliers = len(self._outliers)

    def take(self, index: Tensor, step: int) -> Tensor:
        inputs = self._inputs[index]
        if self._augmentation is not None:
            width = self._augmentation.numbers
            numbers = uniform(self._seed, [step], len(inputs) * width, AUGMENTATION_STREAM).view(-1, width)
            inputs = distort(inputs, self._augmentation, numbers.to(inputs.device))
        return self._spec.prepare(inputs)

    def take_all(self) -> Tensor:
        return self._spec.prepare(self._inputs)

    def take_outliers(self, index: Tensor) -> Tensor:
        return self._spec.prepare(self._outliers[index])


class FeatureSource(Source):
    """Features, which a backbone computes once: of each image, of distorted views of it, and of outliers.

    Views and outliers are the same for every seed, so that another training finds their features. Views are also the
    same in every fold.
    """

    def __init__(self, recipe: Recipe, dataset: Dataset, seed: int, device: torch.device) -> None:
        assert isinstance(dataset.backbone, CachedBackbone)
        assert isinstance(dataset.input, ImageSpec)
        self._backbone, self._device, self._seed = dataset.backbone, device, seed
        images, outliers = dataset.train.inputs, make_outliers(recipe, dataset, VIEW_SEED)
        views = recipe.views if recipe.augmentation is not None else 0
        places = torch.arange(len(images)) if dataset.places is None else dataset.places
        with Bar("computing features", "image", (1 + views) * len(images) + len(outliers)) as bar:
            self._rows = torch.empty(len(images), 1 + views, dtype=torch.int64)
            """Rows of the views of each image, [N, V], of which the first is the image itself."""
            self._locate(images.split(IMAGES_PER_RUN), dataset.input, self._rows[:, 0], bar)
            for view in range(views):
                assert recipe.augmentation is not None
                width = recipe.augmentation.numbers
                numbers = uniform(VIEW_SEED, [view], (int(places.max()) + 1) * width, VIEW_STREAM).view(-1, width)
                parts = zip(images.split(IMAGES_PER_RUN), numbers[places].split(IMAGES_PER_RUN), strict=True)
                distorted = (distort(part, recipe.augmentation, own).round() for part, own in parts)
                self._locate(distorted, dataset.input, self._rows[:, 1 + view], bar)
            self._outliers = torch.empty(len(outliers), dtype=torch.int64)
            self._locate(outliers.split(IMAGES_PER_RUN), dataset.input, self._outliers, bar)
        self.num_outliers = len(self._outliers)

    def _locate(self, blocks: Iterable[Tensor], spec: ImageSpec, rows: Tensor, bar: Bar) -> None:
        """Finds the rows of images in blocks of `IMAGES_PER_RUN`.

        The rows are made before, because small tensors that are made between large ones and stay keep the memory of the
        large ones from being used again.
        """
        for block, own in zip(blocks, rows.split(IMAGES_PER_RUN), strict=False):
            if len(block):
                own[...] = self._backbone.locate(spec.prepare(block))
                bar.update(len(block))

    def take(self, index: Tensor, step: int) -> Tensor:
        (chosen,) = choices(self._seed, [step], len(index), self._rows.shape[1], AUGMENTATION_STREAM)
        return self._backbone.read(self._rows[index.cpu(), chosen]).to(self._device)

    def take_all(self) -> Tensor:
        return self._backbone.read(self._rows[:, 0]).to(self._device)

    def take_outliers(self, index: Tensor) -> Tensor:
        return self._backbone.read(self._outliers[index.cpu()]).to(self._device)


def make_source(recipe: Recipe, dataset: Dataset, seed: int, device: torch.device) -> Source:
    """The source that suits a dataset."""
    kind = RawSource if dataset.backbone is None else FeatureSource
    return kind(recipe, dataset, seed, device)


def make_outliers(recipe: Recipe, dataset: Dataset, seed: int) -> Tensor:
    """Raw synthetic outliers, if the recipe has any."""
    if recipe.outliers is None:
        return dataset.train.inputs[:0]
    return synthesize_outliers(dataset.train.inputs, recipe.outliers.count, seed)
