"""Certificates of linear classifiers, whose probabilities under noise are known.

In an image x with noise of deviation σ, network i finds class 1 with the probability Φ(dᵢ(x) / σ), where dᵢ(x) is the
signed distance of x from its boundary.
"""

from collections.abc import Generator
from dataclasses import replace
from statistics import NormalDist
from typing import TypeVar

import pytest
import torch
from torch import Tensor

from models.inputs.image import ImageSpec
from models.predictions.perturbation import Descent
from models.predictions.smoothing import Certificate, Smoothing, certify
from models.samplers.deep_ensemble import DeepEnsembleConfig
from models.samplers.hyperdraw import HyperDrawConfig
from models.samplers.sampler import WeightSampler
from models.targets.layers import Flatten, Linear
from models.targets.target import TargetNetwork
from models.tasks.probabilities import NotFiniteError

SPEC = ImageSpec(channels=1, height=6, width=6, mean=(0.3,), std=(0.5,))
TARGET = TargetNetwork((1, 6, 6), (Flatten(), Linear(2)))
SIGMA = 0.3
SMOOTHING = Smoothing(SIGMA, samples=2_000)

Result = TypeVar("Result")


def finish(steps: Generator[None, None, Result]) -> Result:
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]


def ask(sampler: WeightSampler, pixels: Tensor, smoothing: Smoothing = SMOOTHING, seed: int = 5) -> list[Certificate]:
    return finish(certify(sampler, SPEC, pixels, seed, smoothing, "float32"))


def make_ensemble(networks: int) -> WeightSampler:
    torch.manual_seed(0)
    sampler = DeepEnsembleConfig(networks).build(TARGET).eval()
    with torch.no_grad():
        for parameter in sampler.parameters():
            parameter.copy_(torch.randn_like(parameter))
    return sampler


def draw_pixels(count: int, seed: int = 0) -> Tensor:
    return torch.randint(256, (count, *SPEC.shape), generator=torch.Generator().manual_seed(seed)).byte()


def measure_distances(sampler: WeightSampler, images: Tensor) -> Tensor:
    """Signed distances of images [B, …], between 0 and 1, from each network's boundary, [S, B]."""
    assert sampler.num_networks
    weights = {name: tensor.clone() for name, tensor in sampler.sample(0, range(sampler.num_networks)).items()}
    slopes = weights["linear1.weight"].diff(dim=1)[:, 0] / 0.5
    logits = TARGET.forward(weights, SPEC.prepare(255 * images))
    distances: Tensor = logits.diff(dim=-1)[..., 0] / slopes.norm(dim=1)[:, None]
    return distances


def measure_probabilities(sampler: WeightSampler, images: Tensor) -> Tensor:
    """Probability of class 1 for fresh noise and a network at random, [B]."""
    probabilities: Tensor = torch.special.ndtr(measure_distances(sampler, images) / SIGMA).mean(0)
    return probabilities


@pytest.mark.parametrize("networks", [1, 3])
def test_radii_are_just_below_those_of_the_known_probabilities(networks: int) -> None:
    sampler, pixels = make_ensemble(networks), draw_pixels(24)
    probabilities = measure_probabilities(sampler, pixels / 255)
    found = ask(sampler, pixels)
    for certificate, p in zip(found, probabilities.tolist(), strict=True):
        true = max(p, 1 - p)
        assert certificate.least_probability <= true
        assert certificate.least_probability == pytest.approx(true, abs=0.06)
        assert certificate.label in (None, int(p > 0.5))
        if certificate.label is not None:
            assert certificate.radius == pytest.approx(SIGMA * NormalDist().inv_cdf(certificate.least_probability))
        else:
            assert certificate.radius == 0
    if networks == 1:  # whose radius is the distance from the boundary
        for certificate, distance in zip(
            found, measure_distances(sampler, pixels / 255)[0].abs().tolist(), strict=True
        ):
            assert 0.75 * min(distance, 2.4 * SIGMA) - 0.03 < certificate.radius <= distance


