"""Deep ensembles, MC dropout, MNF, APD, and the modes of HyperDraw: what is particular to each."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from models.checkpoint import MethodConfig
from models.predictions.prediction import evaluate_members
from models.samplers.apd import APD, APDConfig
from models.samplers.deep_ensemble import DeepEnsembleConfig
from models.samplers.hyperdraw import HyperDraw, HyperDrawConfig
from models.samplers.mc_dropout import MCDropout, MCDropoutConfig
from models.samplers.mnf import MNF, FlowStep, LayerPosterior, MNFConfig
from models.targets.layers import Linear
from models.targets.target import TargetNetwork
from tests.conftest import SMALL_TARGET
from training.data.augmentation import Augmentation
from training.data.dataset import Dataset
from training.data.datasets import load_dataset
from training.evaluation.calibration import fit_member_temperature
from training.recipes.recipe import Distillation, OutlierExposure, Recipe
from training.recipes.toys import digits_hypergan
from training.runs.distillation import DistillationRun, measure_gradient_penalty
from training.runs.run import TrainingRun
from training.runs.session import start_run
from training.runs.state import TrainingError

CPU = torch.device("cpu")


def make_recipe(method: MethodConfig, **changes: object) -> Recipe:
    recipe = replace(
        digits_hypergan(),
        method=method,
        learning_rates={"all": 1e-2},
        weight_decays={},
        moment_matching_weight=0.0,
        adversarial_weight=0.0,
        networks_per_step=4,
        inputs_per_network=32,
    )
    return replace(recipe, **changes)  # type: ignore[arg-type]  # of any of its fields


RECIPES = {
    "deep ensemble": (make_recipe(DeepEnsembleConfig(4), own_epochs=True), 200),
    "mc dropout": (make_recipe(MCDropoutConfig(0.2)), 200),
    "mnf": (make_recipe(MNFConfig()), 150),
    "apd": (
        make_recipe(
            APDConfig(hidden_size=32),
            networks_per_step=1,
            learning_rates={"all": 1e-3},
            distillation=Distillation(langevin_rate=0.3, burn_in=150, interval=5, batch_size=16),
        ),
        300,
    ),
    "hyperdraw": (
        make_recipe(
            HyperDrawConfig(4),
            own_epochs=True,
            learning_rates={"modes": 1e-2, "gains": 2e-3},
            augmentation=Augmentation(),
            outliers=OutlierExposure(count=500),
        ),
        200,
    ),
}


def run_to_the_end(run: TrainingRun) -> None:
    while not run.finished:
        run.step()


@pytest.mark.parametrize("name", RECIPES)
def test_each_method_learns_digits(name: str) -> None:
    recipe, steps = RECIPES[name]
    run = start_run(recipe, load_dataset("digits", Path()), 0, steps, CPU)
    run_to_the_end(run)
    figures = run.validate()
    assert figures["ensemble accuracy"] > 0.85
    assert figures["disagreement"] > 0


@pytest.mark.parametrize("name", RECIPES)
def test_a_resumed_run_goes_on_as_it_would_have(name: str, tmp_path: Path) -> None:
    recipe = RECIPES[name][0]
    if recipe.distillation:
        recipe = replace(recipe, distillation=Distillation(langevin_share=0.6, burn_in=2, interval=4, batch_size=4))
    straight, halted, resumed = (start_run(recipe, load_dataset("digits", Path()), 0, 20, CPU) for _ in range(3))
    run_to_the_end(straight)
    for _ in range(11):
        halted.step()
    halted.save(tmp_path / "state.safetensors")
    resumed.load(tmp_path / "state.safetensors")
    run_to_the_end(resumed)
    for key, tensor in straight.sampler.state_dict().items():
        assert torch.equal(tensor, resumed.sampler.state_dict()[key]), key


def test_networks_that_saw_outliers_are_sharpened_for_use() -> None:
    dataset = load_dataset("digits", Path())
    assert isinstance(dataset, Dataset)
    validation = dataset.validation
    outliers = OutlierExposure(weight=0.3, count=500)
    methods: tuple[MethodConfig, ...] = (HyperDrawConfig(4), DeepEnsembleConfig(4))
    for method in methods:
        for with_outliers in (True, False):
            rates = {"modes": 5e-3, "gains": 1e-3, "all": 5e-3}
            recipe = make_recipe(method, learning_rates=rates, outliers=outliers if with_outliers else None)
            run = start_run(recipe, dataset, 0, 100, CPU)
            run_to_the_end(run)
            networks = run.sampler.limit_networks(100)
            logits = []
            for _ in range(2):
                logits.append(evaluate_members(run.sampler, dataset.input.prepare(validation.inputs), 0, networks))
                run.recalibrate()
            if with_outliers:
                temperature = fit_member_temperature(logits[0], validation.labels)
                assert temperature < 0.9  # too uncertain on everything
                torch.testing.assert_close(logits[1], logits[0] / temperature)
            else:
                assert torch.equal(*logits)


# Deep ensembles


def test_each_network_of_an_ensemble_is_trained_as_if_alone() -> None:
    """Adam does not mind the scale of a gradient, so a network's course does not depend on those beside it."""
    dataset = load_dataset("digits", Path())
    runs = []
    for networks in (1, 3):
        recipe = make_recipe(DeepEnsembleConfig(networks), networks_per_step=networks, own_epochs=True)
        run = start_run(recipe, dataset, 0, 20, CPU)
        with torch.no_grad():
            for parameter in run.sampler.parameters():  # the same first network
                parameter.copy_(torch.randn(parameter.shape[1:], generator=torch.Generator().manual_seed(0)) / 10)
        for _ in range(3):
            run.step()
        runs.append(run.sampler.generate(torch.zeros(1, 1)))
    for name, tensor in runs[0].items():
        torch.testing.assert_close(tensor, runs[1][name], rtol=1e-3, atol=1e-4)


