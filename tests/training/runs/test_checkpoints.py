"""Commands on finished checkpoints."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

import training.runs.checkpoints
from models.checkpoint import load_checkpoint
from models.predictions.prediction import evaluate
from models.targets.target import TargetNetwork
from tests.conftest import make_session
from tests.pictures import draw_image, encode
from training.__main__ import app
from training.data.dataset import Dataset
from training.data.datasets import load_dataset
from training.evaluation.evaluation import PROMISE_SEEDS
from training.evaluation.evidence import load_evidence
from training.runs.checkpoints import calibrate_directory
from training.runs.session import train


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of digits after three steps, whose ensembles are small."""
    directory = tmp_path_factory.mktemp("trained") / "digits"
    assert train(make_session(directory, steps=3))
    return directory


@pytest.fixture
def directory(trained: Path, tmp_path: Path) -> Path:
    """A copy of it that may be changed."""
    return shutil.copytree(trained, tmp_path / "digits")


def test_evaluate_measures_the_same_figures_again(directory: Path, tmp_path: Path) -> None:
    before = (directory / "metrics.json").read_bytes()
    result = CliRunner().invoke(app, ["evaluate", str(directory), "--data", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert (directory / "metrics.json").read_bytes() == before


def test_evaluate_keeps_what_was_measured_on_other_sets(directory: Path, tmp_path: Path) -> None:
    """Until another calibration makes another version; in the card and in the evidence for comparisons, too."""
    for name in ("squares", "circles"):
        (tmp_path / name).mkdir()
        for size in range(5, 25):
            (tmp_path / name / f"{size}.png").write_bytes(encode(draw_image(size=(size, 20))))

    def evaluate(*names: str) -> dict[str, Any]:
        outliers = [part for name in names for part in ("--outliers", str(tmp_path / name))]
        result = CliRunner().invoke(app, ["evaluate", str(directory), "--data", str(tmp_path), *outliers])
        assert result.exit_code == 0, result.output
        metrics = load_checkpoint(directory).metrics
        assert metrics is not None
        assert metrics["version"] == load_checkpoint(directory).version
        return {row["dataset"]: row for row in metrics["outliers"]}

    first = evaluate("squares")
    both = evaluate("circles")
    assert list(both) == ["squares", "circles"]
    (tmp_path / "circles" / "5.png").unlink()
    again = evaluate("circles")
    assert again["squares"] == both["squares"] == first["squares"]
    assert (both["circles"]["inputs"], again["circles"]["inputs"]) == (20, 19)
    assert evaluate() == again
    card = (directory / "README.md").read_text()
    assert "| squares | predictive entropy |" in card
    evidence = load_evidence(directory)
    assert evidence
    assert set(evidence.origin.sets) == set(evidence.entropies) == {"test", "squares", "circles"}
    assert set(evidence.curves) == {"NLL", "squares AUROC", "circles AUROC"}
    calibrate_directory(directory, tmp_path, torch.device("cpu"))
    assert evaluate() == {}


def test_metrics_that_cannot_be_read_are_not_written_over(directory: Path, tmp_path: Path) -> None:
    (directory / "metrics.json").write_text('{"kind": "classification"}')
    result = CliRunner().invoke(app, ["evaluate", str(directory), "--data", str(tmp_path)])
    assert result.exit_code == 1
    assert "metrics.json cannot be read (Field required); delete it, and evaluate the checkpoint again" in " ".join(
        result.output.split()
    )
    assert (directory / "metrics.json").read_text() == '{"kind": "classification"}'


def test_every_calibration_input_is_judged_by_networks_of_its_own(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else inputs that share networks would not be exchangeable with one that is judged by fresh networks."""
    calls: list[tuple[int, torch.Tensor]] = []

    def look(sampler: Any, spec: Any, task: Any, inputs: torch.Tensor, seed: int, *rest: Any) -> Any:
        calls.append((seed, inputs))
        return evaluate(sampler, spec, task, inputs, seed, *rest)

    monkeypatch.setattr("training.evaluation.evaluation.evaluate", look)
    calibrate_directory(directory, tmp_path, torch.device("cpu"))
    checkpoint, dataset = load_checkpoint(directory), load_dataset("digits", Path())
    assert isinstance(dataset, Dataset)
    assert checkpoint.calibration is not None
    seeds, count = checkpoint.calibration.seeds, len(dataset.calibration)
    assert seeds is not None
    first = seeds.first
    own = {seed: inputs for seed, inputs in calls if first <= seed < first + count}
    assert torch.equal(torch.cat([own[seed] for seed in sorted(own)]), dataset.calibration.inputs)
    assert len(own) == len(seeds) == count
    others = [seed for seed, _ in calls if seed not in own]  # that fit temperatures, and choose scores
    assert len(others) == 2 * len({*others}) == 2 * len(training.runs.checkpoints.VALIDATION_SEEDS)
    assert not {*own} & {*PROMISE_SEEDS}


def test_rules_for_when_to_stop_are_tested_on_validation_inputs_if_these_suffice(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The digits are too few. Where they are told to suffice, four fifths of them test rules, and thresholds stay."""
    before = load_checkpoint(directory).calibration
    assert before is not None
    assert before.stopping is None
    monkeypatch.setattr(training.runs.checkpoints, "can_pass", bool)
    calibrate_directory(directory, tmp_path, torch.device("cpu"))
    after = load_checkpoint(directory).calibration
    assert after is not None
    assert after.stopping is not None
    assert after.sizes == before.sizes
    assert after.stopping.split == "digits/validation"
    dataset = load_dataset("digits", tmp_path)
    assert isinstance(dataset, Dataset)
    assert after.stopping.n == len(dataset.validation) * 4 // 5
    assert after.stopping.rules == (None,) * len(after.rates)


def test_calibrate_measures_the_same_thresholds_again(directory: Path, tmp_path: Path) -> None:
    version = load_checkpoint(directory).version
    (directory / "calibration.json").unlink()
    result = CliRunner().invoke(app, ["calibrate", str(directory), "--data", str(tmp_path)])
    assert result.exit_code == 0, result.output
    checkpoint = load_checkpoint(directory)
    assert checkpoint.version == version
    assert checkpoint.metrics is None
    assert "hyperdraw-train evaluate" in (directory / "README.md").read_text()


def test_a_density_of_some_examples_is_about_that_of_all(
    trained: Path, directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training.runs.checkpoints, "MOST_DESCRIBED", 500)
    calibrate_directory(directory, tmp_path, torch.device("cpu"))
    whole, some = (load_checkpoint(folder).density for folder in (trained, directory))
    dataset = load_dataset("digits", tmp_path)
    assert isinstance(dataset, Dataset)
    assert whole is not None
    assert some is not None
    prepared = dataset.view.prepare(dataset.test.inputs)
    found, expected = some.measure_distance(prepared), whole.measure_distance(prepared)
    assert not torch.equal(found, expected)
    assert torch.corrcoef(torch.stack([found, expected]))[0, 1] > 0.95


@pytest.mark.parametrize(
    "arguments",
    [
        ["calibrate"],
        ["evaluate"],
        ["attack", "--images", "1", "--steps", "1", "--restarts", "1", "--linf", "0.1", "--networks", "2"],
        ["compare", "--out", "compared"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_networks_are_evaluated_as_in_training(
    arguments: list[str], directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Denormal numbers count as zero in every command."""
    monkeypatch.chdir(tmp_path)
    shutil.rmtree(directory / "training")  # with the evidence that nothing would be evaluated for
    flushed: set[bool] = set()
    forward, denormal = TargetNetwork.forward, torch.tensor(1e-310, dtype=torch.float64)

    def look(*given: Any) -> torch.Tensor:
        flushed.add((denormal * 1).item() == 0)
        return forward(*given)

    monkeypatch.setattr(TargetNetwork, "forward", look)
    name, *options = arguments
    result = CliRunner().invoke(app, [name, "digits", *options, "--data", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert flushed == {True}
