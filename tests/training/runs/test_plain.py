"""The plain network beside a model of own images."""

from pathlib import Path

import torch

from tests.training.data.test_own_images import write_folder
from training.data.image_folders import load_image_folder
from training.recipes.own_images import own_images, plain_network
from training.runs.plain import train_plain_network


def test_a_plain_network_learns_and_a_seed_repeats_it(tmp_path: Path) -> None:
    images = load_image_folder(write_folder(tmp_path / "shapes"))
    dataset = images.dataset
    shape = dataset.train.inputs.shape[1:]
    recipe = plain_network(own_images(images.name, (shape[0], shape[1], shape[2]), 2, len(dataset.train)))
    first, again, other = (train_plain_network(recipe, dataset, seed, 60, torch.device("cpu")) for seed in (0, 0, 1))
    assert first.accuracy.share > 0.8  # bars and rings are easy
    assert first.accuracy.images == len(dataset.test)
    assert (first.nll, first.accuracy) == (again.nll, again.accuracy)
    assert first.nll != other.nll
