"""Networks that also learn how images were turned."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from models.inputs.image import ImageSpec
from models.samplers.deep_ensemble import DeepEnsembleConfig
from tests.conftest import SMALL_TARGET, draw_weights
from tests.training.runs.test_baselines import make_recipe
from training.data.dataset import Dataset
from training.data.datasets import load_dataset
from training.objectives.rotation import Rotation, TurnHead, rotation_loss, turn_images
from training.recipes.recipe import Recipe
from training.recipes.toys import digits_hypergan, toy_cubic
from training.runs.run import TrainingRun
from training.runs.session import start_run
from training.runs.state import TrainingError

CPU = torch.device("cpu")
GENERATOR = torch.Generator().manual_seed(0)


def start(recipe: Recipe, steps: int = 150) -> TrainingRun:
    return start_run(recipe, load_dataset(recipe.dataset, Path()), 0, steps, CPU)


def test_each_image_is_turned_once_more_than_the_one_before() -> None:
    image = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    turned = turn_images(image.expand(2, 5, 3, 2, 2))
    expected = [[[1, 2], [3, 4]], [[2, 4], [1, 3]], [[4, 3], [2, 1]], [[3, 1], [4, 2]], [[1, 2], [3, 4]]]
    assert torch.equal(turned, torch.tensor(expected).float()[None, :, None].expand(2, 5, 3, 2, 2))


def test_losses_known_answers() -> None:
    sure = 1000 * torch.eye(4)[[0, 1, 2, 3, 0, 1]].expand(2, 6, 4)
    assert rotation_loss(sure, Rotation()).item() == pytest.approx(0)
    assert rotation_loss(0 * sure, Rotation(weight=0.25)).item() == pytest.approx(0.25 * math.log(4))


def test_further_rows_leave_the_classes_alone() -> None:
    head = TurnHead(SMALL_TARGET, 3)
    torch.nn.init.normal_(head.weight, generator=GENERATOR)
    torch.nn.init.normal_(head.bias, generator=GENERATOR)
    weights, images = draw_weights(SMALL_TARGET, GENERATOR, 3), torch.randn(4, 1, 12, 12, generator=GENERATOR)
    outputs = head.target.forward(head.extend(weights), images)
    torch.testing.assert_close(outputs[..., :5], SMALL_TARGET.forward(weights, images))


def test_turns_are_learned_beside_the_classes_by_plain_networks() -> None:
    """Guessing has a loss of half of ln 4, which is .69."""
    recipe = make_recipe(DeepEnsembleConfig(4), own_epochs=True, rotation=Rotation(learning_rate=1e-2))
    run = start(recipe)
    while not run.finished:
        report = run.step()
    assert report.losses["rotation"] < 0.45
    assert report.metrics["accuracy"] > 0.8
    assert {name: tuple(p.shape[1:]) for name, p in run.sampler.named_parameters()} == {
        f"networks.{name}": shape for name, shape in recipe.target.parameter_shapes.items()
    }


def test_an_interrupted_training_goes_on_with_the_same_rows(tmp_path: Path) -> None:
    recipe = replace(digits_hypergan(), networks_per_step=4, codes_per_step=8, rotation=Rotation())
    whole, halted = start(recipe, 6), start(recipe, 6)
    for _ in range(3):
        halted.step()
    halted.save(tmp_path / "state")
    resumed = start(recipe, 6)
    resumed.load(tmp_path / "state")
    for run in (whole, resumed):
        while not run.finished:
            run.step()
    assert resumed.problem.turn_head is not None
    assert resumed.problem.turn_head.weight.any()
    ours, theirs = resumed.sampler.state_dict(), whole.sampler.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_what_cannot_be_turned_is_refused() -> None:
    with pytest.raises(TrainingError, match="rotation can only be used to classify images, not with cubic"):
        start(replace(toy_cubic(), rotation=Rotation()))
    dataset = load_dataset("digits", Path())
    assert isinstance(dataset, Dataset)
    assert isinstance(dataset.input, ImageSpec)
    wide = replace(dataset, input=replace(dataset.input, width=9))
    recipe = make_recipe(DeepEnsembleConfig(4), rotation=Rotation())
    with pytest.raises(TrainingError, match="only square images that the networks see themselves can be turned"):
        start_run(recipe, wide, 0, 10, CPU)
