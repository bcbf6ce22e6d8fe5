import math

import pytest
import torch

from models.hypergan import CodeDiscriminator
from training.objectives import adversarial_loss, cross_entropy, discriminator_loss, moment_distance


def test_cross_entropy_is_the_mean_over_networks() -> None:
    logits = torch.tensor([[[0.0, 0.0]], [[math.log(3), 0.0]]])
    expected = (math.log(2) + math.log(4)) / 2
    assert cross_entropy(logits, torch.tensor([[0], [1]])).item() == pytest.approx(expected)


def test_moment_distance_is_unbiased() -> None:
    """Its mean over many sets is the distance of the true moments, 0 for N(0, I), however few draws a set has."""
    generator = torch.Generator().manual_seed(0)
    scale, shift, d, trials = 1.5, 0.5, 6, 4000
    for a, b in ((1.0, 0.0), (scale, shift)):
        values = torch.stack([moment_distance(a * torch.randn(16, d, generator=generator) + b) for _ in range(trials)])
        truth = b**2 + (a**2 - 1) ** 2
        assert abs(values.mean() - truth) < 6 * values.std() / math.sqrt(trials)


def test_moment_distance_sees_correlated_codes() -> None:
    draws = torch.randn(4096, 4, generator=torch.Generator().manual_seed(0))
    assert moment_distance(draws) < 0.05
    assert moment_distance(torch.cat([draws, draws], dim=1)) > 0.9  # identical codes for two layers


def test_adversarial_losses_at_known_logits() -> None:
    zero = torch.zeros(3)
    assert discriminator_loss(zero, zero).item() == pytest.approx(2 * math.log(2))
    assert adversarial_loss(zero).item() == pytest.approx(math.log(2))
    sure = torch.full((3,), 50.0)
    assert discriminator_loss(sure, -sure).item() == pytest.approx(0, abs=1e-6)
    assert adversarial_loss(-sure).item() == pytest.approx(50)


def test_mixer_works_against_the_discriminator() -> None:
    """The published code's mixer helped it. Here codes that follow the mixer's gradient look more like the prior."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        discriminator = CodeDiscriminator(6, 32)
        optimizer = torch.optim.Adam(discriminator.parameters(), lr=1e-3)
    generator = torch.Generator().manual_seed(0)
    codes = 3 + 0.1 * torch.randn(256, 6, generator=generator)
    for _ in range(200):
        optimizer.zero_grad()
        discriminator_loss(discriminator(torch.randn(256, 6, generator=generator)), discriminator(codes)).backward()
        optimizer.step()
    codes.requires_grad_()
    before = discriminator(codes).mean()
    (gradient,) = torch.autograd.grad(adversarial_loss(discriminator(codes)), codes)
    after = discriminator(codes - 500 * gradient).mean()
    assert before < -2
    assert after > before
    assert (codes - 500 * gradient).norm() < codes.norm()  # towards the prior's mean