def test_a_step_takes_all_networks_of_an_ensemble() -> None:
    recipe = make_recipe(DeepEnsembleConfig(5), networks_per_step=4)
    with pytest.raises(ValueError, match="must train a multiple of 5 networks, not 4"):
        start_run(recipe, load_dataset("digits", Path()), 0, 20, CPU).step()


# MC dropout


def test_dropout_keeps_the_mean_and_drops_its_share() -> None:
    sampler = MCDropout(MCDropoutConfig(rate=0.3), SMALL_TARGET)
    weights = sampler.sample(0, range(4000))
    base = sampler.network.select(torch.zeros(1, dtype=torch.int64))
    for name in ("conv2.weight", "linear1.weight"):
        dropped = (weights[name] == 0).flatten(3).all(3) if name == "conv2.weight" else weights[name] == 0
        assert dropped.double().mean().item() == pytest.approx(0.3, abs=0.02)  # over 4 channels or more, 4,000 times
        torch.testing.assert_close(weights[name].mean(0), base[name][0], atol=0.05, rtol=0)
    assert torch.equal(weights["conv1.weight"][0], base["conv1.weight"][0])
    # a unit that is dropped is dropped for all that read it
    assert ((weights["linear1.weight"] == 0).all(1) == (weights["linear1.weight"] == 0).any(1)).all()


def test_dropout_needs_hidden_units() -> None:
    with pytest.raises(ValueError, match="no hidden units to drop"):
        MCDropout(MCDropoutConfig(), TargetNetwork((3,), (Linear(2),)))


# MNF


def posterior_of(sampler: MNF, layer: str) -> LayerPosterior:
    posterior = sampler.posteriors[layer]
    assert isinstance(posterior, LayerPosterior)
    return posterior


def test_divergence_of_a_normal_posterior() -> None:
    """Where q(z) and r(z) are both N(0, 1), what is left is KL(N(zμ, σ²) ‖ N(0, 1)), E z² being 1."""
    sampler = MNF(MNFConfig(flow_hidden_size=4), TargetNetwork((6,), (Linear(3),)))
    posterior = posterior_of(sampler, "linear1")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        posterior.weight_mean.copy_(torch.randn(3, 6, generator=generator))
        posterior.weight_log_variance.copy_(torch.randn(3, 6, generator=generator))
        for zeros in (
            posterior.factor_mean,
            posterior.factor_log_variance,
            posterior.auxiliary_mean,
            posterior.auxiliary_log_precision,
        ):
            zeros.zero_()
        for flow in (posterior.flow, posterior.auxiliary_flow):
            for step in flow.steps:
                assert isinstance(step, FlowStep)
                step.gate.weight.zero_()
                step.gate.bias.fill_(100)  # numbers stay as they are
    _, divergences = sampler.generate_with_divergence(sampler.draw_latents(0, range(20_000)))
    expected = sum(
        (mean.square() + log_variance.exp() - log_variance - 1).sum().item() / 2
        for mean, log_variance in (
            (posterior.weight_mean, posterior.weight_log_variance),
            (posterior.bias_mean, posterior.bias_log_variance),
        )
    )
    error = divergences.std().item() / math.sqrt(20_000)
    assert divergences.mean().item() == pytest.approx(expected, abs=6 * error)


def test_the_flow_knows_its_determinant() -> None:
    sampler = MNF(MNFConfig(flow_hidden_size=4), SMALL_TARGET)
    flow = posterior_of(sampler, "conv1").flow
    numbers = torch.randn(1, 4, generator=torch.Generator().manual_seed(0))
    jacobian = torch.autograd.functional.jacobian(lambda n: flow(n)[0], numbers)[0, :, 0]
    assert flow(numbers)[1].item() == pytest.approx(jacobian.det().abs().log().item(), abs=1e-5)


