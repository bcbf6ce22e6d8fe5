"""A dataset as data: examples in splits.

Shapes: N examples, K numbers of a label.
"""

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from models.backbones.backbone import Backbone, look_through
from models.inputs.image import ImageSpec
from models.inputs.kind import InputKind
from models.inputs.spec import InputSpec
from models.tasks.task import Task


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
    once, at the end.
    """

    input: InputSpec
    task: Task
    train: Examples
    validation: Examples
    calibration: Examples
    test: Examples
    backbone: Backbone | None = field(default=None, kw_only=True)
    """The pretrained network whose features the target takes instead of images, if any."""

    @property
    def view(self) -> InputKind:
        """The input as the target sees it."""
        return look_through(self.input, self.backbone)

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