def test_no_attack_within_the_radius_changes_the_most_probable_class() -> None:
    """The attack knows the probabilities exactly. Beyond the radius, it succeeds."""
    sampler, pixels = make_ensemble(3), draw_pixels(24)
    found = ask(sampler, pixels)
    sure = torch.tensor([certificate.label is not None for certificate in found])
    radii = torch.tensor([certificate.radius for certificate in found])[sure]
    labels = torch.tensor([certificate.label or 0 for certificate in found])[sure]
    images = pixels[sure] / 255

    def attack(share: float) -> Tensor:
        """Probabilities of the labels after an attack within a share of each radius."""
        after = []
        for image, radius, label in zip(images, radii, labels, strict=True):
            descent = Descent(image[None], torch.zeros_like(image)[None], "l2", share * float(radius), steps=40)
            for _ in range(40):
                current = descent.current.requires_grad_()
                p = measure_probabilities(sampler, current)
                (gradient,) = torch.autograd.grad((p if label else 1 - p).sum(), current)
                descent.step(gradient)
            p = measure_probabilities(sampler, descent.current)
            after.append(p if label else 1 - p)
        return torch.cat(after)

    assert len(images) > 10
    assert (attack(0.999) > 0.5).all()
    assert (attack(2.0) < 0.5).any()


def test_bounds_fail_no_more_often_than_they_say() -> None:
    sampler, pixels = make_ensemble(3), draw_pixels(1)
    p = float(measure_probabilities(sampler, pixels / 255)[0])
    smoothing = Smoothing(SIGMA, samples=100, level=0.2)
    bounds = [ask(sampler, pixels, smoothing, seed)[0].least_probability for seed in range(200)]
    wrong = sum(bound > max(p, 1 - p) for bound in bounds) / 200
    assert wrong <= 0.2 + 3 * (0.2 * 0.8 / 200) ** 0.5
    assert sum(bound > max(p, 1 - p) - 0.15 for bound in bounds) > 100


def test_sampling_stops_when_a_radius_is_certified_or_out_of_reach() -> None:
    sampler, pixels = make_ensemble(1), draw_pixels(24)
    distances = measure_distances(sampler, pixels / 255)[0].abs()
    smoothing = replace(SMOOTHING, samples=10_000, radius=SIGMA)
    for certificate, distance in zip(ask(sampler, pixels, smoothing), distances.tolist(), strict=True):
        if distance > 2 * SIGMA:
            assert certificate.samples < 10_000
            assert certificate.radius >= SIGMA
        if distance < 0.5 * SIGMA:
            assert certificate.samples < 10_000
            assert certificate.radius < SIGMA
    assert (distances > 2 * SIGMA).any()
    assert (distances < 0.5 * SIGMA).any()


def test_networks_of_a_finite_sampler_take_turns() -> None:
    """Two networks that always disagree have equally many votes, so nothing is certified. Their means agree."""
    sampler = make_ensemble(2)
    weights = sampler.state_dict()
    with torch.no_grad():
        for name, parameter in sampler.named_parameters():
            parameter.zero_()
            if "bias" in name:
                parameter.copy_(torch.tensor([[1.0, -1.0], [-2.0, 2.0]]).view_as(parameter))
    assert weights.keys() == sampler.state_dict().keys()
    (apart,) = ask(sampler, draw_pixels(1), replace(SMOOTHING, samples=1_000))
    assert apart.label is None
    assert apart.votes * 2 in (apart.samples, apart.samples + 2, apart.samples - 2)
    (together,) = ask(sampler, draw_pixels(1), replace(SMOOTHING, samples=1_000, networks=2))
    assert (together.label, together.votes) == (1, 1_000)
    with pytest.raises(ValueError, match="has only 2 networks, not 3"):
        ask(sampler, draw_pixels(1), replace(SMOOTHING, networks=3))


def test_a_certificate_does_not_depend_on_other_images() -> None:
    torch.manual_seed(0)
    sampler = HyperDrawConfig(modes=4, latent_size=2).build(TARGET).eval()
    pixels = draw_pixels(5)
    smoothing = replace(SMOOTHING, samples=400, networks=3)
    together = ask(sampler, pixels, smoothing)
    assert together == [ask(sampler, pixels[i : i + 1], smoothing)[0] for i in range(5)]
    assert together != ask(sampler, pixels, smoothing, seed=6)


def test_outputs_that_are_not_finite_are_refused() -> None:
    sampler = make_ensemble(1)
    with torch.no_grad():
        next(sampler.parameters()).fill_(torch.inf)
    with pytest.raises(NotFiniteError):
        ask(sampler, draw_pixels(1))


@pytest.mark.parametrize("change", [{"deviation": 0.0}, {"samples": 0}, {"level": 1.0}, {"networks": 0}, {"radius": 0}])
def test_settings_out_of_range_are_refused(change: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        replace(SMOOTHING, **change)  # type: ignore[arg-type]
