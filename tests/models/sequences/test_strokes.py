"""Pen strokes: likelihoods against closed forms, limits of temperature, and frequencies of samples."""

import math
from dataclasses import replace

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

from models.sequences.strokes import CORRELATION_LIMIT, ENDED, LIFTED, StrokesSpec, average_surprisal, draw_noise

SPEC = StrokesSpec(scale=50.0, extent=250.0, max_points=100, mixtures=3)
ONE = replace(SPEC, mixtures=1)
STAYS, NOT_LAST = 0.0, torch.tensor(False)


def random_outputs(*shape: int, spec: StrokesSpec = SPEC, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, spec.num_outputs, generator=generator, dtype=torch.float64)


def make_outputs(
    weights: list[float],
    means: list[list[float]],
    deviations: list[list[float]],
    correlations: list[float],
    pen: list[float],
) -> Tensor:
    """Outputs [6K + 3] for known parameters, in units of the scale."""
    numbers = [torch.tensor(values, dtype=torch.float64) for values in (weights, means, deviations, correlations, pen)]
    parts = (
        numbers[0].log(),
        numbers[1].flatten(),
        5 * (numbers[2].log() / 5).atanh().flatten(),
        (numbers[3] / CORRELATION_LIMIT).atanh(),
        numbers[4].log(),
    )
    return torch.cat(parts)


def test_sizes() -> None:
    assert StrokesSpec(1.0, 5.0, 10).num_outputs == 6 * 20 + 3
    assert SPEC.num_inputs == 3


@pytest.mark.parametrize(
    "change",
    [
        {"scale": 0.0},
        {"scale": math.nan},
        {"scale": 1e9},
        {"extent": 0.0},
        {"extent": math.inf},
        {"mixtures": 0},
        {"mixtures": 10**6},
        {"max_points": 0},
        {"max_points": 10**9},
        {"kind": "text"},
        {"colour": "red"},
    ],
)
def test_specs_that_make_no_sense(change: dict[str, object]) -> None:
    sound = {"scale": 50.0, "extent": 250.0, "max_points": 100, "mixtures": 3, "kind": "strokes"}
    adapter = TypeAdapter(StrokesSpec)
    assert adapter.validate_python(sound) == SPEC
    with pytest.raises(ValidationError):
        adapter.validate_python(sound | change)


def test_a_network_reads_the_point_before() -> None:
    points = torch.tensor([[50.0, -100.0, 0.0], [25.0, 0.0, 1.0], [7.0, 7.0, 1.0]])
    expected = torch.tensor([[0.0, 0.0, 0.0], [1.0, -2.0, 0.0], [0.5, 0.0, 1.0]])
    torch.testing.assert_close(SPEC.make_inputs(points), expected)
    batch = torch.stack([points, points.flip(0)], dim=1)
    torch.testing.assert_close(SPEC.make_inputs(batch)[:, 1], SPEC.make_inputs(points.flip(0)))


def test_one_component_without_correlation_is_two_normals() -> None:
    outputs = make_outputs([1.0], [[0.5, -1.0]], [[2.0, 0.1]], [0.0], [0.7, 0.2, 0.1])
    point = torch.tensor([75.0, -45.0, STAYS], dtype=torch.float64)  # 1.5 and −0.9 in units of the scale
    parts = ONE.split_surprisal(outputs, point, NOT_LAST)
    x, y = (math.log(d * math.sqrt(2 * math.pi)) + (a / d) ** 2 / 2 for d, a in ((2.0, 1.0), (0.1, 0.1)))
    assert float(parts.offset) == pytest.approx(x + y, rel=1e-9)
    assert float(parts.pen) == pytest.approx(-math.log(0.7), rel=1e-9)
    assert float(ONE.measure_surprisal(outputs, point, NOT_LAST)) == pytest.approx(x + y - math.log(0.7), rel=1e-9)


