"""The contract of every weight sampler."""

import copy
from functools import cache
from pathlib import Path
from typing import get_args

import pytest
import torch

from models.checkpoint import MethodConfig, load_checkpoint, save_checkpoint
from models.inputs.image import ImageSpec
from models.precision import Precision, multiply_in
from models.predictions.prediction import draw
from models.samplers.modes import ModalSampler
from models.samplers.sampler import VariationalSampler, WeightSampler
from models.targets.layers import Activation, Convolution, Flatten, Linear, Normalization, Residual
from models.targets.target import TargetNetwork, Weights
from models.tasks.classification import Classification
from tests.checkpoints import make_config
from tests.conftest import SMALL_TARGET
from tests.samplers import CONFIGS, MAKES_ANY_TARGET, MAKES_FILTERS

SPEC = ImageSpec(channels=1, height=12, width=12, mean=(0.5,), std=(0.5,))
TASK = Classification(tuple("0123456789"))
PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16")


@cache
def build(name: str) -> WeightSampler:
    """A sampler for copies of it, as a thousand networks take long to initialise."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return CONFIGS[name].build(SMALL_TARGET).eval()


@pytest.fixture(params=CONFIGS)
def sampler(request: pytest.FixtureRequest) -> WeightSampler:
    return copy.deepcopy(build(request.param))


def test_the_lists_have_every_method() -> None:
    methods = {config.method for config in get_args(get_args(MethodConfig)[0])}
    assert {config.method for config in CONFIGS.values()} == methods
    assert methods == MAKES_ANY_TARGET | MAKES_FILTERS
    assert not MAKES_ANY_TARGET & MAKES_FILTERS


def test_keys_and_shapes(sampler: WeightSampler) -> None:
    weights = sampler.sample(0, range(3))
    assert {name: tuple(tensor.shape) for name, tensor in weights.items()} == {
        name: (3, *shape) for name, shape in SMALL_TARGET.parameter_shapes.items()
    }
    assert list(weights) == list(SMALL_TARGET.parameter_shapes)


def test_the_same_address_is_the_same_network(sampler: WeightSampler) -> None:
    many = sampler.sample(7, range(1000))
    for members in ([3], range(4), range(3, 200)):
        for name, tensor in sampler.sample(7, members).items():
            torch.testing.assert_close(tensor[members.index(3)], many[name][3], rtol=1e-5, atol=1e-6)


def test_bfloat16_only_rounds(sampler: WeightSampler) -> None:
    exact = sampler.sample(7, range(5))
    with multiply_in("bfloat16", sampler.device):
        rounded = sampler.sample(7, range(5))
    for name, tensor in exact.items():
        assert (rounded[name] - tensor).norm() <= 0.02 * tensor.norm()


def test_the_same_address_is_the_same_network_in_bfloat16(sampler: WeightSampler) -> None:
    """Up to one rounding of each number; on processors that multiply bfloat16 it is mostly none."""
    many = draw(sampler, SPEC, TASK, 7, range(200), "bfloat16").weights
    for members in (range(3, 4), range(4), range(3, 20)):
        for name, tensor in draw(sampler, SPEC, TASK, 7, members, "bfloat16").weights.items():
            one, other = (each.float() for each in (tensor[members.index(3)], many[name][3]))
            torch.testing.assert_close(one, other, rtol=0, atol=float(2**-7 * other.abs().max()))


def test_a_draw_in_bfloat16_rounds_only_what_it_evaluates(sampler: WeightSampler) -> None:
    """Without products, the networks are those of float32, rounded once."""
    exact, rounded = (draw(sampler, SPEC, TASK, 7, range(5), p).weights for p in PRECISIONS)
    for name, tensor in exact.items():
        last = name.startswith(SMALL_TARGET.weighted_layers[-1])
        assert rounded[name].dtype == (torch.float32 if last else torch.bfloat16) or sampler.multiplies
        if not sampler.multiplies:
            assert torch.equal(rounded[name], tensor.to(rounded[name].dtype))


def test_other_addresses_are_other_networks(sampler: WeightSampler) -> None:
    """Unless there are no more than some number of them: then each of them comes once in every draw of all."""
    if sampler.num_networks is None:
        draws = [sampler.sample(seed, range(20)) for seed in (0, 1, 2**40)]
        assert count_distinct(draws) == 60
    else:
        draws = [sampler.sample(seed, range(sampler.num_networks)) for seed in (0, 1)]
        assert [count_distinct([draw]) for draw in draws] == [sampler.num_networks] * 2
        assert count_distinct(draws) == sampler.num_networks
        assert not torch.equal(*(draw["conv1.weight"] for draw in draws))
        with pytest.raises(ValueError, match=f"has members 0 to {sampler.num_networks - 1}, but no"):
            sampler.sample(0, range(sampler.num_networks + 1))


def count_distinct(draws: list[Weights]) -> int:
    vectors = [SMALL_TARGET.flatten_weights(draw) for draw in draws]
    return len(torch.unique(torch.cat(vectors), dim=0))


def test_names_select_parameters(sampler: WeightSampler) -> None:
    everything = sampler.sample(0, range(3))
    for name, tensor in everything.items():
        selected = sampler.sample(0, range(3), {name})
        assert list(selected) == [name]
        torch.testing.assert_close(selected[name], tensor)


def test_gradients_reach_every_parameter(sampler: WeightSampler) -> None:
    sampler.train()
    for parameter in sampler.parameters():  # some start at zero, and would hide those behind them
        torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(parameter.numel()))
    latents = sampler.draw_latents(0, range(min(1000, sampler.num_networks or 1000)))
    losses = []
    if isinstance(sampler, VariationalSampler):
        weights, divergences = sampler.generate_with_divergence(latents)
        losses.append(divergences.sin().sum())
    else:
        weights = sampler.generate(latents)
    losses += [tensor.sin().sum() for tensor in weights.values()]
    torch.stack(losses).sum().backward()
    for name, parameter in sampler.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_sampling_leaves_the_global_generator_alone(sampler: WeightSampler) -> None:
    before = torch.get_rng_state()
    sampler.sample(5, range(3))
    assert torch.equal(before, torch.get_rng_state())


def test_paths_of_latents_stay_among_those_of_the_prior(sampler: WeightSampler) -> None:
    """A uniform prior's stay in its cube, evenly spaced; every point of a normal prior's has its variance.

    From mode to mode there is no way: the path is the first one's, up to its middle, and then the last one's.
    """
    first, last = (sampler.draw_latents(seed, range(1000)) for seed in (0, 1))
    paths = torch.stack([sampler.interpolate_latents(*ends, 5) for ends in zip(first, last, strict=True)], dim=1)
    assert paths.shape == (5, *first.shape)
    if isinstance(sampler, ModalSampler):
        assert torch.equal(paths[..., 0], torch.stack([*[first[:, 0]] * 3, *[last[:, 0]] * 2]))
        first, last, paths = first[:, 1:], last[:, 1:], paths[..., 1:]
    torch.testing.assert_close(paths[0], first)
    torch.testing.assert_close(paths[-1], last, atol=1e-6, rtol=1e-5)
    if sampler.latent_prior == "uniform":
        torch.testing.assert_close(paths[1:] - paths[:-1], ((last - first) / 4).expand(4, -1, -1), atol=1e-6, rtol=1e-5)
    elif first.shape[1]:  # other than where a mode is a network
        torch.testing.assert_close(paths.var((1, 2)), torch.ones(5), atol=0.1, rtol=0)


def test_a_saved_sampler_draws_the_same_networks(sampler: WeightSampler, tmp_path: Path) -> None:
    config = make_config(sampler)
    save_checkpoint(tmp_path / "model", config, sampler, "float32")
    loaded = load_checkpoint(tmp_path / "model").sampler
    for name, tensor in loaded.sample(3, range(5)).items():
        assert torch.equal(tensor, sampler.sample(3, range(5))[name])


@pytest.mark.parametrize("config", [config for config in CONFIGS.values() if config.method in MAKES_FILTERS])
def test_normalisations_are_refused_by_what_cannot_make_them(config: MethodConfig) -> None:
    target = TargetNetwork((1, 6, 6), (Convolution(4, 3), Normalization(2), Flatten(), Linear(3)))
    with pytest.raises(ValueError, match=f"{config.method} can only make convolutions .* not norm1"):
        config.build(target)


@pytest.mark.parametrize("config", [config for config in CONFIGS.values() if config.method in MAKES_ANY_TARGET])
def test_residual_blocks_are_made(config: MethodConfig) -> None:
    block = Residual((Normalization(2), Activation(), Convolution(4, 3, 1)))
    target = TargetNetwork((1, 6, 6), (Convolution(4, 3), block, Flatten(), Linear(3)))
    sampler = config.build(target).eval()
    weights = sampler.sample(0, range(3))
    assert {name: tuple(tensor.shape[1:]) for name, tensor in weights.items()} == target.parameter_shapes
    assert sampler.load_state_dict(sampler.state_dict())
    assert target.forward(weights, torch.randn(2, 1, 6, 6)).isfinite().all()
