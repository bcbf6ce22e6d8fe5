import pytest
import torch

from models.samplers.deutsch import DeutschConfig, DeutschHypernetwork
from tests.conftest import SMALL_DEUTSCH, SMALL_TARGET
from training.recipes.mnist import mnist_deutsch


@pytest.fixture
def deutsch() -> DeutschHypernetwork:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return SMALL_DEUTSCH.build(SMALL_TARGET).eval()


def test_parameter_counts_of_the_paper() -> None:
    recipe = mnist_deutsch()
    with torch.device("meta"):
        sampler = recipe.method.build(recipe.target)
    assert isinstance(sampler, DeutschHypernetwork)
    assert recipe.target.num_weights == 20_018
    assert sampler.joint_code_size == 855

    def count(module: torch.nn.Module) -> int:
        return sum(parameter.numel() for parameter in module.parameters())

    assert count(sampler.extractor) == 436_500
    assert [count(generator) for generator in sampler.generators.values()] == [3_240, 91_600, 90_000, 9_900]
    assert count(sampler) == 631_240


def test_a_layer_shares_one_generator(deutsch: DeutschHypernetwork) -> None:
    """Filters with the same code are the same filter; a code reaches its own filter only."""
    codes = deutsch.mix(deutsch.draw_latents(0, range(2)))
    codes[:, 4:8] = codes[:, :4]  # the second filter of the first layer gets the code of the first
    weights = deutsch.generate_from_codes(codes)
    torch.testing.assert_close(weights["conv1.weight"][:, 0], weights["conv1.weight"][:, 1])
    torch.testing.assert_close(weights["conv1.bias"][:, 0], weights["conv1.bias"][:, 1])
    changed = codes.clone()
    changed[:, 8:12] += 1
    after = deutsch.generate_from_codes(changed)
    assert {name for name in weights if not torch.equal(weights[name], after[name])} == {"conv1.weight", "conv1.bias"}
    differing = (weights["conv1.weight"] != after["conv1.weight"]).flatten(2).any(2)
    assert differing.tolist() == [[False, False, True, False]] * 2


def test_the_last_layer_is_one_filter(deutsch: DeutschHypernetwork) -> None:
    assert deutsch.filters == {"conv1": 4, "conv2": 6, "linear1": 1}
    assert deutsch.generators["linear1"].get_submodule("6").get_parameter("weight").shape == (5 * 97, 16)


def test_latents_are_uniform(deutsch: DeutschHypernetwork) -> None:
    latents = deutsch.draw_latents(0, range(4000))
    assert latents.min() > -1
    assert latents.max() < 1
    assert latents.var().item() == pytest.approx(1 / 3, abs=6 * 0.3 / 32_000**0.5)  # var of x² is 4/45


def test_hidden_sizes_must_fit_the_target() -> None:
    with pytest.raises(ValueError, match="generator_hidden_sizes has 4 numbers; the target has 3 weighted layers"):
        DeutschConfig().build(SMALL_TARGET)