def test_the_mixture_is_that_of_torch() -> None:
    outputs, points = random_outputs(40), torch.cat([80 * torch.randn(40, 2), torch.zeros(40, 1)], dim=-1).double()
    found = SPEC.describe(outputs)
    deviation, correlation = found["deviation"], found["correlation"]
    covariance = torch.diag_embed(deviation**2)
    covariance[..., 0, 1] = covariance[..., 1, 0] = correlation * deviation.prod(-1)
    mixture = MixtureSameFamily(Categorical(found["weight"]), MultivariateNormal(found["mean"], covariance))
    expected = -mixture.log_prob(points[:, :2]) - 2 * math.log(SPEC.scale)
    measured = SPEC.split_surprisal(outputs, points, torch.zeros(40, dtype=torch.bool)).offset
    torch.testing.assert_close(measured, expected)


def test_what_outputs_mean() -> None:
    """Where each parameter is among the outputs, in the data's unit."""
    means, deviations = [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], [[0.1, 0.2], [0.3, 0.4], [0.5, 0.6]]
    outputs = make_outputs([0.2, 0.3, 0.5], means, deviations, [-0.9, 0.0, 0.9], [0.5, 0.3, 0.2])
    found = SPEC.describe(outputs)
    expected = {
        "weight": torch.tensor([0.2, 0.3, 0.5]),
        "mean": 50 * torch.tensor(means),
        "deviation": 50 * torch.tensor(deviations),
        "correlation": torch.tensor([-0.9, 0.0, 0.9]),
        "pen": torch.tensor([0.5, 0.3, 0.2]),
    }
    torch.testing.assert_close(found, {name: value.double() for name, value in expected.items()})


def test_an_end_counts_whatever_the_pen_does() -> None:
    outputs = make_outputs([1.0], [[0.0, 0.0]], [[1.0, 1.0]], [0.0], [0.5, 0.3, 0.2]).expand(4, -1)
    points = torch.tensor([[0, 0, 0], [0, 0, 1], [0, 0, 0], [0, 0, 1]])
    last = torch.tensor([False, False, True, True])
    pen = ONE.split_surprisal(outputs, points, last).pen
    torch.testing.assert_close((-pen).exp(), torch.tensor([0.5, 0.3, 0.2, 0.2], dtype=torch.float64))


def test_several_networks_are_measured_at_once() -> None:
    outputs, points = random_outputs(2, 5, 4), random_outputs(5, 4)[..., :3]
    last = torch.zeros(5, 4, dtype=torch.bool)
    measured = SPEC.measure_surprisal(outputs, points, last)
    assert measured.shape == (2, 5, 4)
    torch.testing.assert_close(measured[1], SPEC.measure_surprisal(outputs[1], points, last))


def test_an_ensemble_averages_densities() -> None:
    surprisals = -torch.tensor([[0.2, 1e-30], [0.4, 0.5]], dtype=torch.float64).log()
    torch.testing.assert_close((-average_surprisal(surprisals)).exp(), torch.tensor([0.3, 0.25]).double())
    certain = torch.tensor([1e5, -3.0])
    torch.testing.assert_close(average_surprisal(certain.expand(7, 2)), certain)


def test_gradients() -> None:
    outputs = random_outputs(3).requires_grad_()
    points, last = 60 * random_outputs(3, seed=1)[:, :3], torch.tensor([False, True, False])
    assert torch.autograd.gradcheck(lambda o: SPEC.measure_surprisal(o, points, last), outputs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [1e2, 1e4, 1e30])
def test_extreme_outputs_have_finite_losses_and_gradients(size: float, dtype: torch.dtype) -> None:
    outputs = (size * random_outputs(200)).to(dtype).requires_grad_()
    points = torch.tensor([[5e4, -5e4, 1.0], [0.0, 0.0, 0.0]]).repeat(100, 1)
    losses = SPEC.measure_surprisal(outputs, points, torch.arange(200) % 3 == 0)
    assert losses.dtype == torch.float32
    assert losses.isfinite().all()
    losses.sum().backward()
    assert outputs.grad is not None
    assert outputs.grad.isfinite().all()


def test_likelihoods_have_a_limit() -> None:
    """Zeros among offsets could otherwise be predicted with any density."""
    k = SPEC.mixtures
    outputs = torch.cat([torch.zeros(3 * k), torch.full((2 * k,), -1e3), torch.full((k,), 1e3), torch.zeros(3)])
    least = float(SPEC.split_surprisal(outputs, torch.zeros(3), NOT_LAST).offset)
    assert least == pytest.approx(-11.27, abs=0.01)


