import math

import pytest
import torch
from torch import nn

from models.samplers.hypergan import HEAD_BLOCK, CodeDiscriminator, HyperGAN, HyperGANConfig, _apply_head
from models.tasks.probabilities import shannon_entropy
from tests.conftest import SMALL_CONFIG, SMALL_TARGET
from training.recipes.mnist import mnist_hypergan


@pytest.fixture
def hypergan() -> HyperGAN:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return HyperGAN(SMALL_CONFIG, SMALL_TARGET)


def test_sizes_of_the_paper() -> None:
    with torch.device("meta"):
        sampler = HyperGANConfig().build(mnist_hypergan().target)
    codes = sampler.mix(torch.zeros(2, 256, device="meta"))
    assert codes.shape == (2, 3 * 128)
    hidden = {tuple(p.shape) for name, p in sampler.named_parameters() if ".heads." not in name and p.dim() == 2}
    assert hidden == {(512, 256), (512, 512), (384, 512), (512, 128)}


def test_codes_of_all_layers_reach_their_own_layer_only(hypergan: HyperGAN) -> None:
    hypergan.eval()
    codes = hypergan.mix(hypergan.draw_latents(0, range(1)))
    before = hypergan.generate_from_codes(codes)
    changed = codes.clone()
    changed[:, SMALL_CONFIG.code_size : 2 * SMALL_CONFIG.code_size] += 1  # the code of the second layer
    after = hypergan.generate_from_codes(changed)
    assert {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])} == {"conv2"}


def test_the_bias_of_a_head_is_the_mean_network(hypergan: HyperGAN) -> None:
    hypergan.train()
    with torch.no_grad():
        weights = hypergan.generate(hypergan.draw_latents(0, range(16)))  # so few never reach the features' bound
    for layer, generator in hypergan.generators.items():
        mean = generator.get_submodule("heads.weight").get_parameter("bias")
        torch.testing.assert_close(weights[f"{layer}.weight"].mean(0).flatten(), mean, rtol=1e-4, atol=1e-5)


def test_recalibration_uses_the_statistics_of_the_whole_batch(hypergan: HyperGAN) -> None:
    hypergan.train()
    for step in range(20):  # running averages of batches of 4
        hypergan.generate(hypergan.draw_latents(step, range(4)))
    latents = hypergan.draw_latents(99, range(4096))
    hypergan.recalibrate(latents)
    recalibrated = hypergan.generate(latents)
    assert not any(module.training for module in hypergan.modules() if isinstance(module, torch.nn.BatchNorm1d))
    hypergan.train()
    for name, tensor in hypergan.generate(latents).items():  # batch statistics of the same batch
        torch.testing.assert_close(recalibrated[name], tensor, rtol=1e-2, atol=1e-3)


def test_sampled_networks_start_like_ordinary_ones() -> None:
    """Weights start with the variance of PyTorch's own layers, 1 / (3 fan-in), and networks without conviction."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        sampler = HyperGAN(HyperGANConfig(latent_size=64, code_size=32, hidden_size=256), mnist_hypergan().target)
    sampler.recalibrate(sampler.draw_latents(1, range(512)))
    weights = sampler.sample(0, range(50))
    for name, tensor in weights.items():
        if name.endswith(".weight"):
            fan_in = math.prod(tensor.shape[2:])
            assert tensor.var().item() == pytest.approx(1 / (3 * fan_in), rel=0.25)
        else:
            assert not tensor.any()
    images = torch.randn(20, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    probabilities = sampler.target.forward(weights, images).softmax(-1)
    assert shannon_entropy(probabilities).mean() > 0.3 * math.log(10)


def test_discriminator_sees_codes_jointly() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        discriminator = CodeDiscriminator(12, 16)
    codes = torch.randn(5, 12, generator=torch.Generator().manual_seed(0), requires_grad=True)
    logits = discriminator(codes)
    assert logits.shape == (5,)
    (gradient,) = torch.autograd.grad(logits[2], codes)
    assert gradient[2].all()
    assert not gradient[[0, 1, 3, 4]].any()


def test_a_head_in_blocks_is_the_head() -> None:
    torch.manual_seed(0)
    head, hidden = nn.Linear(5, 2 * HEAD_BLOCK + 5), torch.randn(3, 5)
    assert _apply_head(head, hidden).requires_grad
    with torch.inference_mode():
        torch.testing.assert_close(_apply_head(head, hidden), head(hidden))
