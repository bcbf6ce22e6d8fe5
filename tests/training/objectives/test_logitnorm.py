"""Networks that learn from normalised logits."""

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
from training.runs.session import start_run


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
