"""A step of training: of HyperGAN's, against the same step as its authors formulate it, and in bfloat16.

HyperGAN's authors evaluate one generated network after the other, by PyTorch's convolutions and pooling. All else is
the same here: examples, losses, generators and optimisers.
"""

from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Literal

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor

from benchmarks.plain import forward_loop
from benchmarks.report import Ratio
from benchmarks.timing import measure_times
from models.inputs.image import ImageSpec
from models.precision import DTYPES, choose_precision
from models.schema import STRICT
from models.targets.target import TargetNetwork, Weights
from models.tasks.classification import Classification
from training.data.dataset import Dataset, Examples
from training.recipes.cifar10 import cifar10_random_static, cifar10_static
from training.recipes.mnist import mnist_hyperdraw, mnist_hypergan
from training.recipes.recipe import Recipe
from training.runs.fitting import FittingRun

EXAMPLES = 10_000


@dataclass(frozen=True, config=STRICT)
class PlainTarget(TargetNetwork):
    """A target that is evaluated network by network."""

    def forward(self, weights: Weights, inputs: Tensor) -> Tensor:
        if inputs.dim() == len(self.input_shape) + 1:
            return forward_loop(self, weights, inputs)
        networks = [{name: tensor[i : i + 1] for name, tensor in weights.items()} for i in range(len(inputs))]
        return torch.cat([forward_loop(self, own, x) for own, x in zip(networks, inputs, strict=True)])


def measure_training(device: torch.device) -> Iterator[Ratio]:
    """How much faster a step is than the authors' formulation, and in bfloat16 than in float32."""
    recipe = mnist_hypergan()
    target, dataset = recipe.target, _make_dataset(recipe.target)
    plain = PlainTarget(**{field.name: getattr(target, field.name) for field in fields(target)})
    ours, theirs = (
        FittingRun(replace(recipe, target=own), dataset, 0, recipe.steps, device) for own in (target, plain)
    )
    times = measure_times({"ours": ours.step, "theirs": theirs.step}, device)
    case = f"mnist-hypergan, {recipe.networks_per_step} networks × {recipe.inputs_per_network} images"
    yield Ratio("training step", case, times["theirs"] / times["ours"], "times as fast as one by one", times["ours"])
    if choose_precision(device) == "bfloat16":
        for recipe in (mnist_hypergan(), mnist_hyperdraw(), cifar10_random_static(), cifar10_static()):
            yield _compare_precisions(recipe, device)


def _compare_precisions(recipe: Recipe, device: torch.device) -> Ratio:
    dataset = _make_dataset(recipe.target)
    runs = {
        precision: FittingRun(replace(recipe, precision=precision), dataset, 0, recipe.steps, device)
        for precision in DTYPES
    }
    times = measure_times({precision: run.step for precision, run in runs.items()}, device)
    case = f"{recipe.name}, {recipe.networks_per_step} networks × {recipe.inputs_per_network} images, bfloat16"
    ratio = times["float32"] / times["bfloat16"]
    return Ratio("training step", case, ratio, "times as fast as in float32", times["bfloat16"])


def _make_dataset(target: TargetNetwork) -> Dataset:
    shape, generator = target.input_shape, torch.Generator().manual_seed(0)
    assert len(shape) == 3
    images = torch.randint(256, (EXAMPLES, *shape), generator=generator).byte()
    examples = Examples(images, torch.randint(10, (EXAMPLES,), generator=generator))
    half = (0.5,) * shape[0]
    channels: Literal[1, 3] = 1 if shape[0] == 1 else 3
    spec = ImageSpec(channels=channels, height=shape[1], width=shape[2], mean=half, std=half)
    return Dataset(spec, Classification(tuple("0123456789")), examples, examples, examples, examples)
