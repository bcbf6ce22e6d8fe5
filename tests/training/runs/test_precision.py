"""Training of networks that are rounded to bfloat16 in each step."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from models.samplers.deep_ensemble import DeepEnsembleConfig
from models.samplers.hyperdraw import HyperDrawConfig
from tests.training.runs.test_baselines import make_recipe
from training.data.datasets import load_dataset
from training.recipes.toys import toy_cubic
from training.runs.session import start_run
from training.runs.state import TrainingError

CPU = torch.device("cpu")


def test_networks_learn_as_well_as_in_float32() -> None:
    dataset = load_dataset("digits", Path())
    accuracies, losses = [], []
    for precision in ("float32", "bfloat16"):
        method = HyperDrawConfig(modes=2, latent_size=4)
        rates = {"modes": 1e-2, "gains": 1e-3}
        recipe = make_recipe(method, own_epochs=True, networks_per_step=2, learning_rates=rates, precision=precision)
        run = start_run(recipe, dataset, 0, 200, CPU)
        losses.append(float(run.step().losses["fit"]))
        while not run.finished:
            report = run.step()
        assert all(parameter.dtype == torch.float32 for parameter in run.sampler.parameters())
        assert all(tensor.dtype == torch.float32 for tensor in report.weights.values())
        accuracies.append(run.validate()["ensemble accuracy"])
    assert losses[0] != losses[1]  # the first step is the same but for rounding
    assert losses[0] == pytest.approx(losses[1], rel=0.01)
    assert min(accuracies) > 0.85
    assert accuracies[1] == pytest.approx(accuracies[0], abs=0.02)


def test_a_default_run_is_not_rounded() -> None:
    assert make_recipe(DeepEnsembleConfig(2)).precision == "float32"


def test_networks_of_numbers_are_refused() -> None:
    with pytest.raises(TrainingError, match="trained in bfloat16 only if they take images"):
        start_run(replace(toy_cubic(), precision="bfloat16"), load_dataset("cubic", Path()), 0, 10, CPU)
