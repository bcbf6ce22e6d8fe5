"""The plain network that a model of own images is compared with."""

import time

import torch

from models.predictions.prediction import evaluate_members
from models.samplers.sampler import WeightSampler
from training.data.dataset import Dataset
from training.denormals import flush_denormals
from training.evaluation.baseline import PlainNetwork
from training.evaluation.calibration import fit_member_temperature
from training.evaluation.measures import measure_nll
from training.evaluation.summaries import estimate_share, measure_share
from training.progress import Bar
from training.recipes.recipe import Recipe
from training.runs.session import start_run


@flush_denormals()
def train_plain_network(recipe: Recipe, dataset: Dataset, seed: int, steps: int, device: torch.device) -> PlainNetwork:
    """Trains a single network, and measures it on the test split.

    In folds, its temperature is that of another network, which is trained without the first fold.

    Args:
        recipe: a recipe for one network.
        dataset: the dataset, of classes.
        seed: seed of the training.
        steps: number of steps.
        device: where to train.

    Raises:
        TrainingError: if the training fails.
    """
    part = next(dataset.list_parts())
    started = time.process_time()
    sampler = _train(recipe, dataset, seed, steps, device)
    seconds = time.process_time() - started
    judge = sampler if dataset.folds is None else _train(recipe, part, seed, steps, device)
    validation, test = (
        evaluate_members(networks, dataset.view.prepare(split.inputs), seed, 1).cpu()
        for networks, split in ((judge, part.validation), (sampler, dataset.test))
    )
    temperature = fit_member_temperature(validation, part.validation.labels)
    logs = (test[0] / temperature).log_softmax(-1)
    right = logs.argmax(-1) == dataset.test.labels
    accuracy = estimate_share(measure_share(right), len(right))
    return PlainNetwork(accuracy, measure_nll(logs, dataset.test.labels), seconds)


def _train(recipe: Recipe, dataset: Dataset, seed: int, steps: int, device: torch.device) -> WeightSampler:
    run = start_run(recipe, dataset, seed, steps, device)
    with Bar("plain network", "step", steps) as bar:
        while not run.finished:
            run.step()
            bar.update()
    return run.sampler.eval()
