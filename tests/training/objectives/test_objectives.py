import math

import pytest
import torch

from models.samplers.hypergan import CodeDiscriminator
from models.targets.layers import Linear
from models.targets.target import TargetNetwork
from models.tasks.classification import Classification
from models.tasks.regression import Regression
from tests.conftest import SMALL_TARGET, draw_weights
from training.objectives.objectives import (
    Diversity,
    Measure,
    adversarial_loss,
    balance_classes,
    discriminator_loss,
    estimate_entropy,
    moment_distance,
    relative_variance,
)


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


def test_balanced_classes_weigh_the_same() -> None:
    """Each weighs a third; one that is absent weighs nothing, and the best constant answer is the uniform one."""
    labels = torch.tensor([0] * 90 + [1] * 9 + [2])
    weights = balance_classes(labels, 3)
    assert (weights * labels.bincount()).tolist() == pytest.approx([100 / 3] * 3)
    assert weights[labels].mean().item() == pytest.approx(1)
    assert balance_classes(torch.tensor([0, 0, 2]), 3).isfinite().all()
    logits = torch.zeros(3, requires_grad=True)
    task = Classification(("a", "b", "c"))
    task.measure_loss(logits.expand(2, 100, 3), labels.expand(2, 100), weights).backward()
    assert logits.grad is not None
    assert logits.grad.abs().max() < 1e-6
    logits = torch.randn(2, 100, 3, generator=torch.Generator().manual_seed(0))
    expected = torch.stack([-logits.log_softmax(-1)[:, labels == c, c].mean() for c in range(3)]).mean()
    assert task.measure_loss(logits, labels.expand(2, 100), weights).item() == pytest.approx(expected.item())


@pytest.mark.parametrize("d", [1, 2, 5])
@pytest.mark.parametrize("n", [50, 1000])
def test_entropy_of_a_gaussian(d: int, n: int) -> None:
    """Closed form d/2 · ln(2πe σ²). The estimator's bias in few dimensions is far below the tolerance."""
    generator = torch.Generator().manual_seed(0)
    trials = 20_000 // n
    estimates = torch.stack([estimate_entropy(3 * torch.randn(n, d, generator=generator)) for _ in range(trials)])
    truth = d / 2 * math.log(2 * math.pi * math.e * 9)
    bias = {1: 0.01, 2: 0.05, 5: 0.7}[d] * (50 / n) ** 0.4
    assert abs(estimates.mean().item() - truth) < bias + 6 * estimates.std().item() / math.sqrt(trials)


@pytest.mark.parametrize("d", [1, 2, 3])
def test_entropy_of_a_uniform(d: int) -> None:
    """Closed form ln of the volume; points at the border have their neighbours farther off, the more so with d."""
    generator = torch.Generator().manual_seed(0)
    estimates = torch.stack([estimate_entropy(4 * torch.rand(1000, d, generator=generator)) for _ in range(20)])
    tolerance = {1: 0.005, 2: 0.04, 3: 0.12}[d]
    assert abs(estimates.mean().item() - d * math.log(4)) < tolerance + 6 * estimates.std().item() / math.sqrt(20)


def test_entropy_does_not_depend_on_n_for_a_density_without_border() -> None:
    """On a circle, a manifold of one dimension in two: ln 2π at any n, without bias in the limit of small chords."""
    generator = torch.Generator().manual_seed(0)
    for n in (30, 300):
        angles = 2 * math.pi * torch.rand(200, n, generator=generator)
        points = torch.stack([angles.cos(), angles.sin()], dim=-1)
        estimates = torch.stack([estimate_entropy(p, dimension=1) for p in points])
        error = 6 * estimates.std().item() / math.sqrt(200)
        assert estimates.mean().item() == pytest.approx(math.log(2 * math.pi), abs=error + 0.01)


