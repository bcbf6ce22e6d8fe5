"""Calibration by labelled answers of a service."""

import math
import shutil
import time
from pathlib import Path

import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

from models.checkpoint import Checkpoint, load_checkpoint
from models.feedback.answers import RequestAnswers, describe_answering, keep_part
from models.feedback.labels import GivenLabel
from models.feedback.store import Store
from models.predictions.detection import apply_temperature
from models.predictions.prediction import Part, Prediction, evaluate, interpret
from tests.conftest import make_session
from training.__main__ import app
from training.runs.session import train

WARM = 3.0
"""Temperature at which labels are drawn."""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of digits after three steps, whose ensembles have up to 20 networks."""
    directory = tmp_path_factory.mktemp("trained") / "digits"
    assert train(make_session(directory, steps=3))
    return directory


@pytest.fixture
def directory(trained: Path, tmp_path: Path) -> Path:
    return shutil.copytree(trained, tmp_path / "digits")


def answer(checkpoint: Checkpoint, count: int, size: int, seed: int) -> tuple[Prediction, Tensor]:
    """The prediction for some pictures of noise, and labels that are drawn from it at another temperature."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randint(256, (count, *checkpoint.input.shape), generator=generator, dtype=torch.uint8)
    task = checkpoint.config.task
    outputs = evaluate(checkpoint.sampler, checkpoint.input, task, inputs, seed, size, checkpoint.density)
    prediction = interpret(task, outputs)
    probabilities = apply_temperature(prediction.log_probabilities, WARM).exp()
    return prediction, probabilities.multinomial(1, generator=generator)[:, 0]


def collect(
    checkpoint: Checkpoint, place: Path, count: int, size: int = 20, seed: int = 1, *, grew: bool = False
) -> None:
    """Lets a store have labelled answers."""
    calibration = checkpoint.calibration
    assert calibration
    prediction, labels = answer(checkpoint, count, size, seed)
    part = Part(torch.arange(count), prediction, calibration.measure(prediction))
    model = describe_answering("digits", checkpoint.version, checkpoint.config.task, calibration)
    kept = RequestAnswers("", f"{seed}", model, seed, time.time(), [keep_part(part, calibration, grew=grew)])
    store = Store(str(place))
    store.add([kept])
    outcomes = store.label("", [GivenLabel(f"{seed}", i, label) for i, label in enumerate(labels.tolist())])
    assert {outcome for outcome, _ in outcomes} == {"recorded"}
    store.close()


def calibrate(directory: Path, place: Path | str, code: int = 0) -> str:
    result = CliRunner().invoke(app, ["calibrate", str(directory), "--from", str(place)])
    assert result.exit_code == code, result.output
    return result.output


def test_a_new_version_keeps_its_promise_for_inputs_like_those_with_labels(checkpoints: Path, tmp_path: Path) -> None:
    directory = shutil.copytree(checkpoints / "digits", tmp_path / "digits")
    before, place = load_checkpoint(directory), tmp_path / "answers.sqlite"
    collect(before, place, 1000)
    collect(before, place, 150, size=10, seed=2)  # of another size, so they do not count
    assert "removed the old metrics" in calibrate(directory, place)
    after = load_checkpoint(directory)
    assert after.version != before.version
    assert after.metrics is None
    old, new = before.calibration, after.calibration
    assert old
    assert new
    assert new.feedback
    assert (new.feedback.version, new.feedback.fitted, new.n, new.split) == (before.version, 200, 800, "feedback")
    assert (new.seeds, new.stopping, new.folds) == (None, None, None)
    assert (new.density, new.flags) == (old.density, old.flags)
    (size,) = new.sizes
    assert (size.ensemble_size, size.scores, size.levels) == (20, old.for_size(20).scores, old.for_size(20).levels)
    assert size.classes
    assert size.classes.temperature == pytest.approx(WARM, rel=0.2)

    prediction, labels = answer(after, 2000, 20, seed=3)
    for coverage in (0.8, 0.95):
        inside = new.choose_sets(prediction, coverage).members[torch.arange(2000), labels].double().mean()
        assert inside >= coverage - 4 * math.sqrt(coverage * (1 - coverage) * (1 / 800 + 1 / 2000))
    flagged = new.judge(prediction, 0.1)["out_of_distribution"].flagged.double().mean()
    assert flagged == pytest.approx(0.1, abs=4 * math.sqrt(0.09 * (1 / 800 + 1 / 2000)))
    broken = old.choose_sets(prediction, 0.8).members[torch.arange(2000), labels].double().mean()
    assert broken < 0.7  # which is why it was calibrated anew


def test_smaller_ensembles_are_not_calibrated_then_and_the_rest_can_be_evaluated(
    directory: Path, tmp_path: Path
) -> None:
    collect(load_checkpoint(directory), tmp_path / "answers.sqlite", 150)
    calibrate(directory, tmp_path / "answers.sqlite")
    checkpoint = load_checkpoint(directory)
    assert checkpoint.calibration
    with pytest.raises(ValueError, match="ensembles of less than 20 networks are not calibrated"):
        checkpoint.calibration.for_size(19)
    card = " ".join((directory / "README.md").read_text().split())
    assert "120 inputs of `feedback`, the answers of version" in card
    assert "Labels that arrive are not a random sample" in card
    assert "Only ensembles of 20 and more networks are calibrated" in card
    result = CliRunner().invoke(app, ["evaluate", str(directory), "--data", str(tmp_path)])
    assert result.exit_code == 0, result.output
    metrics = load_checkpoint(directory).metrics
    assert metrics
    assert [row["size"] for row in metrics["ensembles"]] == [20]


def test_what_is_collected_may_not_suffice(directory: Path, tmp_path: Path) -> None:
    checkpoint, place = load_checkpoint(directory), tmp_path / "answers.sqlite"
    before = (directory / "calibration.json").read_bytes()
    assert f"there is no feedback store {place}" in calibrate(directory, place, code=1)
    assert not place.exists()
    collect(checkpoint, place, 9, grew=True)
    assert "with ensembles that grew (ensemble_size=auto), which gave all" in calibrate(directory, place, code=1)
    place.unlink()
    place.touch()
    assert "the feedback store has no labels" in calibrate(directory, place, code=1)
    collect(checkpoint, place, 99)
    assert "99 labelled answers are too few to calibrate with; 100 are needed" in calibrate(directory, place, code=1)
    assert (directory / "calibration.json").read_bytes() == before
    collect(checkpoint, place, 1, seed=2)
    calibrate(directory, place)
    assert f"but the feedback store has labels of {checkpoint.version}" in calibrate(directory, place, code=1)
