"""Networks that learn from normalised logits."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from models.predictions.prediction import evaluate_members
from models.samplers.deep_ensemble import DeepEnsembleConfig
from models.tasks.probabilities import average_logits
from tests.training.runs.test_baselines import make_recipe
from training.data.dataset import Dataset
from training.data.datasets import load_dataset
from training.evaluation.calibration import fit_temperature
from training.evaluation.measures import measure_nll
from training.objectives.logitnorm import LogitNorm, normalize_logits
from training.recipes.recipe import OutlierExposure
from training.recipes.toys import digits_hypergan
from training.runs.session import start_run
from training.runs.state import TrainingError


def test_logits_keep_their_direction_alone() -> None:
    logits = torch.tensor([[[3.0, -4.0], [0.0, 0.1]]])
    expected = torch.tensor([[[6.0, -8.0], [0.0, 10.0]]])
    torch.testing.assert_close(normalize_logits(logits, LogitNorm(temperature=0.1)), expected)
    assert torch.isfinite(normalize_logits(torch.zeros(1, 2, 3), LogitNorm())).all()


def test_networks_are_sharpened_after_the_training() -> None:
    """Their logits are then as long as the labels of the validation split ask for, not as the training left them."""
    dataset = load_dataset("digits", Path())
    assert isinstance(dataset, Dataset)
    run = start_run(
        make_recipe(DeepEnsembleConfig(4), own_epochs=True, logitnorm=LogitNorm()), dataset, 0, 150, torch.device("cpu")
    )
    while not run.finished:
        run.step()
    found = []
    inputs, labels = dataset.input.prepare(dataset.validation.inputs), dataset.validation.labels
    for _ in range(2):
        logs = average_logits(evaluate_members(run.sampler.eval(), inputs, 0, 4))
        found.append((measure_nll(logs, labels), fit_temperature(logs, labels)))
        run.recalibrate()
    (before, _), (after, temperature) = found
    assert after < before - 0.05
    assert temperature == pytest.approx(1, abs=0.25)


def test_no_loss_sees_how_long_logits_are() -> None:
    """Neither the fit nor that on outliers, which networks could else please by shorter logits for all inputs."""
    dataset = load_dataset("digits", Path())
    assert isinstance(dataset, Dataset)
    recipe = make_recipe(DeepEnsembleConfig(4), logitnorm=LogitNorm(), outliers=OutlierExposure(count=40))
    run = start_run(recipe, dataset, 0, 10, torch.device("cpu"))
    losses = []
    for scale in (1.0, 0.1):
        weights = run.sampler.sample(0, range(4))
        last = recipe.target.weighted_layers[-1]
        weights |= {name: scale * tensor for name, tensor in weights.items() if name.startswith(f"{last}.")}
        losses.append(run.problem.fit(recipe.target, weights, 0).losses)
    assert losses[0].keys() == {"fit", "outliers"}
    for name, loss in losses[0].items():
        assert loss.item() == pytest.approx(losses[1][name].item(), rel=1e-3)


def test_networks_that_cannot_be_sharpened_are_refused() -> None:
    recipe = replace(digits_hypergan(), logitnorm=LogitNorm())
    with pytest.raises(TrainingError, match="logitnorm leaves the scale of logits open"):
        start_run(recipe, load_dataset("digits", Path()), 0, 10, torch.device("cpu"))