def test_the_least_deviation_can_be_left_again() -> None:
    outputs = torch.zeros(ONE.num_outputs, dtype=torch.float64)
    outputs[3:5] = -20.0
    outputs.requires_grad_()
    far = torch.tensor([50.0, 50.0, STAYS])
    ONE.measure_surprisal(outputs, far, NOT_LAST).backward()
    assert outputs.grad is not None
    assert (outputs.grad[3:5] < 0).all()  # descent widens


def test_samples_are_as_frequent_as_their_probabilities() -> None:
    count = 20_000
    weights, pen = [0.6, 0.3, 0.1], [0.7, 0.25, 0.05]
    outputs = make_outputs(weights, [[-9.0, 0.0], [0.0, 0.0], [9.0, 0.0]], [[1.0, 1.0]] * 3, [0.0] * 3, pen)
    points, ended = SPEC.sample(outputs.expand(count, -1), draw_noise(3, 0, range(count)))
    assert points.shape == (count, 3)
    assert points.dtype == torch.float32
    nearest = (points[:, 0] / SPEC.scale / 9).round().clamp(-1, 1).long() + 1
    states = torch.where(ended, ENDED, points[:, 2].long())
    assert (points[ended, 2] == 1).all()  # the pen is lifted at the end
    for found, expected in ((nearest, weights), (states, pen)):
        shares = torch.tensor(expected)
        deviations = (found.bincount(minlength=3) - count * shares) / (count * shares * (1 - shares)).sqrt()
        assert deviations.abs().max() < 5  # each beyond 5 with probability 6e-7


@pytest.mark.parametrize("temperature", [1.0, 0.25])
def test_samples_spread_as_the_distribution_says(temperature: float) -> None:
    count, correlation = 20_000, 0.8
    outputs = make_outputs([1.0], [[1.0, -2.0]], [[0.5, 2.0]], [correlation], [1 / 3] * 3)
    points, _ = ONE.sample(outputs.expand(count, -1), draw_noise(4, 0, range(count)), temperature)
    deviations = torch.tensor([0.5, 2.0]) * math.sqrt(temperature)
    normal = (points[:, :2] / ONE.scale - torch.tensor([1.0, -2.0])) / deviations
    # Means deviate by 1/√n, variances by √(2/n), the correlation by (1 − ρ²)/√n: each beyond 5 deviations at 6e-7.
    assert normal.mean(0).abs().max() < 5 / math.sqrt(count)
    assert (normal.var(0) - 1).abs().max() < 5 * math.sqrt(2 / count)
    assert abs(normal.T.corrcoef()[0, 1] - correlation) < 5 * (1 - correlation**2) / math.sqrt(count)


def test_the_mean_surprisal_of_samples_is_the_entropy() -> None:
    count, correlation = 20_000, -0.6
    outputs = make_outputs([1.0], [[0.0, 0.0]], [[0.5, 2.0]], [correlation], [0.5, 0.3, 0.2]).expand(count, -1)
    points, ended = ONE.sample(outputs, draw_noise(5, 0, range(count)))
    parts = ONE.split_surprisal(outputs, points, ended)
    entropy = math.log(2 * math.pi * math.e) + math.log(0.5 * 2.0) + math.log(1 - correlation**2) / 2
    assert abs(parts.offset.mean() - entropy) < 5 / math.sqrt(count)  # half of a χ² of 2 degrees has deviation 1
    pen_entropy = -sum(p * math.log(p) for p in (0.5, 0.3, 0.2))
    assert abs(parts.pen.mean() - pen_entropy) < 5 * float(parts.pen.std()) / math.sqrt(count)


def test_cold_samples_are_the_most_probable() -> None:
    outputs = make_outputs(
        [0.3, 0.4, 0.3], [[1.0, 1.0], [2.0, 3.0], [4.0, 4.0]], [[1.0, 1.0]] * 3, [0.5] * 3, [0.2, 0.5, 0.3]
    ).expand(50, -1)
    noise = draw_noise(0, 0, range(50))
    frozen, ended = SPEC.sample(outputs, noise, temperature=0.0)
    torch.testing.assert_close(frozen, torch.tensor([100.0, 150.0, 1.0]).expand(50, -1))
    assert not ended.any()
    for cold in (1e-12, 1e-300, 5e-324):
        points, _ = SPEC.sample(outputs, noise, temperature=cold)
        torch.testing.assert_close(points, frozen, atol=1e-3, rtol=0)


