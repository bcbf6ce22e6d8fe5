"""Options of recipes, the ablation, studies and their figures."""

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import training.data.outlier_sets
import training.studies.ablation
from models.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from models.checkpoint_files import CheckpointError
from models.inputs.image import ImageSpec
from models.samplers.deep_ensemble import DeepEnsembleConfig
from models.samplers.hypergan import HyperGANConfig
from models.targets.gauge import find_couplings, permute_filters
from tests.conftest import SMALL_TARGET, draw_weights, make_session
from training.__main__ import app
from training.data.datasets import load_dataset, load_digits
from training.data.mixture import load_mixture
from training.evaluation.evaluation import evaluate_sets
from training.objectives.hardening import Hardening
from training.recipes.all import RECIPES
from training.recipes.mnist import (
    mnist_deep_ensemble,
    mnist_deutsch,
    mnist_deutsch_diverse,
    mnist_hyperdraw,
    mnist_static,
)
from training.recipes.recipe import OutlierExposure, Part, Recipe
from training.recipes.toys import digits_hypergan, toy_cubic, toy_mixture
from training.recipes.variation import vary
from training.runs.fitting import FittingRun
from training.runs.session import Session, start_run, train
from training.runs.state import TrainingError
from training.studies.ablation import VARIANTS, Variant, ablate
from training.studies.figures import draw_figures
from training.studies.study import PathAccuracy, match_filters, study_networks

CPU = torch.device("cpu")
DIVERSITY = "--accuracy-weight", "1e4", "--diversity", "variance"


def run_command(*arguments: str) -> str:
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    return result.output


# Options


def test_recipes_have_names_of_their_own_and_can_be_built() -> None:
    recipes = [recipe() for recipe in RECIPES]
    assert len({recipe.name for recipe in recipes}) == len(recipes)
    for recipe in recipes:
        with torch.device("meta"):
            sampler = recipe.method.build(recipe.target)
        assert set(sampler.parameter_groups()) == set(recipe.learning_rates)
        assert set(recipe.weight_decays) <= set(recipe.learning_rates)
        assert recipe.codes_per_step >= recipe.networks_per_step


def test_deutsch_has_an_accurate_and_a_diverse_recipe() -> None:
    accurate, diverse = mnist_deutsch(), mnist_deutsch_diverse()
    assert accurate.diversity is not None
    assert diverse.diversity is not None
    assert accurate.diversity.accuracy_weight > diverse.diversity.accuracy_weight
    assert replace(diverse, name=accurate.name, diversity=accurate.diversity) == accurate


