"""The network whose maps say what an image looks like."""

from pathlib import Path

import pytest
import torch

from models.checkpoint import Checkpoint, load_checkpoint
from models.inputs.image import ImageSpec
from models.predictions.anchor import ANCHOR_SEED, Anchor, find_maps
from models.predictions.prediction import evaluate, interpret
from models.samplers.deep_ensemble import DeepEnsembleConfig
from models.samplers.hypergan import HyperGANConfig
from models.targets.layers import Activation, Convolution, Flatten, GlobalPooling, Linear, MaxPooling
from models.targets.target import TargetNetwork
from tests.conftest import SMALL_CONFIG, SMALL_TARGET
from training.data.datasets import load_digits
from training.recipes.own_images import choose_target
from training.recipes.targets import make_convolutional_target, make_wide_resnet


@pytest.mark.parametrize(
    ("target", "maps"),
    [
        (make_convolutional_target((3, 32, 32), (32, 64, 64), 3), {"act1": 32, "act2": 64, "act3": 64}),
        (SMALL_TARGET, {"act1": 4, "act2": 6}),
        (make_wide_resnet(16, 2), {"residual2": 32, "residual4": 64, "act1": 128}),
        (choose_target((3, 32, 32), 4), {"act1": 24, "act2": 48, "act3": 96, "act4": 128}),
        (choose_target((1, 128, 96), 2), {"act1": 24, "act2": 48, "act3": 96, "act4": 128}),
        (TargetNetwork((1, 9, 9), (Convolution(5, 3, stride=2), GlobalPooling(), Flatten(), Linear(2))), {}),
        (TargetNetwork((1, 8, 8), (MaxPooling(), Flatten(), Linear(9), Activation(), Linear(2))), {}),
        (TargetNetwork((7,), (Linear(9), Activation(), Linear(2))), {}),
    ],
)
def test_maps_are_the_last_ones_at_each_resolution(target: TargetNetwork, maps: dict[str, int]) -> None:
    assert find_maps(target) == maps


@pytest.mark.parametrize("config", [SMALL_CONFIG, DeepEnsembleConfig(3)])
def test_features_are_means_of_maps_of_one_network(config: HyperGANConfig | DeepEnsembleConfig) -> None:
    sampler = config.build(SMALL_TARGET).eval()
    images = torch.randn(70, 1, 12, 12)
    anchor = Anchor(sampler)
    found = anchor.describe(images)
    assert found.shape == (70, anchor.num_features) == (70, 10)
    weights = {name: tensor[0] for name, tensor in sampler.sample(ANCHOR_SEED, range(1)).items()}
    first = torch.conv2d(images, weights["conv1.weight"], weights["conv1.bias"])
    first = torch.nn.functional.leaky_relu(first)
    second = torch.conv2d(torch.max_pool2d(first, 2), weights["conv2.weight"], weights["conv2.bias"])
    second = torch.nn.functional.leaky_relu(second)
    torch.testing.assert_close(found, torch.cat([first.mean((2, 3)), second.mean((2, 3))], 1), atol=1e-5, rtol=1e-4)


def test_a_trained_checkpoint_knows_how_far_images_are(checkpoint: Checkpoint) -> None:
    """Noise is farther from the training's digits than almost all digits are."""
    density, spec = checkpoint.density, checkpoint.config.input
    assert density is not None
    assert isinstance(spec, ImageSpec)
    noise = torch.randint(256, (50, 1, 8, 8), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    digits = density.measure_distance(spec.prepare(load_digits(Path()).test.inputs))
    assert digits.median().item() == pytest.approx(1, abs=0.2)
    assert (density.measure_distance(spec.prepare(noise)) > digits.quantile(0.95)).all()


def test_the_anchor_is_the_same_whoever_loads_it(checkpoint: Checkpoint, checkpoints: Path) -> None:
    images = torch.randn(5, 1, 8, 8)
    again = load_checkpoint(checkpoints / "digits").density
    assert again is not None
    assert checkpoint.density is not None
    assert torch.equal(again.measure_distance(images), checkpoint.density.measure_distance(images))
    assert checkpoint.density.nbytes > 4 * checkpoint.density.mean.numel() ** 2


def test_a_distance_that_was_not_measured_is_said(checkpoint: Checkpoint) -> None:
    outputs = evaluate(checkpoint.sampler, checkpoint.input, checkpoint.config.task, torch.zeros(2, 1, 8, 8), 7, 5)
    with pytest.raises(ValueError, match="evaluate the inputs with the checkpoint's density"):
        interpret(checkpoint.config.task, outputs).score("feature_distance")