def test_temperature_sharpens_weights_and_pen() -> None:
    """At ½, probabilities are squared and normalised again."""
    count = 20_000
    outputs = make_outputs(
        [2 / 3, 1 / 3, 1e-9], [[-9.0, 0.0], [9.0, 0.0], [0.0, 0.0]], [[1.0, 1.0]] * 3, [0.0] * 3, [0.6, 0.3, 0.1]
    )
    points, ended = SPEC.sample(outputs.expand(count, -1), draw_noise(6, 0, range(count)), 0.5)
    found = (points[:, 0] < 0).double().mean(), ended.double().mean()
    for share, expected in zip(found, (0.8, 0.01 / 0.46), strict=True):
        assert abs(share - expected) < 5 * math.sqrt(expected * (1 - expected) / count)  # false alarm: 6e-7


def test_each_drawing_has_its_own_temperature() -> None:
    outputs, noise = random_outputs(3), draw_noise(0, 0, range(3))
    points, ended = SPEC.sample(outputs, noise, torch.tensor([0.0, 0.5, 1.0]))
    for i, temperature in enumerate([0.0, 0.5, 1.0]):
        alone, ends = SPEC.sample(outputs[i : i + 1], noise[i : i + 1], temperature)
        assert torch.equal(points[i : i + 1], alone)
        assert torch.equal(ended[i : i + 1], ends)


def test_what_is_impossible_is_never_sampled() -> None:
    outputs = torch.zeros(4, SPEC.num_outputs)
    outputs[:, 0] = outputs[:, 2] = -1e4  # the first and the last component
    outputs[:, 3:9] = torch.tensor([1.0, 1.0, 2.0, 2.0, 3.0, 3.0])
    outputs[:, 9:15] = -100.0
    outputs[:, -3], outputs[:, -1] = -1e4, -1e4  # neither down nor ended
    noise = torch.zeros(4, 4, dtype=torch.float64)
    noise[:, :2] = torch.tensor([2.0**-33, 0.5, 1 - 2.0**-25, 1 - 2.0**-33], dtype=torch.float64)[:, None]
    points, ended = SPEC.sample(outputs, noise)
    torch.testing.assert_close(points, torch.tensor([100.0, 100.0, float(LIFTED)]).expand(4, -1))
    assert not ended.any()


def test_noise_depends_on_nothing_but_its_address() -> None:
    noise = draw_noise(7, 2, range(100))
    assert noise.shape == (100, 4)
    assert torch.equal(draw_noise(7, 2, [41]), noise[41:42])
    for other in (draw_noise(8, 2, range(100)), draw_noise(7, 3, range(100)), draw_noise(7, 2, range(100, 200))):
        assert not torch.isin(other, noise).any()
    assert ((noise[:, :2] > 0) & (noise[:, :2] < 1)).all()


def test_columns_of_noise_are_independent() -> None:
    count = 20_000
    noise = draw_noise(1, 0, range(count))
    standard = torch.cat([(noise[:, :2] - 0.5) * 12**0.5, noise[:, 2:], (noise[:, 2:] ** 2 - 1) / 2**0.5], dim=1)
    products = standard.T @ standard / count - torch.eye(6)
    assert products.fill_diagonal_(0).abs().max() < 5 / math.sqrt(count) * 15**0.5  # fourth moments are at most 15
    assert (noise[:, :2].var(0) * 12 - 1).abs().max() < 5 * math.sqrt(0.8 / count)  # each false alarm: 6e-7
    assert (noise[:, 2:].var(0) - 1).abs().max() < 5 * math.sqrt(2 / count)


@pytest.mark.parametrize(("drawing", "steps"), [(-1, [0]), (1 << 16, [0]), (0, [-1]), (0, [1 << 16])])
def test_noise_beyond_its_range(drawing: int, steps: list[int]) -> None:
    with pytest.raises(ValueError, match=r"must be in \[0, 65536\)"):
        draw_noise(0, drawing, steps)


def test_sampling_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    SPEC.sample(random_outputs(3), draw_noise(0, 0, range(3)))
    assert torch.equal(torch.get_rng_state(), before)
