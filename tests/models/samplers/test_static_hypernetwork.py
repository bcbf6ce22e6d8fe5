"""Ha's static hypernetwork: sizes of the paper, tiles, and targets that it does not fit."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from models.checkpoint import load_checkpoint
from models.samplers.static_hypernetwork import StaticHypernetwork, StaticHypernetworkConfig
from models.targets.layers import Activation, Convolution, Flatten, Layer, Linear, MaxPooling
from models.targets.target import TargetNetwork
from tests.conftest import make_session
from training.recipes.mnist import mnist_static
from training.recipes.targets import make_wide_resnet
from training.runs.session import train


def build(config: StaticHypernetworkConfig, target: TargetNetwork) -> StaticHypernetwork:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return config.build(target)


def count(sampler: StaticHypernetwork) -> dict[str, int]:
    return {name: sum(p.numel() for p in group) for name, group in sampler.parameter_groups().items()}


@pytest.mark.parametrize(
    ("width", "tiles", "learned", "generated"), [(2, 966, 147_578, 2_235_498), (1, 242, 96_570, 562_730)]
)
def test_sizes_of_the_papers_wide_resnets(width: int, tiles: int, learned: int, generated: int) -> None:
    """Table 2: 0.148 M against 2.236 M, and 0.097 M against 0.563 M. The 2.236 M are 2.2355 M here."""
    target = make_wide_resnet(40, width)
    with torch.device("meta"):
        sampler = StaticHypernetworkConfig().build(target)
    assert sum(sampler.tiles.values()) == tiles
    assert sum(count(sampler).values()) == learned
    assert target.num_weights == generated


def test_sizes_of_the_papers_mnist_experiment() -> None:
    recipe = mnist_static()
    assert isinstance(recipe.method, StaticHypernetworkConfig)
    sampler = build(recipe.method, recipe.target)
    assert sampler.kernels == {"conv2.weight": (16, 16, 7, 7)}
    assert count(sampler)["generator"] == 4_240
    assert count(sampler)["embeddings"] == 4


def test_kernels_are_those_of_the_papers_equations() -> None:
    """Tile (o, i) of a kernel has, for each of its input channels, K_i = W_out (W_i z + B_i) + B_out."""
    target = TargetNetwork(
        (3, 7, 7), (Convolution(4, 3), Activation(), Convolution(6, 3, 1), Convolution(2, 3), Flatten(), Linear(2))
    )
    sampler = build(StaticHypernetworkConfig(5, 7, basic_channels=2, modes=3), target)
    assert list(sampler.kernels) == ["conv2.weight", "conv3.weight"]
    for parameter in sampler.parameters():
        torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(parameter.numel()))
    mode = 1
    weights = sampler.generate(torch.tensor([[float(mode)]]))
    embeddings = iter(sampler.embeddings[mode])
    for name, shape in sampler.kernels.items():
        expected = torch.empty(shape)
        for o in range(0, shape[0], 2):
            for i in range(0, shape[1], 2):
                expected[o : o + 2, i : i + 2] = generate_basic(sampler, next(embeddings))
        torch.testing.assert_close(weights[name][0], expected, rtol=1e-4, atol=1e-4)


def generate_basic(sampler: StaticHypernetwork, z: Tensor) -> Tensor:
    kernel = torch.empty(2, 2, 3, 3)
    for i in range(2):
        a = sampler.input_weight[i] @ z + sampler.input_bias[i]
        kernel[:, i] = (sampler.output_weight @ a + sampler.output_bias).view(2, 3, 3)
    return kernel


def test_kernels_start_with_the_variance_that_rectifiers_want() -> None:
    target = make_wide_resnet(16, 2)
    weights = build(StaticHypernetworkConfig(modes=8), target).sample(0, range(8))
    for name in ("residual1.conv2.weight", "residual6.conv2.weight"):
        fan_in = weights[name][0, 0].numel()
        assert weights[name].square().mean() * fan_in / 2 == pytest.approx(1, rel=0.35)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ((Convolution(16, 3), Flatten(), Linear(2)), "it has no such sizes"),
        ((Convolution(16, 3), Convolution(16, 3), Convolution(32, 5), Flatten(), Linear(2)), "has 2 such sizes"),
        ((Convolution(16, 3), Convolution(10, 3), MaxPooling(), Flatten(), Linear(2)), "multiples of 16 channels"),
    ],
)
def test_targets_that_no_basic_kernel_fits(layers: tuple[Layer, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        StaticHypernetworkConfig().build(TargetNetwork((3, 16, 16), layers))


def test_a_single_network_is_trained_calibrated_and_described(tmp_path: Path) -> None:
    target = TargetNetwork(
        (1, 8, 8), (Convolution(4, 3), Activation(), Convolution(4, 3), Activation(), Flatten(), Linear(10))
    )
    method = StaticHypernetworkConfig(4, 4, basic_channels=4)
    recipe = replace(mnist_static(), name="static", dataset="digits", method=method, target=target, warmup_steps=5)
    assert train(make_session(tmp_path / "one", steps=60, recipe=recipe))
    checkpoint = load_checkpoint(tmp_path / "one")
    assert checkpoint.metrics is not None
    assert checkpoint.metrics["networks"] == 1
    assert checkpoint.metrics["disagreement"] == 0
    assert checkpoint.metrics["mutual_information"] == pytest.approx(0, abs=1e-6)
    assert checkpoint.metrics["single"]["accuracy_mean"] > 0.5
    card = (tmp_path / "one" / "README.md").read_text()
    assert "a single network, not a distribution" in card
    assert "Two networks differ" not in card
    assert "nan" not in card
