import math
from dataclasses import replace

import pytest
import torch

from models.tasks.regression import LEAST_NOISE, Regression, measure_regression_uncertainty

TASK = Regression(names=("a", "b"), mean=(1.0, -2.0), std=(10.0, 0.5), noise_std=(2.0, 0.5))


def test_uncertainty_known_answer() -> None:
    members = torch.tensor([[[1.0, 10.0]], [[3.0, 10.0]]])
    u = measure_regression_uncertainty(members, torch.tensor([2.0, 0.5]).expand_as(members), torch.tensor([1.0, 4.0]))
    assert u.mean.tolist() == [[2.0, 10.0]]
    assert u.epistemic_variance.tolist() == [[1.0, 0.0]]
    assert u.noise_variance.tolist() == [[4.0, 0.25]]
    assert u.variance.tolist() == [[5.0, 0.25]]
    assert u.standard_deviation[0].tolist() == pytest.approx([5.0**0.5, 0.5])
    assert u.relative_deviation.item() == pytest.approx(0.5**0.5)
    with pytest.raises(ValueError, match="not finite"):
        measure_regression_uncertainty(members / 0, torch.ones_like(members), torch.ones(2))


def test_numbers_need_as_many_means_as_names() -> None:
    with pytest.raises(ValueError, match="one number for each of 2 names"):
        Regression(names=("a", "b"), mean=(0.0,), std=(1.0, 1.0), noise_std=(0.0, 0.0))


def test_uncertainty_has_an_axis_for_each_number() -> None:
    members = torch.tensor([[[0.0, 1.0], [2.0, 1.0], [5.0, 5.0]], [[0.0, 3.0], [4.0, 5.0], [5.0, 5.0]]])
    u = measure_regression_uncertainty(members, torch.tensor([1.0, 2.0]).expand_as(members), torch.tensor([2.0, 1.0]))
    assert u.mean.tolist() == [[0.0, 2.0], [3.0, 3.0], [5.0, 5.0]]
    assert u.epistemic_variance.tolist() == [[0.0, 1.0], [1.0, 4.0], [0.0, 0.0]]
    assert u.noise_variance.tolist() == [[1.0, 4.0]] * 3
    assert u.relative_deviation.tolist() == pytest.approx([0.5**0.5, 2.125**0.5, 0.0])
    assert all(getattr(u, name).dtype == torch.float64 for name in TASK.quantities)


def test_a_task_measures_in_the_numbers_own_units() -> None:
    outputs = torch.tensor([[[0.1, 2.0]], [[0.3, 2.0]]])
    assert TASK.predict(outputs).flatten().tolist() == pytest.approx([2.0, -1.0, 4.0, -1.0])
    u = TASK.measure(outputs)
    assert u.mean[0].tolist() == pytest.approx([3.0, -1.0])
    assert u.noise_variance.tolist() == [[4.0, 0.25]]
    assert u.epistemic_variance[0].tolist() == pytest.approx([1.0, 0.0], abs=1e-6)
    assert u.relative_deviation.item() == pytest.approx((0.01 / 2) ** 0.5)


def test_the_fit_of_a_regression_is_its_likelihood() -> None:
    """Up to a constant, −log N(y; f, σ²) in the outputs' own units, whatever the networks' units are."""
    task = Regression(names=("a", "b"), mean=(1.0, -2.0), std=(10.0, 0.5), noise_std=(2.0, 0.1))
    generator = torch.Generator().manual_seed(0)
    outputs, labels = (torch.randn(3, 4, 2, generator=generator) for _ in range(2))
    noise = torch.tensor([2.0, 0.1])
    normal = torch.distributions.Normal(outputs * torch.tensor(task.std) + torch.tensor(task.mean), noise)
    constant = normal.entropy().sum(-1).mean() - 1  # of two numbers, ½ each from the square
    expected = -normal.log_prob(labels).sum(-1).mean() - constant
    assert task.measure_loss(outputs, labels).item() == pytest.approx(expected.item(), rel=1e-4)


def test_what_training_reports() -> None:
    outputs, labels = torch.tensor([[[0.1, 2.0]], [[0.3, 2.0]]]), torch.tensor([[[2.0, -1.0]], [[2.0, 3.0]]])
    name, error = TASK.measure_fit(outputs, labels)
    assert name == "root_mean_square_error"
    assert error.item() == pytest.approx(5**0.5)  # of 0, 0, 2 and 4
    judged = TASK.measure_quality(torch.tensor([[[0.0, 0.0]], [[2.0, 4.0]]]), torch.tensor([[1.0, 0.0]]))
    assert judged == pytest.approx({"single error": 4.5**0.5, "ensemble error": 2**0.5, "deviation": 5**0.5})


def test_learned_noise_is_an_output_of_each_network() -> None:
    task = replace(TASK, noise_std=None)
    assert (task.outputs, task.num_outputs) == (("a", "b"), 4)
    outputs = torch.tensor([[[0.1, 2.0, 0.0, -50.0]], [[0.3, 2.0, 3.0, -50.0]]])
    assert task.predict(outputs).flatten().tolist() == pytest.approx([2.0, -1.0, 4.0, -1.0])
    noise = task.predict_noise(outputs)
    softplus = math.log(2), math.log(1 + math.e**3)
    assert noise[:, 0, 0].tolist() == pytest.approx([10 * (s + LEAST_NOISE) for s in softplus], rel=1e-5)
    assert noise[:, 0, 1].tolist() == pytest.approx([0.5 * LEAST_NOISE] * 2)
    u = task.measure(outputs)
    torch.testing.assert_close(u.noise_variance, noise.double().square().mean(0))  # of the mixture
    assert u.epistemic_variance[0].tolist() == pytest.approx([1.0, 0.0], abs=1e-6)
    with pytest.raises(ValueError, match="not finite"):
        task.measure(outputs.index_fill(2, torch.tensor([3]), math.inf))


def test_learned_noise_fits_the_deviation_of_the_labels() -> None:
    """At the minimum of the loss over constant outputs, expectation and noise are the labels' mean and deviation."""
    task = Regression(names=("a",), mean=(3.0,), std=(4.0,), noise_std=None)
    labels = 5 + 2 * torch.randn(1, 4000, 1, generator=torch.Generator().manual_seed(0))
    outputs = torch.zeros(2, requires_grad=True)
    optimizer = torch.optim.Adam([outputs], lr=0.05)
    for _ in range(400):
        optimizer.zero_grad()
        task.measure_loss(outputs.expand(1, 4000, 2), labels).backward()
        optimizer.step()
    found = outputs.detach().expand(1, 1, 2)
    assert task.predict(found).item() == pytest.approx(labels.mean().item(), abs=0.01)
    assert task.predict_noise(found).item() == pytest.approx(labels.std().item(), abs=0.02)
