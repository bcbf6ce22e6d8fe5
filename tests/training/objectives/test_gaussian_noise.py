"""Training on images with Gaussian noise, and what it is for: larger certificates."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from models.inputs.image import ImageSpec
from models.predictions.perturbation import Descent
from models.predictions.smoothing import Smoothing, certify
from models.samplers.deep_ensemble import DeepEnsembleConfig
from tests.models.predictions.test_smoothing import finish
from tests.training.runs.test_baselines import make_recipe
from training.data.dataset import Dataset
from training.data.datasets import load_dataset
from training.objectives.gaussian_noise import GaussianNoise, add_noise, consistency_loss
from training.runs.session import start_run

SPEC = ImageSpec(channels=1, height=4, width=4, mean=(0.3,), std=(0.5,))
NOISE = GaussianNoise(deviation=0.2, copies=3, consistency_weight=2.0, entropy_weight=0.25)


def test_copies_have_noise_of_their_own_in_units_of_pixels() -> None:
    images = torch.rand(2, 5, 1, 4, 4)
    draws = torch.randn(2, 15, 1, 4, 4)
    noisy = add_noise(SPEC, images, draws, NOISE)
    for copy in range(3):
        own = slice(5 * copy, 5 * copy + 5)
        torch.testing.assert_close(noisy[:, own], images + 0.2 / 0.5 * draws[:, own])


def test_consistency_known_answers() -> None:
    # The copies of one image say (1/2, 1/2), (1/2, 1/2) and (1/2, 1/2).
    same = torch.zeros(1, 3, 2)
    assert consistency_loss(same, NOISE) == pytest.approx(2 * 0.25 * math.log(2))
    # Copies that are certain of different classes: KL from the mean would be infinite, but logits are finite.
    p, q = torch.tensor([0.9, 0.1]), torch.tensor([0.1, 0.9])
    noise = replace(NOISE, copies=2)
    apart = torch.stack([p, q]).log()[None]
    divergence = 0.5 * math.log(0.5 / 0.9) + 0.5 * math.log(0.5 / 0.1)
    assert consistency_loss(apart, noise) == pytest.approx(2 * (divergence + 0.25 * math.log(2)))
    # Two images, copy after copy: each is compared with its own copy.
    both = torch.stack([p, q, p, q]).log()[None]
    entropy = -(0.9 * math.log(0.9) + 0.1 * math.log(0.1))
    assert consistency_loss(both, noise) == pytest.approx(2 * 0.25 * entropy)


def test_noise_in_training_makes_larger_certificates_which_attacks_respect() -> None:
    dataset = load_dataset("digits", Path())
    assert isinstance(dataset, Dataset)
    assert isinstance(dataset.input, ImageSpec)
    spec, examples = dataset.input, dataset.test[:24]
    smoothing = Smoothing(0.25, samples=400, level=0.01)
    averages = []
    for noise in (None, GaussianNoise(0.25, consistency_weight=1.0)):
        recipe = make_recipe(DeepEnsembleConfig(2), own_epochs=True, networks_per_step=2, noise=noise)
        run = start_run(recipe, dataset, 0, 250, torch.device("cpu"))
        while not run.finished:
            run.step()
        sampler = run.sampler.eval()
        found = finish(certify(sampler, spec, examples.inputs, 5, smoothing, "float32"))
        right = [own.radius * (own.label == label) for own, label in zip(found, examples.labels.tolist(), strict=True)]
        averages.append(sum(right) / len(right))
    assert averages[1] > averages[0] + 0.04

    sure = torch.tensor([own.label is not None for own in found])
    labels, radii = (torch.tensor([getattr(own, name) or 0 for own in found])[sure] for name in ("label", "radius"))
    weights = {name: tensor.clone() for name, tensor in sampler.sample(0, range(2)).items()}

    def find(images: torch.Tensor, draws: int, seed: int) -> torch.Tensor:
        """Probabilities of classes in noisy copies, [draws, B, K], each by the next network."""
        generator = torch.Generator().manual_seed(seed)
        noise = 0.25 * torch.randn(draws, 1, *spec.shape, generator=generator)
        noisy = spec.prepare(255 * (images + noise))
        both = [
            recipe.target.forward(
                {n: t[i : i + 1].expand(draws // 2, *t.shape[1:]) for n, t in weights.items()}, noisy[i::2]
            )
            for i in range(2)
        ]
        return torch.cat(both).softmax(-1)

    images = examples.inputs[sure] / 255
    for image, label, radius in zip(images, labels, radii, strict=True):
        descent = Descent(image[None], torch.zeros_like(image)[None], "l2", float(radius), steps=20)
        for step in range(20):
            current = descent.current.requires_grad_()
            (gradient,) = torch.autograd.grad(find(current, 32, step)[..., label].mean(), current)
            descent.step(gradient)
        assert (find(descent.current, 1_000, 99).argmax(-1) == label).double().mean() > 0.5
