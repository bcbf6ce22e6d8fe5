"""The study of near-foreign inputs: what a part of a recipe does for inputs that are nearly like the training data.

Some classes of a dataset are left out of everything, and are then foreign. Each recipe is trained with and without a
part, with several seeds, and the trainings are compared.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from models.samplers.hyperdraw import HyperDrawConfig
from models.targets.target import TargetNetwork
from training.data.augmentation import Augmentation
from training.progress import track
from training.recipes.cifar10 import CROPS
from training.recipes.mnist import mnist_hyperdraw
from training.recipes.recipe import OutlierExposure, Part, Recipe
from training.recipes.targets import make_convolutional_target
from training.recipes.variation import vary
from training.runs.session import Session, check_repeated, train
from training.studies.comparison import compare_directories

MODES = 4


def list_recipes() -> Mapping[str, Recipe]:
    """Short trainings on small targets, by the name of the dataset."""
    digits = make_convolutional_target((1, 8, 8), channels=(8, 16), kernel_size=3, paddings=(1, 0), classes=8)
    mnist = make_convolutional_target((1, 28, 28), channels=(8, 16), kernel_size=5, classes=8)
    cifar = make_convolutional_target((3, 32, 32), channels=(16, 32, 32), kernel_size=3, classes=5, hidden=64)
    return {
        "digits-8": _make_recipe("digits-8", digits, steps=800, inputs=32),
        "mnist-8": _make_recipe("mnist-8", mnist, steps=600, inputs=64, augmentation=Augmentation()),
        "cifar-5-brief": _make_recipe("cifar-5-brief", cifar, steps=500, inputs=64, augmentation=CROPS),
    }


def _make_recipe(
    dataset: str, target: TargetNetwork, steps: int, inputs: int, augmentation: Augmentation | None = None
) -> Recipe:
    """A recipe like mnist-hyperdraw, with fewer modes and without outliers."""
    return replace(
        mnist_hyperdraw(),
        name=f"near-foreign {dataset}",
        dataset=dataset,
        method=HyperDrawConfig(MODES),
        target=target,
        steps=steps,
        networks_per_step=MODES,
        inputs_per_network=inputs,
        augmentation=augmentation,
        outliers=None,
        learning_rates={"modes": 3e-3, "gains": 1e-3},
        weight_decays={"modes": 1e-4 / MODES},
        largest_ensemble=2 * MODES,
    )


def add_part(recipe: Recipe, part: Part) -> Recipe:
    """The recipe with a part. Synthetic outliers are few, as the networks of a step and its inputs are."""
    varied = vary(recipe, extras=[part])
    if part is Part.OUTLIERS:
        varied = replace(varied, outliers=OutlierExposure(inputs_per_step=16, group_size=MODES // 2, count=5_000))
    return varied


def study_near_foreign(
    dataset: str,
    parts: Collection[Part],
    out: Path,
    data: Path,
    device: torch.device,
    seeds: Sequence[int],
    steps: int | None,
) -> bool:
    """Trains on a dataset without and with each part, one at a time, and compares; all below `out` / dataset.

    Finished trainings are kept, and interrupted ones are resumed.

    Returns:
        Whether all trainings are finished.

    Raises:
        TrainingError: if a directory holds a run with another command.
    """
    plain = list_recipes()[dataset]
    variants = {"plain": plain, **{part.value: add_part(plain, part) for part in parts}}
    sessions = [
        Session(recipe, out / dataset / name / str(seed), data, device, seed, steps, None, False)
        for seed in seeds
        for name, recipe in variants.items()
    ]
    for session in track(sessions, "near-foreign", "run"):
        if (session.out / "metrics.json").exists():
            check_repeated(session)
        elif not train(replace(session, resume=session.state_file.exists())):
            return False
    compare_directories([session.out for session in sessions], out / dataset, data, device, ())
    return True