def test_parts_can_be_left_out() -> None:
    recipe = digits_hypergan()
    assert vary(recipe) == recipe
    bare = vary(recipe, [Part.MIXER])
    assert isinstance(bare.method, HyperGANConfig)
    assert not bare.method.mixer
    assert bare.adversarial_weight == bare.moment_matching_weight == 0
    assert vary(recipe, [Part.DISCRIMINATOR]).adversarial_weight == 0
    both = vary(recipe, [Part.DISCRIMINATOR], 100.0, moment_matching_weight=0.0)
    assert both.options == " --without discriminator --accuracy-weight 100 --moment-matching 0"
    assert (both.adversarial_weight, both.moment_matching_weight) == (0, 0)
    assert both.diversity is not None
    assert both.diversity.accuracy_weight == 100
    extended = vary(mnist_deutsch(), extras=[Part.HARDENING, Part.OUTLIERS])
    assert (extended.outliers, extended.hardening) == (OutlierExposure(), Hardening())
    assert extended.options == " --with outliers --with hardening"
    assert vary(mnist_hyperdraw(), [Part.OUTLIERS]).outliers is None
    rounded = vary(mnist_hyperdraw(), precision="bfloat16")
    assert (rounded.precision, rounded.options) == ("bfloat16", " --precision bfloat16")
    thirty = vary(mnist_deep_ensemble(), networks=30)
    assert thirty.method == DeepEnsembleConfig(30)
    assert (thirty.networks_per_step, thirty.options) == (30, " --networks 30")
    assert thirty.weight_decays == {"all": pytest.approx(1e-4 / 30)}  # as much for each network as before
    varied = vary(mnist_deutsch(), (), 0.125, "variance")
    assert varied.options == " --accuracy-weight 0.125 --diversity variance"
    assert varied.diversity is not None
    assert (varied.diversity.measure, varied.diversity.accuracy_weight) == ("variance", 0.125)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: vary(mnist_deutsch(), extras=[Part.MIXER]),
            "mixer cannot be added; parts that can be added: augmentation, outliers",
        ),
        (lambda: vary(mnist_hyperdraw(), extras=[Part.OUTLIERS]), "mnist-hyperdraw already has outliers"),
        (lambda: vary(mnist_hyperdraw(), networks=3), "mnist-hyperdraw does not train separate networks"),
        (lambda: vary(mnist_deutsch(), [Part.OUTLIERS]), "mnist-deutsch has no outliers to leave out"),
        (lambda: vary(mnist_deutsch(), [Part.MIXER]), "mnist-deutsch has no mixer"),
        (lambda: vary(mnist_deutsch(), [Part.DISCRIMINATOR]), "mnist-deutsch has no discriminator to leave out"),
        (lambda: vary(digits_hypergan(), [Part.DIVERSITY]), "digits-hypergan has no diversity to leave out"),
        (lambda: vary(digits_hypergan(), moment_matching_weight=-1.0), "moment matching must be 0 or more, not -1.0"),
        (
            lambda: vary(digits_hypergan(), moment_matching_weight=math.nan),
            "moment matching must be 0 or more, not nan",
        ),
        (lambda: vary(digits_hypergan(), [Part.MIXER], moment_matching_weight=1.0), "codes follow their prior already"),
        (lambda: vary(mnist_deutsch(), [Part.DIVERSITY], 5.0), "cannot be used without diversity"),
        (lambda: vary(mnist_static(), (), 5.0), "mnist-static trains a single network, so there is no diversity"),
        (lambda: vary(mnist_static(), extras=[Part.REPULSION]), "a single network at a time"),
        (lambda: vary(digits_hypergan(), (), -1.0), "λ, must be positive, not -1.0"),
        (lambda: vary(digits_hypergan(), measure="variance"), "digits-hypergan has no diversity to measure"),
        (lambda: vary(mnist_deutsch(), measure="variance"), "the weight λ for entropy does not suit variance"),
        (
            lambda: replace(digits_hypergan(), adversarial_weight=-1.0),
            "the adversarial loss must be 0 or more, not -1.0",
        ),
        (lambda: replace(toy_mixture(), moment_matching_weight=1.0), "codes follow their prior already"),
    ],
)
def test_options_that_make_no_sense(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_options_on_the_command_line(tmp_path: Path) -> None:
    out = tmp_path / "bare"
    run_command("digits-hypergan", "--out", str(out), "--steps", "5", "--without", "mixer", *DIVERSITY)
    config = load_checkpoint(out).config
    assert isinstance(config.method, HyperGANConfig)
    assert not config.method.mixer
    options = "--without mixer --accuracy-weight 10000 --diversity variance --steps 5"
    assert config.training.command == f"hyperdraw-train digits-hypergan --out DIR {options}"
    for wrong, message in (
        (["--accuracy-weight", "-2"], "must be positive, not -2.0"),
        (["--without", "diversity"], "has no diversity to leave out"),
        (["--diversity", "range"], "'range' is not one of"),
        (["--without", "generator"], "'generator' is not one of"),
    ):
        result = CliRunner().invoke(app, ["digits-hypergan", "--out", str(tmp_path / "x"), *wrong])
        assert result.exit_code == 2
        assert message in " ".join(result.output.replace("│", " ").split())


@pytest.mark.parametrize("recipe", [toy_cubic(), toy_mixture()], ids=lambda recipe: recipe.name)
@pytest.mark.parametrize("part", [Part.AUGMENTATION, Part.OUTLIERS, Part.HARDENING, Part.REPULSION])
def test_only_images_can_be_distorted(recipe: Recipe, part: Part) -> None:
    dataset = load_dataset(recipe.dataset, Path())
    with pytest.raises(TrainingError, match=f"{part} can only be used to classify images, not with {recipe.dataset}"):
        start_run(vary(recipe, extras=[part]), dataset, 0, 10, CPU)


def test_entropy_makes_networks_differ() -> None:
    spreads = {}
    start = digits_hypergan()
    rates = {group: 3 * rate for group, rate in start.learning_rates.items()}
    start = replace(start, networks_per_step=8, inputs_per_network=16, learning_rates=rates)
    for accuracy_weight in (None, 10.0):
        recipe = vary(start, (), accuracy_weight)
        run = FittingRun(recipe, load_dataset("digits", Path()), 0, 100, CPU)
        while not run.finished:
            run.step()
        run.recalibrate()
        spreads[accuracy_weight] = run.validate()["disagreement"]
    assert spreads[10.0] > spreads[None] + 0.1


# Runs that cannot go on


def test_collapsed_networks_end_the_run_with_its_last_good_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = vary(digits_hypergan(), (), 1e4)

    def collapse_at_step_3(run: FittingRun, count: int) -> torch.Tensor:
        latents = run.sampler.draw_latents(0, range(count), stream=1)
        return latents if run.steps < 3 else latents[:1].expand(count, -1)

    monkeypatch.setattr(FittingRun, "_draw_latents", collapse_at_step_3)
    with pytest.raises(
        TrainingError, match=r"step 3: samples 0 and 1 of 16 are equal.* holds the checkpoint of step 1"
    ):
        train(make_session(tmp_path / "run", steps=10, recipe=recipe))
    checkpoint = load_checkpoint(tmp_path / "run")
    assert checkpoint.config.training.steps == 1
    assert "the training failed (step 3: samples 0 and 1" in (tmp_path / "run" / "README.md").read_text()


def test_a_gradient_that_is_not_finite_changes_nothing() -> None:
    run = FittingRun(digits_hypergan(), load_dataset("digits", Path()), 0, 10, CPU)
    run.step()
    before = {name: parameter.clone() for name, parameter in run.sampler.named_parameters()}
    next(run.sampler.parameters()).register_hook(lambda gradient: gradient * math.nan)
    with pytest.raises(TrainingError, match="the norm of the gradient is nan at step 1"):
        run.step()
    assert all(torch.equal(before[name], parameter) for name, parameter in run.sampler.named_parameters())


def test_a_recipe_that_takes_more_data_than_there_is(tmp_path: Path) -> None:
    recipe = replace(digits_hypergan(), inputs_per_network=500)
    with pytest.raises(TrainingError, match="needs more than the 1097 of the training set"):
        train(make_session(tmp_path / "run", steps=1, recipe=recipe))


# Densities


@pytest.fixture(scope="module")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("mixture") / "mixture"
    assert train(make_session(out, steps=200, recipe=toy_mixture()))
    return out


def test_a_density_is_fitted(mixture: Path) -> None:
    checkpoint = load_checkpoint(mixture)
    assert checkpoint.calibration is None
    assert checkpoint.metrics is not None
    with torch.random.fork_rng():
        torch.manual_seed(0)
        untrained = checkpoint.config.method.build(checkpoint.config.target)
    points = checkpoint.config.target.flatten_weights(untrained.sample(0, range(1000)))
    density = load_mixture(Path()).measure_density(points).mean().item()
    assert checkpoint.metrics["density"] > 2 * density
    assert checkpoint.metrics["passed"] >= 3
    assert len(checkpoint.metrics["peaks"]) == 5
    run_command("evaluate", str(mixture))
    assert load_checkpoint(mixture).metrics == checkpoint.metrics
    run_command("figures", str(mixture), "--networks", "100")
    assert (mixture / "figures" / "mixture.svg").read_text().startswith("<?xml")
    result = CliRunner().invoke(app, ["calibrate", str(mixture)])
    assert result.exit_code == 1
    assert "no data to calibrate" in result.output


def test_a_checkpoint_is_evaluated_as_what_it_is(checkpoint: Checkpoint, mixture: Path) -> None:
    other = load_checkpoint(mixture)
    for wrong, dataset in ((checkpoint, "cubic"), (other, "digits"), (other, "cubic")):
        with pytest.raises(ValueError, match=r"for .*\) cannot be evaluated on a dataset for "):
            evaluate_sets(wrong, load_dataset(dataset, Path()), {})
    digits = load_digits(Path())
    assert isinstance(digits.input, ImageSpec)
    larger = replace(digits, input=replace(digits.input, height=28))
    with pytest.raises(ValueError, match=r"inputs \(1, 8, 8\) cannot be evaluated on \(1, 28, 8\)"):
        evaluate_sets(checkpoint, larger, {})


# The ablation


def test_the_ablation_goes_on_and_makes_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    variants = VARIANTS[0], Variant("no-mixer", "without mixer", (Part.MIXER,))
    monkeypatch.setattr(training.studies.ablation, "VARIANTS", variants)
    trained = []

    def train_and_count(session: Session) -> bool:
        trained.append(session.out.relative_to(tmp_path).as_posix())
        return train(session)

    monkeypatch.setattr(training.studies.ablation, "train", train_and_count)
    outliers = {"notmnist": lambda _: torch.zeros(10, 1, 8, 8).byte()}
    monkeypatch.setitem(training.data.outlier_sets._OUTLIERS, "digits", outliers)
    session = make_session(tmp_path, steps=3, recipe=replace(digits_hypergan(), largest_ensemble=20))
    assert ablate(session, [0])
    assert "±" not in (tmp_path / "README.md").read_text().split("| --- |")[-1]
    assert trained == ["paper/0", "no-mixer/0"]
    assert ablate(session, [0, 1])
    assert trained[2:] == ["paper/1", "no-mixer/1"]
    with pytest.raises(TrainingError, match=r"paper/0 holds another run, .*--steps 3'\. Choose another --out"):
        ablate(replace(session, steps=4), [2])
    table = json.loads((tmp_path / "ablation.json").read_text())
    assert [(row["variant"]["name"], row["seeds"]) for row in table["rows"]] == [
        ("paper", [0, 1]),
        ("no-mixer", [0, 1]),
    ]
    accuracies = []
    for seed in "01":
        metrics = load_checkpoint(tmp_path / "paper" / seed).metrics
        assert metrics is not None
        accuracies.append(metrics["single"]["accuracy_mean"])
    assert table["rows"][0]["figures"]["single accuracy"]["mean"] == pytest.approx(sum(accuracies) / 2)
    assert "| without mixer | 2 |" in (tmp_path / "README.md").read_text()


# Studies


@pytest.fixture(scope="module")
def studied(checkpoints: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("studied") / "digits"
    shutil.copytree(checkpoints / "digits", directory)
    run_command("figures", str(directory), "--networks", "120")
    return directory


def test_the_study_agrees_with_the_metrics(studied: Path, checkpoint: Checkpoint) -> None:
    summary = json.loads((studied / "figures" / "study.json").read_text())
    assert checkpoint.metrics is not None
    assert summary["version"] == checkpoint.version
    assert summary["networks"] == 120
    ensembles = {(e["size"], e["fusion"]): e for e in summary["ensembles"]}
    assert {size for size, _ in ensembles} == {1, 2, 5, 10, 20, 50, 100}
    assert summary["disagreement"]["mean"] == pytest.approx(checkpoint.metrics["disagreement"], abs=1e-6)
    single = {fusion: ensembles[1, fusion]["mean"] for fusion in ("mean probability", "mean logit", "majority vote")}
    assert len(set(single.values())) == 1  # one network has nothing to fuse
    assert ensembles[100, "mean probability"]["mean"] == pytest.approx(
        checkpoint.metrics["ensembles"][-1]["accuracy"], abs=0.01
    )
    for shares in summary["explained"].values():
        assert 1 >= shares[0] >= shares[1] > 0


def test_paths_begin_and_end_at_the_same_networks(studied: Path) -> None:
    summary = json.loads((studied / "figures" / "study.json").read_text())
    paths = {path["kind"]: path["accuracies"] for path in summary["paths"]}
    assert set(paths) == {"interpolated", "direct", "direct, filters matched"}
    for accuracies in paths.values():
        assert len(accuracies) == 10
        assert all(len(path) == 40 for path in accuracies)
        for path, reference in zip(accuracies, paths["interpolated"], strict=True):
            assert path[0] == pytest.approx(reference[0], abs=0.01)  # to rounding of logits
            assert path[-1] == pytest.approx(reference[-1], abs=0.01)


def test_permuted_filters_are_matched() -> None:
    target = SMALL_TARGET
    generator = torch.Generator().manual_seed(0)
    weights = draw_weights(target, generator, 1)
    changed = dict(weights)
    for coupling in find_couplings(target):
        filters = weights[f"{coupling.layer}.bias"].shape[1]
        permute_filters(changed, coupling, torch.randperm(filters, generator=generator)[None])
    assert not torch.equal(changed["conv1.weight"], weights["conv1.weight"])
    matched = match_filters(target, {name: torch.cat([weights[name], changed[name]]) for name in weights})
    for name, tensor in weights.items():
        assert torch.equal(matched[name], torch.cat([tensor, tensor]))


def test_the_dip_of_a_path() -> None:
    assert PathAccuracy("direct", [[0.9, 0.5, 0.7], [1.0, 1.0, 1.0]]).dip == pytest.approx((0.3 + 0) / 2)


def test_the_card_shows_the_figures_until_the_checkpoint_changes(studied: Path) -> None:
    names = {path.name for path in (studied / "figures").iterdir()}
    assert names == {f"{name}.svg" for name in ("accuracies", "ensembles", "paths", "components", "disagreement")} | {
        "uncertainty.svg",
        "filters.svg",
        "study.json",
    }
    card = (studied / "README.md").read_text()
    for name in names - {"study.json"}:
        assert f"(figures/{name})" in card
    checkpoint = load_checkpoint(studied)
    assert checkpoint.metrics is not None
    assert f"{checkpoint.metrics['single']['accuracy_mean']:.2%}" in card
    kept = studied.parent / "kept"
    shutil.copytree(studied, kept)
    run_command("calibrate", str(kept))
    assert {path.name for path in (kept / "figures").iterdir()} == names  # they hang on no threshold
    assert "(figures/accuracies.svg)" in (kept / "README.md").read_text()
    copy = studied.parent / "copy"
    shutil.copytree(studied, copy)
    save_checkpoint(copy, checkpoint.config, checkpoint.sampler, "float32")
    assert not (copy / "figures").exists()


def test_figures_are_the_same_each_time(studied: Path) -> None:
    before = {path.name: path.read_bytes() for path in (studied / "figures").iterdir()}
    draw_figures(studied, Path(), CPU, 120)
    assert {path.name: path.read_bytes() for path in (studied / "figures").iterdir()} == before


def test_too_few_networks(checkpoint: Checkpoint, checkpoints: Path) -> None:
    with pytest.raises(ValueError, match="at least 100 networks; there are only 99"):
        study_networks(checkpoint, load_digits(Path()), {}, 99)
    with pytest.raises(CheckpointError, match="at least 100 networks"):
        draw_figures(checkpoints / "digits", Path(), CPU, 99)
