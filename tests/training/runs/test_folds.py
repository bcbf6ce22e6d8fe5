"""Calibration in folds, with a final fit on everything but the test set."""

import json
import os
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner, Result

from models.backbones.backbone import Backbone
from models.checkpoint import load_checkpoint
from models.predictions.detection import conformal_quantile
from models.predictions.prediction import Outputs, evaluate, interpret
from tests.backbones import CHANNELS, write_onnx
from tests.training.data.test_own_images import write_folder
from tests.training.data.test_table import make_frame
from training.__main__ import app
from training.backbones.source import open_backbone
from training.data.dataset import assign_folds
from training.data.features import CachedBackbone
from training.data.image_folders import load_image_folder
from training.data.table import Table, load_table
from training.data.vectors import load_vectors
from training.evaluation.calibration import calibrate
from training.evaluation.evaluation import evaluate_split
from training.recipes.own_images import own_images
from training.recipes.own_table import own_table, own_vectors
from training.report.own_table import COVERAGE, PENALTIES, measure_others
from training.runs.checkpoints import CALIBRATION_SEED
from training.runs.fitting import FittingRun
from training.runs.loop import StepReport
from training.runs.run import sharpen
from training.runs.session import Session, train
from training.runs.sources import FeatureSource
from training.runs.state import TrainingError

CPU = torch.device("cpu")
FILES = ("model.safetensors", "config.json", "calibration.json", "density.safetensors", "metrics.json", "README.md")


def load_things(folder: Path, target: str, folds: int) -> Table:
    make_frame(120).write_csv(folder / "things.csv")
    table = load_table(folder / "things.csv", target)
    return replace(table, dataset=table.dataset.in_folds(folds))


def make_session(out: Path, table: Table, *, steps: int | None = 20, resume: bool = False) -> Session:
    recipe = replace(own_table(table), largest_ensemble=5)
    return Session(recipe, out, out / "no-data", CPU, None, steps, None, resume)


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [*map(str, arguments), "--quiet"])


@pytest.mark.parametrize("folds", [2, 3, 7])
def test_folds_are_equal_also_in_each_class_and_the_same_again(folds: int) -> None:
    labels = torch.tensor([0] * 17 + [1] * 5 + [2] * 30)[torch.randperm(52)]
    assigned = assign_folds(labels, folds)
    assert torch.equal(assigned, assign_folds(labels, folds))
    for group in (labels >= 0, *(labels == k for k in range(3))):
        counts = assigned[group].bincount(minlength=folds)
        assert counts.sum() == group.sum()
        assert counts.max() - counts.min() <= 1
    counts = assign_folds(torch.randn(52, 1), folds).bincount()
    assert counts.max() - counts.min() <= 1


def test_each_example_but_those_of_the_test_set_is_held_out_once(tmp_path: Path) -> None:
    make_frame(120).write_csv(tmp_path / "things.csv")
    plain = load_table(tmp_path / "things.csv", "y").dataset
    assert plain.in_folds(None) is plain
    assert list(plain.list_parts()) == [plain]
    dataset = plain.in_folds(4)
    assert dataset.test is plain.test
    assert len(dataset.train) == len(plain.train) + len(plain.validation) + len(plain.calibration)
    assert len(dataset.validation) == len(dataset.calibration) == 0
    parts = list(dataset.list_parts())
    assert len(parts) == 4
    for part in parts:
        assert not {*part.train.labels[:, 0].tolist()} & {*part.calibration.labels[:, 0].tolist()}
        assert len(part.train) + len(part.calibration) == len(dataset.train)
        assert part.places is not None
        assert torch.equal(dataset.train.labels[part.places], part.train.labels)
    held_out = torch.cat([part.calibration.labels for part in parts])
    assert torch.equal(held_out.sort(0).values, dataset.train.labels.sort(0).values)


def test_folds_of_a_large_dataset_hold_out_only_some_of_their_examples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = load_things(tmp_path, "y", 3).dataset
    monkeypatch.setattr("training.data.dataset.MOST_JUDGED", 30)
    for part, whole in zip(dataset.list_parts(), assign_folds(dataset.train.labels, 3).bincount(), strict=True):
        assert len(part.calibration) == 10
        assert len(part.train) == len(dataset.train) - whole  # the others of the fold do not train


def write_noise(path: Path) -> None:
    """Vectors that tell nothing about their labels."""
    random = np.random.default_rng(0)
    np.savez(path, inputs=random.normal(size=(100, 100)), labels=random.integers(0, 2, 100))


