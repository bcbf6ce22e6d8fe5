"""What another precision changes."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from models.checkpoint import Checkpoint, load_checkpoint
from models.model import Model
from models.predictions.prediction import Outputs, evaluate
from models.tasks.classification import Classification
from tests.checkpoints import save_curve
from tests.engine import draw_images
from training.__main__ import app
from training.evaluation.metrics import ClassificationMetrics, load_metrics
from training.evaluation.rounding import measure_rounding
from training.report.card_rounding import describe_rounding


def ask(checkpoint: Checkpoint, seed: int) -> Outputs:
    images = draw_images(Model(checkpoint), 30)
    config, density = checkpoint.config, checkpoint.density
    return evaluate(checkpoint.sampler, config.input, config.task, images, seed, 100, density)


def test_what_is_the_same_does_not_differ(checkpoint: Checkpoint) -> None:
    outputs, task, calibration = ask(checkpoint, 7), checkpoint.config.task, checkpoint.calibration
    assert isinstance(task, Classification)
    assert calibration is not None
    sets = {"test": outputs, "others": outputs.of_inputs(slice(0, 9))}
    found = measure_rounding(task, calibration, "bfloat16", torch.arange(30) % 10, sets, sets)
    assert (found.differing, found.mean_change, found.largest_change) == (0, 0, 0)
    assert found.exact == found.rounded
    (others,) = found.outliers
    assert (others.dataset, others.exact_auroc, others.exact_flagged) == ("others", others.auroc, others.flagged)


def test_what_differs_is_counted(checkpoint: Checkpoint) -> None:
    """Of 30 images, six get the logits of other images, of which one has another label."""
    outputs, task, calibration = ask(checkpoint, 7), checkpoint.config.task, checkpoint.calibration
    assert isinstance(task, Classification)
    assert calibration is not None
    labels = torch.softmax(outputs.plain, -1).mean(0).argmax(-1)
    turned = replace(outputs, plain=outputs.plain.roll(1, dims=-1))
    some = torch.arange(30) < 6
    mixed = replace(outputs, plain=torch.where(some[:, None], turned.plain, outputs.plain))
    found = measure_rounding(task, calibration, "bfloat16", labels, {"test": outputs}, {"test": mixed})
    assert found.exact.accuracy == 1
    assert found.rounded.accuracy == pytest.approx(24 / 30)
    assert found.differing == pytest.approx(6 / 30)
    assert found.rounded.nll > found.exact.nll
    assert found.largest_change < 1e-6, "entropies do not depend on the order of classes"


@pytest.fixture
def measured(checkpoints: Path, tmp_path: Path) -> Path:
    shutil.copytree(checkpoints / "digits", tmp_path / "digits")
    done = CliRunner().invoke(app, ["evaluate", str(tmp_path / "digits"), "--precision", "bfloat16", "--quiet"])
    assert done.exit_code == 0, done.output
    return tmp_path / "digits"


def test_evaluate_measures_it_and_the_card_tells(measured: Path) -> None:
    checkpoint = load_checkpoint(measured)
    metrics = load_metrics(checkpoint)
    assert isinstance(metrics, ClassificationMetrics)
    found = metrics.rounding
    assert found is not None
    assert found.precision == "bfloat16"
    assert 0 < found.mean_change < 0.01
    assert found.exact.nll == pytest.approx(metrics.whole.tempered.nll)
    assert found.rounded.nll == pytest.approx(found.exact.nll, abs=0.01)
    card = (measured / "README.md").read_text()
    assert describe_rounding(metrics) in card
    assert f"| NLL | {found.exact.nll:.4f} | {found.rounded.nll:.4f} |" in card
    again = CliRunner().invoke(app, ["evaluate", str(measured), "--quiet"])
    assert again.exit_code == 0
    assert (measured / "README.md").read_text() == card, "what was measured of this version stays"


def test_a_card_without_it_has_no_section(checkpoint: Checkpoint) -> None:
    assert describe_rounding(None) == ""
    assert describe_rounding(load_metrics(checkpoint)) == ""


def test_models_of_vectors_have_none(tmp_path: Path) -> None:
    save_curve(tmp_path / "curve")
    refused = CliRunner().invoke(app, ["evaluate", str(tmp_path / "curve"), "--precision", "bfloat16", "--quiet"])
    assert refused.exit_code == 1
    assert "is not for images, so services answer in float32" in " ".join(refused.output.split())