def test_entropy_scales_and_moves_as_it_should() -> None:
    samples = torch.randn(64, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert estimate_entropy(5 * samples + 2).item() == pytest.approx(estimate_entropy(samples).item() + 7 * math.log(5))
    assert estimate_entropy(5 * samples, dimension=3).item() == pytest.approx(
        estimate_entropy(samples, dimension=3).item() + 3 * math.log(5)
    )


def test_entropy_is_precise_in_float32_for_networks_that_are_close() -> None:
    """Distances from squares and products would lose all digits here."""
    generator = torch.Generator().manual_seed(0)
    samples = 100 + 1e-3 * torch.randn(40, 1000, generator=generator, dtype=torch.float64)
    samples = samples.float().double()  # the rounding of the samples themselves is not the estimator's
    assert estimate_entropy(samples.float(), 10).item() == pytest.approx(estimate_entropy(samples, 10).item(), abs=1e-3)


def test_entropy_pushes_neighbours_apart() -> None:
    samples = torch.tensor([[0.0, 0.0], [1.0, 0.0], [5.0, 0.0]], requires_grad=True)
    (gradient,) = torch.autograd.grad(estimate_entropy(samples), samples)
    assert gradient[0, 0] < 0 < gradient[2, 0]
    assert torch.isfinite(gradient).all()


def test_entropy_of_too_few_samples() -> None:
    for n in (0, 1):
        with pytest.raises(ValueError, match=f"an entropy estimate needs at least 2 samples, not {n}"):
            estimate_entropy(torch.zeros(n, 3))
        with pytest.raises(ValueError, match=f"a variance estimate needs at least 2 samples, not {n}"):
            relative_variance(torch.zeros(n, 3))


def test_duplicates_have_no_entropy_unless_there_is_a_floor() -> None:
    samples = torch.tensor([[0.0], [2.0], [1.0], [2.0]], requires_grad=True)
    with pytest.raises(ValueError, match="samples 1 and 3 of 4 are equal, so their entropy is −∞"):
        estimate_entropy(samples)
    estimate = estimate_entropy(samples, floor=1e-6)
    (gradient,) = torch.autograd.grad(estimate, samples)
    assert torch.isfinite(estimate)
    assert torch.isfinite(gradient).all()


def test_relative_variance_known_answer() -> None:
    samples = torch.tensor([[0.0, 1.0], [2.0, 1.0]])  # variances 2 and 0, mean squares 2 and 1
    assert relative_variance(samples).item() == pytest.approx(2 / 3)
    assert relative_variance(1000 * samples).item() == pytest.approx(2 / 3)
    assert relative_variance(torch.tensor([[1.0], [-1.0]])).item() == pytest.approx(2)  # n / (n − 1), its largest value


def test_entropy_makes_variational_inference() -> None:
    """With λ = N, a linear sampler learns a linear regression's posterior, which has a closed form."""
    generator = torch.Generator().manual_seed(0)
    n, noise = 20, 0.5
    inputs = torch.cat([torch.randn(n, 1, generator=generator), torch.ones(n, 1)], dim=1)
    labels = inputs @ torch.tensor([2.0, -1.0]) + noise * torch.randn(n, generator=generator)
    covariance = noise**2 * torch.linalg.inv(inputs.T @ inputs)
    mean = covariance @ inputs.T @ labels / noise**2
    scale, shift = torch.eye(2).requires_grad_(), torch.zeros(2).requires_grad_()
    optimizer = torch.optim.Adam([scale, shift], lr=0.02)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 600)
    diversity = Diversity(accuracy_weight=n, gauge=())
    task = Regression(names=("y",), mean=(0.0,), std=(1.0,), noise_std=(noise,))
    target = TargetNetwork((1,), (Linear(1),))
    for _ in range(600):
        samples = torch.randn(128, 2, generator=generator) @ scale.T + shift
        weights = {"linear1.weight": samples[:, :1, None], "linear1.bias": samples[:, 1:]}
        outputs = target.forward(weights, inputs[:, :1])
        fit = task.measure_loss(outputs, labels[:, None].expand(128, -1, -1))
        optimizer.zero_grad()
        (fit + diversity.measure_loss(target, weights, latent_size=2)).backward()
        optimizer.step()
        schedule.step()
    torch.testing.assert_close(shift.detach(), mean, atol=0.03, rtol=0)
    learned = (scale @ scale.T).detach()
    torch.testing.assert_close(learned, covariance, atol=0.25 * float(covariance.max()), rtol=0)


@pytest.mark.parametrize("measure", ["entropy", "variance"])
def test_layers_may_count_equally(measure: Measure) -> None:
    """Whatever the scale of the last layer, which no gauge fixes, and the number of a layer's weights."""
    weights = draw_weights(SMALL_TARGET, torch.Generator().manual_seed(0), 6)
    larger = weights | {name: 1000 * weights[name] for name in ("linear1.weight", "linear1.bias")}
    for equal_layers in (False, True):
        diversity = Diversity(1.0, measure, equal_layers=equal_layers)
        one, other = (diversity.measure_loss(SMALL_TARGET, w, latent_size=5).item() for w in (weights, larger))
        assert (one == pytest.approx(other, rel=1e-3)) is equal_layers
    only_last = {name: t if name.startswith("linear1") else t[:1].expand_as(t) for name, t in weights.items()}
    share = -Diversity(1.0, "variance", equal_layers=True).measure_loss(SMALL_TARGET, only_last, 5).item()
    assert share == pytest.approx(1 / 3, rel=0.1)  # one layer of three is random about 0


@pytest.mark.parametrize("measure", ["entropy", "variance"])
def test_diversity_is_divided_by_lambda_and_blind_to_the_gauge(measure: Measure) -> None:
    weights = draw_weights(SMALL_TARGET, torch.Generator().manual_seed(0), 6)
    rescaled = dict(weights)
    rescaled["conv1.weight"], rescaled["conv1.bias"] = 3 * weights["conv1.weight"], 3 * weights["conv1.bias"]
    rescaled["conv2.weight"] = weights["conv2.weight"] / 3
    ten, one = (Diversity(accuracy_weight, measure) for accuracy_weight in (10.0, 1.0))
    loss = one.measure_loss(SMALL_TARGET, weights, latent_size=5)
    torch.testing.assert_close(ten.measure_loss(SMALL_TARGET, weights, latent_size=5), loss / 10)
    torch.testing.assert_close(one.measure_loss(SMALL_TARGET, rescaled, latent_size=5), loss, rtol=1e-4, atol=1e-4)


def test_diversity_may_come_first() -> None:
    diversity = Diversity(8.0, initial_share=0.25)
    weights = draw_weights(SMALL_TARGET, torch.Generator().manual_seed(0), 6)
    losses = [diversity.measure_loss(SMALL_TARGET, weights, 5, progress).item() for progress in (0, 0.35, 0.7, 1)]
    assert losses == pytest.approx([4 * losses[-1], 2 * losses[-1], losses[-1], losses[-1]])
    assert losses[-1] == pytest.approx(Diversity(8.0).measure_loss(SMALL_TARGET, weights, 5).item())


@pytest.mark.parametrize("weight", [-1.0, 0.0, math.nan])
def test_lambda_must_be_positive(weight: float) -> None:
    with pytest.raises(ValueError, match="the weight of accuracy, λ, must be positive"):
        Diversity(weight)