def test_no_example_is_judged_by_networks_that_were_trained_on_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Labels are drawn by lot, so only networks that were trained on an example know its label."""
    write_noise(tmp_path / "noise.npz")
    table = load_vectors(tmp_path / "noise.npz")
    dataset = table.dataset.in_folds(4)
    recipe = own_vectors(replace(table, dataset=dataset))
    rates = {"modes": 5e-3, "gains": 1e-3}
    recipe = replace(recipe, largest_ensemble=5, learning_rates=rates, weight_decays={}, warmup_steps=5)
    pooled: dict[str, Any] = {}

    def look(**arguments: Any) -> Any:
        pooled.update(arguments)
        return calibrate(**arguments)

    monkeypatch.setattr("training.runs.checkpoints.calibrate", look)
    assert train(Session(recipe, tmp_path / "model", tmp_path, CPU, None, 60, None, resume=False), dataset)

    def share_right(outputs: Outputs, labels: Tensor) -> float:
        answers = interpret(dataset.task, outputs).probabilities.argmax(-1)
        return (answers == labels).double().mean().item()

    checkpoint = load_checkpoint(tmp_path / "model")
    assert share_right(evaluate_split(checkpoint, dataset.train.inputs), dataset.train.labels) > 0.95
    _, usual, usual_labels = pooled["validation"]
    for outputs, labels in ((pooled["outputs"], pooled["labels"]), (usual, usual_labels)):
        assert sorted(labels.tolist()) == sorted(dataset.train.labels.tolist())
        assert share_right(outputs, labels) < 0.7  # by chance alone: 0.5 ± 0.054 of 85
    assert checkpoint.calibration is not None
    assert checkpoint.calibration.temperature_for(5) > 2  # networks that know nothing are far too certain


def test_every_example_has_a_seed_and_the_density_of_its_fold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = load_things(tmp_path, "kind", 3)
    calls: list[tuple[int, Tensor, Any]] = []

    def look(
        sampler: Any, spec: Any, task: Any, inputs: Tensor, seed: int, size: int, density: Any, *more: Any
    ) -> Outputs:
        calls.append((seed, inputs, density))
        return evaluate(sampler, spec, task, inputs, seed, size, density, *more)

    monkeypatch.setattr("training.evaluation.evaluation.evaluate", look)
    assert train(make_session(tmp_path / "model", table), table.dataset)
    checkpoint = load_checkpoint(tmp_path / "model")
    assert checkpoint.calibration is not None
    assert (checkpoint.calibration.folds, checkpoint.calibration.n) == (3, len(table.dataset.train))
    assert checkpoint.calibration.split == checkpoint.calibration.temperature_split == f"{table.name}/train"
    seeds = range(CALIBRATION_SEED, CALIBRATION_SEED + len(table.dataset.train))
    own = sorted((call for call in calls if call[0] in seeds), key=lambda call: call[0])
    assert [seed for seed, *_ in own] == list(seeds)
    parts = list(table.dataset.list_parts())
    judged, held_out = torch.cat([inputs for _, inputs, _ in own]), torch.cat([p.calibration.inputs for p in parts])
    torch.testing.assert_close(judged, held_out, rtol=0, atol=0, equal_nan=True)
    which = [number for number, part in enumerate(parts) for _ in range(len(part.calibration))]
    means = [part.input.prepare(part.train.inputs).mean(0) for part in parts]
    for fold, (_, _, density) in zip(which, own, strict=True):
        torch.testing.assert_close(density.mean, means[fold])
    assert checkpoint.density is not None
    torch.testing.assert_close(checkpoint.density.mean, parts[0].input.prepare(table.dataset.train.inputs).mean(0))


@pytest.mark.parametrize("how", ["interrupted", "killed"])
def test_a_training_that_was_stopped_in_a_fold_goes_on_to_the_same_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    table = load_things(tmp_path, "y", 3)
    assert train(make_session(tmp_path / "whole" / "model", table), table.dataset)
    step, started = FittingRun.step, list[FittingRun]()

    def stop_in_the_second_fold(run: FittingRun) -> StepReport:
        if run not in started:
            started.append(run)
        if len(started) == 3 and run.steps == 7:
            if how == "killed":
                raise RuntimeError("Killed")
            os.kill(os.getpid(), signal.SIGINT)
        return step(run)

    out = tmp_path / "halted" / "model"
    with monkeypatch.context() as patch:
        patch.setattr(FittingRun, "step", stop_in_the_second_fold)
        if how == "killed":
            with pytest.raises(RuntimeError, match="Killed"):
                train(make_session(out, table), table.dataset)
            assert not (out / "config.json").exists()
        else:
            assert not train(make_session(out, table), table.dataset)
            assert load_checkpoint(out).calibration is None
            assert "interrupted before all 3 folds were trained" in (out / "README.md").read_text()
            refused = run("evaluate", out, "--data", tmp_path / "things.csv")
            assert "continue the training with --resume" in " ".join(refused.output.split())
    kept = {path.stem for path in (out / "training").glob("*.safetensors")}
    assert kept == {"state", "fold-1"} | ({"fold-2"} if how == "interrupted" else set())
    steps: list[int] = []

    def count(run: FittingRun) -> StepReport:
        steps.append(run.steps)
        return step(run)

    monkeypatch.setattr(FittingRun, "step", count)
    assert train(make_session(out, table, steps=None, resume=True), table.dataset)
    assert len(steps) == 20 + (12 if how == "interrupted" else 20)
    assert not list((out / "training").glob("*fold*.safetensors"))
    for name in FILES:
        assert (out / name).read_bytes() == (tmp_path / "whole" / "model" / name).read_bytes(), name


def test_a_fold_that_cannot_be_trained_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table, step = load_things(tmp_path, "y", 2), FittingRun.step

    def fail(run: FittingRun) -> StepReport:
        if run.recipe.dataset.endswith("fold 2 of 2"):
            raise TrainingError("the loss is nan")
        return step(run)

    monkeypatch.setattr(FittingRun, "step", fail)
    with pytest.raises(TrainingError, match=r"fold 2 of 2: the loss is nan\. Without it no checkpoint"):
        train(make_session(tmp_path / "model", table), table.dataset)
    assert not (tmp_path / "model" / "config.json").exists()


def test_minutes_are_those_of_all_trainings_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a machine that makes a step in a second."""
    table = load_things(tmp_path, "y", 3)
    seconds = 0

    def step(run: FittingRun) -> None:
        nonlocal seconds
        seconds += 1

    monkeypatch.setattr(FittingRun, "step", step)
    monkeypatch.setattr(time, "perf_counter", lambda: float(seconds))
    monkeypatch.setattr("training.runs.session.run_steps", lambda *_: False)
    for dataset, steps in ((table.dataset, 30), (replace(table.dataset, folds=None), 120)):
        out = tmp_path / str(steps)
        session = replace(make_session(out, table, steps=None), minutes=2)
        assert not train(session, replace(dataset, validation=dataset.test, calibration=dataset.test))
        assert load_checkpoint(out).config.training.planned_steps == steps


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table and vectors, with models in three folds, trained by the commands."""
    folder = tmp_path_factory.mktemp("folds")
    make_frame(120).write_csv(folder / "things.csv")
    write_noise(folder / "noise.npz")
    options = ("--folds", "3", "--steps", "20")
    for result in (
        run("table", folder / "things.csv", "--target", "y", "--out", folder / "table", *options),
        run("vectors", folder / "noise.npz", "--out", folder / "vectors", *options),
    ):
        assert result.exit_code == 0, result.output
        assert "training rows calibrate too, in 3 folds." in result.stdout
    return folder


@pytest.mark.parametrize(("name", "data"), [("table", "things.csv"), ("vectors", "noise.npz")])
def test_models_of_rows_say_that_they_were_calibrated_in_folds(tables: Path, name: str, data: str) -> None:
    directory = tables / name
    report = json.loads((directory / "report.json").read_text())
    checkpoint = load_checkpoint(directory)
    assert report["rows"].keys() == {"train", "test"}
    assert report["folds"] == checkpoint.config.training.folds == 3
    assert checkpoint.calibration is not None
    assert checkpoint.calibration.folds == 3
    assert checkpoint.calibration.n == report["rows"]["train"]
    assert "--folds 3" in checkpoint.config.training.command
    card = (directory / "README.md").read_text()
    assert "each without one fold" in card
    assert "budgets and coverages hold approximately" in card
    assert "no other use." not in card.replace("inputs with no other use", "")
    before = {path.name: path.read_bytes() for path in directory.iterdir() if path.is_file()}
    result = run("evaluate", directory, "--data", tables / data)
    assert result.exit_code == 0, result.output
    assert (directory / "metrics.json").read_bytes() == before["metrics.json"]
    refused = run("calibrate", directory, "--data", tables / data)
    assert refused.exit_code == 1
    said = " ".join(refused.output.split())
    assert "none are left to calibrate it with" in said
    assert checkpoint.config.training.command in said
    assert (directory / "calibration.json").read_bytes() == before["calibration.json"]


def test_figures_say_what_they_lack(tables: Path, tmp_path: Path) -> None:
    result = run("figures", tables / "vectors", "--data", tables / "noise.npz")
    assert result.exit_code == 1
    assert "no validation images" in " ".join(result.output.split())


def test_simpler_models_are_calibrated_in_the_same_folds(tmp_path: Path) -> None:
    from sklearn.linear_model import RidgeCV  # takes long to import
    from sklearn.model_selection import PredefinedSplit, cross_val_predict

    dataset = load_things(tmp_path, "y", 3).dataset
    ridge, boosting = measure_others(dataset)
    inputs, test = (dataset.input.prepare(s.inputs).double().numpy() for s in (dataset.train, dataset.test))
    labels, split = dataset.train.labels[:, 0].numpy(), PredefinedSplit(assign_folds(dataset.train.labels, 3).numpy())
    model = RidgeCV([1 / c for c in PENALTIES])
    errors = torch.from_numpy(cross_val_predict(model, inputs, labels, cv=split) - labels)
    reach = conformal_quantile(errors.abs(), 1 - COVERAGE)
    assert ridge.width == pytest.approx(2 * reach)
    wrong = torch.from_numpy(model.fit(inputs, labels).predict(test)) - dataset.test.labels[:, 0]
    assert ridge.error == pytest.approx(wrong.square().mean().sqrt().item(), rel=1e-5)
    assert boosting.width is not None


def test_images_in_folds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks that saw outliers are sharpened by what others say about the other folds, and the last one by all."""
    sharpened: list[list[Tensor]] = []

    def look(sampler: Any, judged: Any) -> None:
        sharpened.append([labels for _, labels in judged])
        sharpen(sampler, judged)

    for module in ("run", "session"):
        monkeypatch.setattr(f"training.runs.{module}.sharpen", look)
    folder = write_folder(tmp_path / "shapes")
    result = run("images", folder, "--out", tmp_path / "model", "--folds", "3", "--steps", "5", "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["images"] == {name: {"train": 34, "test": 6} for name in ("bar", "ring")}
    assert report["folds"] == 3
    assert report["plain_network"]["accuracy"]["images"] == 12
    dataset = load_image_folder(folder).dataset.in_folds(3)
    own = [part.validation.labels.tolist() for part in dataset.list_parts()]
    found = [[labels.tolist() for labels in judged] for judged in sharpened if judged]
    assert found == [own, *([other for other in own if other is not fold] for fold in own)]


def test_features_of_all_views_are_shared_by_the_folds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folder(tmp_path / "shapes", mode="RGB")
    write_onnx(tmp_path / "net.onnx")
    (tmp_path / "net.json").write_text(json.dumps({"output": "features"}))
    spec, backbone = open_backbone(tmp_path / "net.onnx", 16)
    images = load_image_folder(tmp_path / "shapes", 16, grey=False)
    dataset = images.see_through(spec, CachedBackbone(backbone, tmp_path)).dataset.in_folds(3)
    recipe = replace(own_images("x@1", spec.shape, 2, 40, features=(CHANNELS,)), views=3, outliers=None)
    whole = FeatureSource(recipe, dataset, 0, CPU)

    def refuse(*_: object) -> Tensor:
        raise AssertionError("these features are known")

    monkeypatch.setattr(Backbone, "run", refuse)
    for part in dataset.list_parts():
        assert part.places is not None
        source = FeatureSource(recipe, part, 0, CPU)
        torch.testing.assert_close(source.take_all(), whole.take_all()[part.places])
        every = torch.arange(len(part.train))
        torch.testing.assert_close(
            torch.cat([source.take(index.expand(60), 0).unique(dim=0) for index in every]),
            torch.cat([whole.take(place.expand(60), 0).unique(dim=0) for place in part.places]),
        )


def test_a_backbone_in_folds(tmp_path: Path) -> None:
    write_folder(tmp_path / "shapes", mode="RGB")
    write_onnx(tmp_path / "net.onnx")
    (tmp_path / "net.json").write_text(json.dumps({"output": "features"}))
    backbone = ("--backbone", tmp_path / "net.onnx", "--size", "16", "--features", tmp_path / "cache")
    options = ("--folds", "2", "--steps", "5", "--without", "outliers", "--json")
    result = run("images", tmp_path / "shapes", "--out", tmp_path / "model", *backbone, *options)
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["images"]["bar"] == {"train": 34, "test": 6}
    assert report["baseline"]["accuracy"]["images"] == 12
    assert load_checkpoint(tmp_path / "model").calibration is not None
