"""A dataset as data: examples in splits.

Shapes: N examples, K numbers of a label.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from models.backbones.backbone import Backbone, look_through
from models.inputs.image import ImageSpec
from models.inputs.kind import InputKind
from models.inputs.spec import InputSpec
from models.tasks.task import Task

MOST_JUDGED = 10_000
"""Most examples that all folds together hold out. More would take long and tell little."""


class DatasetError(Exception):
    """A dataset's file is damaged, or missing and not available; the message says which file and what to do."""


@dataclass(frozen=True)
class Examples:
    """N inputs, as an `InputSpec` expects them, with labels: classes, int64 [N], or numbers, float32 [N, K]."""

    inputs: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: Tensor | slice) -> "Examples":
        return Examples(self.inputs[index], self.labels[index])


@dataclass(frozen=True)
class Dataset:
    """A dataset in splits. Each split has one use, and is the same in every run.

    `train` fits weights, `validation` chooses hyper-parameters, `calibration` only sets thresholds, and `test` is used
    once, at the end. In folds, `train` holds all examples but those of `test`, and each fold serves for validation and
    calibration of networks that were trained without it.
    """

    input: InputSpec
    task: Task
    train: Examples
    validation: Examples
    calibration: Examples
    test: Examples
    backbone: Backbone | None = field(default=None, kw_only=True)
    """The pretrained network whose features the target takes instead of images, if any."""
    folds: int | None = field(default=None, kw_only=True)
    """Number of folds, if nothing is held out for validation and calibration."""
    places: Tensor | None = field(default=None, kw_only=True)
    """Places of the training examples in `train` of the dataset in folds that this is a part of: int64 [N]."""

    @property
    def view(self) -> InputKind:
        """The input as the target sees it."""
        return look_through(self.input, self.backbone)

    def in_folds(self, folds: int | None) -> "Dataset":
        """The same dataset with training, validation and calibration examples in folds; unchanged if there are none."""
        if folds is None:
            return self
        splits = self.train, self.validation, self.calibration
        inputs, labels = torch.cat([s.inputs for s in splits]), torch.cat([s.labels for s in splits])
        nothing = self.train[:0]
        return replace(self, train=Examples(inputs, labels), validation=nothing, calibration=nothing, folds=folds)

    def list_parts(self) -> Iterator["Dataset"]:
        """Datasets that hold out examples for validation and calibration: this one, or for each fold one without it.

        Folds of a large dataset hold out only some of their examples.
        """
        if self.folds is None:
            yield self
            return
        assigned = assign_folds(self.train.labels, self.folds)
        for fold in range(self.folds):
            (own,), (others,) = (chosen.nonzero(as_tuple=True) for chosen in (assigned == fold, assigned != fold))
            held_out = self.train[own[: MOST_JUDGED // self.folds]]
            yield replace(
                self, train=self.train[others], validation=held_out, calibration=held_out, folds=None, places=others
            )

    def with_plain_pixels(self) -> "Dataset":
        """The same images with pixels that stay in [0, 1]."""
        assert isinstance(self.input, ImageSpec)
        zeros, ones = (0.0,) * self.input.channels, (1.0,) * self.input.channels
        return replace(self, input=replace(self.input, mean=zeros, std=ones))


def split_randomly(data: Examples, sizes: tuple[int, ...]) -> list[Examples]:
    """Random parts, which are the same in every run, whatever its seed."""
    assert sum(sizes) == len(data)
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(0))
    return [data[part] for part in order.split(list(sizes))]


def assign_folds(labels: Tensor, folds: int) -> Tensor:
    """The fold of each example, from 0, the same in every run: int64 [N]. Folds are equal but for one example, also in
    each class."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    if labels.dim() == 1:  # classes
        order = order[labels[order].argsort(stable=True)]
    assigned = torch.empty(len(labels), dtype=torch.int64)
    assigned[order] = torch.arange(len(labels)) % folds
    return assigned
