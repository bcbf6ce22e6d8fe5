from pathlib import Path

import torch
import torch.nn.functional as F

from models.inputs.image import ImageSpec
from models.samplers.deep_ensemble import DeepEnsembleConfig
from tests.conftest import SMALL_TARGET, draw_weights
from tests.training.runs.test_baselines import make_recipe
from training.data.dataset import Dataset
from training.data.datasets import load_dataset
from training.objectives.hardening import Hardening, harden
from training.runs.session import start_run

SPEC = ImageSpec(channels=1, height=12, width=12, mean=(0.3,), std=(0.5,))


def test_each_network_is_attacked_within_epsilon_and_the_range() -> None:
    generator = torch.Generator().manual_seed(0)
    weights = {name: tensor / 5 for name, tensor in draw_weights(SMALL_TARGET, generator, 3).items()}
    images = SPEC.prepare(torch.randint(256, (3, 4, 1, 12, 12), generator=generator).byte())
    labels = torch.randint(5, (3, 4), generator=generator)
    noise = 2 * torch.rand(images.shape, generator=generator) - 1
    hard = harden(SMALL_TARGET, weights, SPEC, images, labels, noise, Hardening(epsilon=0.1))
    assert ((hard - images).abs() <= 0.1 / 0.5 + 1e-6).all()
    assert (hard - images).abs().mean() > 0.5 * 0.1 / 0.5
    pixels = hard * 0.5 + 0.3
    assert pixels.min() >= -1e-6
    assert pixels.max() <= 1 + 1e-6
    random = (images + 0.2 * noise.sign()).clamp(-0.6, 1.4)
    for network in range(3):  # each errs more on its own than on images with as much noise
        own = {name: tensor[network : network + 1] for name, tensor in weights.items()}
        loss, loss_of_noise = (
            F.cross_entropy(SMALL_TARGET.forward(own, x[network : network + 1])[0], labels[network])
            for x in (hard, random)
        )
        assert loss > loss_of_noise


def test_hardened_networks_err_less_under_attack() -> None:
    dataset = load_dataset("digits", Path())
    assert isinstance(dataset, Dataset)
    assert isinstance(dataset.input, ImageSpec)
    inputs = dataset.input.prepare(dataset.validation.inputs).expand(2, -1, -1, -1, -1)
    labels = dataset.validation.labels.expand(2, -1)
    accuracies = []
    for hardening in (None, Hardening(epsilon=0.07, share=1.0)):
        recipe = make_recipe(DeepEnsembleConfig(2), own_epochs=True, networks_per_step=2, hardening=hardening)
        run = start_run(recipe, dataset, 0, 250, torch.device("cpu"))
        while not run.finished:
            run.step()
        weights = {name: tensor.detach() for name, tensor in run.sampler.generate(torch.tensor([[0], [1]])).items()}
        attack = Hardening(epsilon=0.1, steps=5, share=1.0, stride=0.3)
        hard = harden(recipe.target, weights, dataset.input, inputs, labels, torch.zeros_like(inputs), attack)
        accuracies.append((recipe.target.forward(weights, hard).argmax(-1) == labels).double().mean().item())
    assert accuracies[1] > accuracies[0] + 0.08
