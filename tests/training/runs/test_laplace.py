"""Fitting of last-layer Laplace."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.inputs.vector import VectorSpec
from models.samplers.laplace import Laplace
from models.targets.layers import Activation, Linear
from models.targets.target import TargetNetwork
from models.tasks.classification import Classification
from training.data.dataset import Examples
from training.runs.laplace import fit_laplace

SPEC = VectorSpec(names=("x", "y"), mean=(0.0, 0.0), std=(1.0, 1.0))


def draw_blobs(count: int, seed: int) -> Examples:
    """Two classes of points in the plane, which overlap a little."""
    labels = torch.arange(count) % 2
    centres = torch.tensor([[-1.0, 0.0], [1.0, 0.0]])
    return Examples(
        centres[labels] + 0.5 * torch.randn(count, 2, generator=torch.Generator().manual_seed(seed)), labels
    )


def fit(target: TargetNetwork, module: nn.Module, train: Examples) -> Laplace:
    network = {name: tensor.detach() for name, tensor in module.state_dict().items()}
    return fit_laplace(target, network, SPEC, train.inputs, draw_blobs(200, seed=1)).sampler


def test_the_covariance_inverts_the_hessian() -> None:
    """It is that of the cross-entropy, by autograd, where all probabilities are equal: there its factors are exact."""
    target, train = TargetNetwork((2,), (Linear(3), Activation(), Linear(2))), draw_blobs(50, seed=0)
    module = target.module()
    for parameter in module[2].parameters():
        nn.init.zeros_(parameter)
    sampler = fit(target, module, train)
    features = F.pad(module[:2](train.inputs).detach(), (0, 1), value=1.0).double()

    def measure(weights: Tensor) -> Tensor:
        return F.cross_entropy(features @ weights.view(2, 4).T, train.labels, reduction="sum")

    hessian = torch.autograd.functional.hessian(measure, torch.zeros(8, dtype=torch.float64))
    assert isinstance(hessian, Tensor)
    covariance = torch.linalg.inv(hessian + sampler.config.prior_precision * torch.eye(8))
    rotation = torch.kron(sampler.outputs, sampler.features).double()
    found = rotation @ torch.diag(sampler.deviations.double().flatten().square()) @ rotation.T
    torch.testing.assert_close(found, covariance, atol=1e-5, rtol=1e-4)


def test_draws_have_this_covariance() -> None:
    target, train = TargetNetwork((2,), (Linear(3), Activation(), Linear(2))), draw_blobs(50, seed=0)
    sampler = fit(target, target.module(), train)
    drawn = sampler.sample(0, range(4000), {"linear2.weight", "linear2.bias"})
    vectors = torch.cat([drawn["linear2.weight"], drawn["linear2.bias"][..., None]], dim=2).flatten(1)
    rotation = torch.kron(sampler.outputs, sampler.features)
    along = (vectors - vectors.mean(0)) @ rotation / sampler.deviations.flatten()
    torch.testing.assert_close(along.T @ along / len(along), torch.eye(8), atol=0.15, rtol=0)  # 5 σ of 64 entries


def test_disagreement_grows_far_from_the_data() -> None:
    target, train = TargetNetwork((2,), (Linear(32), Activation(), Linear(2))), draw_blobs(300, seed=0)
    module = target.module()
    optimizer = torch.optim.Adam(module.parameters(), 1e-2, weight_decay=1e-3)
    for _ in range(200):
        optimizer.zero_grad()
        F.cross_entropy(module(train.inputs), train.labels).backward()
        optimizer.step()
    sampler = fit(target, module, train)
    angles = torch.linspace(0, 2 * torch.pi, 64)
    circle = torch.stack([angles.cos(), angles.sin()], dim=1)
    weights = sampler.sample(0, range(100))
    task = Classification(("left", "right"))
    near, *rings = (
        float(task.measure(target.forward(weights, inputs)).mutual_information.mean())
        for inputs in (train.inputs, 4 * circle, 16 * circle)
    )
    assert 2 * near < rings[0] < rings[1]