# APD


def test_langevin_dynamics_collects_what_the_generator_starts_from() -> None:
    plan = Distillation(langevin_share=0.5, burn_in=10, interval=5, batch_size=4)
    recipe = make_recipe(APDConfig(hidden_size=8), networks_per_step=1, learning_rates={"all": 1e-4}, distillation=plan)
    run = start_run(recipe, load_dataset("digits", Path()), 0, 61, CPU)
    assert isinstance(run, DistillationRun)
    while run.steps <= run.langevin_steps:
        run.step()
    vectors = run._collection.vectors
    assert vectors.shape == (4, recipe.target.num_weights)  # after steps 15, 20, 25 and 30 of 31
    assert len(torch.unique(vectors, dim=0)) == 4
    torch.testing.assert_close(run.sampler.mean, vectors.mean(0))
    torch.testing.assert_close(run.sampler.deviation, vectors.std(0))
    drawn = recipe.target.flatten_weights(run.sampler.sample(0, range(3)))
    assert ((drawn - run.sampler.mean).abs() < 20 * run.sampler.deviation).all()


def test_a_distillation_needs_steps_of_both_kinds() -> None:
    recipe = make_recipe(APDConfig(), networks_per_step=1, distillation=Distillation())
    with pytest.raises(TrainingError, match="580 steps are too few: 90% run Langevin dynamics, which burns in for 500"):
        start_run(recipe, load_dataset("digits", Path()), 0, 580, CPU)


def test_gradient_penalty_known_answer() -> None:
    critic = torch.nn.Linear(4, 1)
    torch.nn.init.constant_(critic.weight, 1.5)  # the gradient's norm is 3 everywhere
    assert measure_gradient_penalty(critic, torch.randn(5, 4)).item() == pytest.approx(4)


def test_networks_as_vectors_are_those_networks() -> None:
    sampler = APD(APDConfig(latent_size=4, hidden_size=8), SMALL_TARGET)
    vectors = sampler.generate_standardized(sampler.draw_latents(0, range(3)))
    torch.testing.assert_close(SMALL_TARGET.flatten_weights(SMALL_TARGET.split_weights(vectors)), vectors)


# HyperDraw


def test_modes_take_turns() -> None:
    sampler = HyperDraw(HyperDrawConfig(modes=5), SMALL_TARGET)
    modes = sampler.draw_latents(3, range(15))[:, 0].view(3, 5)
    assert [sorted(turn.tolist()) for turn in modes] == [[0, 1, 2, 3, 4]] * 3
    assert len({tuple(turn.tolist()) for turn in modes}) > 1
    assert sampler.draw_latents(3, [7])[0, 0] == modes[1, 2]


def test_a_network_in_the_middle_of_its_mode_is_the_mode() -> None:
    sampler = HyperDraw(HyperDrawConfig(modes=3, latent_size=4, initial_deviation=0.2), SMALL_TARGET)
    latents = torch.zeros(1, 5)
    latents[0, 0] = 2
    for name, tensor in sampler.generate(latents).items():
        assert torch.equal(tensor, sampler.modes.select(torch.tensor([2]))[name])
    z = torch.randn(4000, 4, generator=torch.Generator().manual_seed(0))
    latents = torch.cat([torch.full((4000, 1), 2.0), z], dim=1)
    drawn, middle = sampler.generate(latents), sampler.generate(latents[:1] * torch.tensor([1.0, 0, 0, 0, 0]))
    gains = drawn["conv2.weight"] / middle["conv2.weight"]
    assert torch.equal(gains[:, :, :1, :1, :1].expand_as(gains).isclose(gains), torch.ones_like(gains).bool())
    assert gains.mean().item() == pytest.approx(1, abs=0.02)
    assert 0.05 < gains.std().item() < 0.4


def test_a_step_trains_the_modes_equally() -> None:
    sampler = HyperDraw(HyperDrawConfig(modes=3), SMALL_TARGET)
    assert sampler.draw_training_latents(0, 5, 6)[:, 0].tolist() == [0, 1, 2, 0, 1, 2]
    with pytest.raises(ValueError, match="must train a multiple of 3 networks, not 4"):
        sampler.draw_training_latents(0, 5, 4)


def test_a_path_between_modes_leaps() -> None:
    sampler = HyperDraw(HyperDrawConfig(modes=5), SMALL_TARGET)
    first, last = sampler.draw_latents(0, range(2))
    path = sampler.interpolate_latents(first, last, 6)
    assert path[:, 0].tolist() == [first[0]] * 3 + [last[0]] * 3
    torch.testing.assert_close(path[0], first)
    torch.testing.assert_close(path[-1], last)
