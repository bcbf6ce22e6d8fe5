"""Vectors with labels, from an npz file to a served model."""

import json
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from typer.testing import CliRunner

from models.checkpoint import load_checkpoint
from models.inputs.vector import VectorSpec
from models.predictions.prediction import interpret
from models.tasks.classification import Classification
from models.tasks.regression import Regression
from service.app import create_app
from service.settings import Settings
from tests.conftest import serve
from training.__main__ import app
from training.data.dataset import DatasetError
from training.data.datasets import load_training_data
from training.data.vectors import load_vectors, load_vectors_again
from training.evaluation.evaluation import evaluate_split

COUNT, NUMBERS = 300, 160
GENERATOR = np.random.default_rng(0)
CENTRES = GENERATOR.normal(size=(3, NUMBERS))
NAMES = np.array(["ash", "birch", "cedar"])


def write_vectors(path: Path, **changes: NDArray[Any]) -> Path:
    """Embeddings of three classes, around centres of their own, and a number that depends on the first of each."""
    classes = np.arange(COUNT) % 3
    inputs = 3 + CENTRES[classes] + np.random.default_rng(1).normal(size=(COUNT, NUMBERS))
    arrays: dict[str, Any] = {"inputs": inputs, "labels": NAMES[classes], "number": inputs[:, 0] * 2 + 5}
    np.savez(path, **(arrays | changes))
    return path


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_vectors(tmp_path_factory.mktemp("vectors") / "trees.npz")


@pytest.fixture(scope="module")
def trained(file: Path) -> Path:
    out = file.parent / "models" / "trees"
    arguments = ["vectors", str(file), "--out", str(out), "--steps", "200", "--quiet", "--json"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout) == json.loads((out / "report.json").read_text())
    return out


def test_vectors_are_divided_and_scaled_by_the_training_ones(file: Path) -> None:
    table = load_vectors(file)
    dataset = table.dataset
    assert isinstance(dataset.input, VectorSpec)
    assert dataset.task == Classification(("ash", "birch", "cedar"))
    splits = dataset.train, dataset.validation, dataset.calibration, dataset.test
    assert [len(split) for split in splits] == [180, 30, 45, 45]
    assert all(split.labels.bincount().unique().numel() == 1 for split in splits)
    prepared = dataset.input.prepare(dataset.train.inputs)
    torch.testing.assert_close(prepared.mean(0), torch.zeros(NUMBERS), atol=1e-5, rtol=0)
    torch.testing.assert_close(prepared.std(0, correction=0), torch.ones(NUMBERS), atol=1e-4, rtol=0)


def test_numbers_are_predicted_from_numbers(file: Path) -> None:
    table = load_vectors(file, labels="number")
    assert isinstance(table.dataset.task, Regression)
    assert table.dataset.train.labels.shape == (180, 1)
    known = np.load(file)["number"]
    assert set(table.dataset.test.labels[:, 0].tolist()) <= set(known.astype(np.float32).tolist())


@pytest.mark.parametrize(("labels", "classes"), [(np.arange(COUNT) % 2, ("0", "1")), (NAMES.astype("S"), None)])
def test_labels_of_other_types(tmp_path: Path, labels: NDArray[Any], classes: tuple[str, ...] | None) -> None:
    own = labels if classes else labels[np.arange(COUNT) % 3]
    dataset = load_vectors(write_vectors(tmp_path / "v.npz", labels=own)).dataset
    assert isinstance(dataset.task, Classification)
    assert dataset.task.classes == (classes or tuple(NAMES))


def test_a_number_that_never_varies_is_no_trouble(tmp_path: Path) -> None:
    inputs = np.random.default_rng(0).normal(size=(COUNT, 4))
    inputs[:, 2] = 7e5
    dataset = load_vectors(write_vectors(tmp_path / "v.npz", inputs=inputs)).dataset
    assert torch.isfinite(dataset.input.prepare(dataset.test.inputs)).all()


def test_the_model_is_served_and_knows_what_is_foreign(file: Path, trained: Path) -> None:
    checkpoint = load_checkpoint(trained)
    dataset = load_training_data(checkpoint.config, file)
    assert checkpoint.calibration is not None
    report = json.loads((trained / "report.json").read_text())
    assert report["qualities"][0]["accuracy"] > 0.95
    assert [quality["model"] for quality in report["qualities"][1:]] == ["logistic regression", "gradient boosting"]
    vectors = dataset.test.inputs  # type: ignore[union-attr]  # no mixture
    flagged = []
    for inputs in (vectors, 0 * vectors, -vectors):
        prediction = interpret(checkpoint.config.task, evaluate_split(checkpoint, inputs))
        flagged.append(checkpoint.calibration.judge(prediction, 0.05)["out_of_distribution"].flagged.double().mean())
    assert flagged[0] < 0.25
    assert flagged[1:] == [1, 1]
    with serve(create_app(Settings(checkpoints=trained.parent))) as address:
        answer = httpx.post(f"{address}/v1/models/trees/predict", json={"inputs": vectors[:1].tolist()}).json()
    assert answer["predictions"][0]["label"] in NAMES


def test_the_card_and_the_commands_find_the_file_again(file: Path, trained: Path, tmp_path: Path) -> None:
    config = load_checkpoint(trained).config
    assert config.training.command.startswith(
        "hyperdraw-train vectors trees.npz --out DIR --inputs inputs --labels labels"
    )
    for command in ("calibrate", "evaluate"):
        result = CliRunner().invoke(app, [command, str(trained), "--data", str(file)])
        assert result.exit_code == 0, result.output
    other = write_vectors(tmp_path / "other.npz", inputs=np.ones((COUNT, NUMBERS)))
    for path, message in ((other, "is not the file trees.npz"), (tmp_path / "none.npz", "is not a file. The model")):
        with pytest.raises(DatasetError, match=message):
            load_vectors_again(config.training.dataset, path, config.input, config.task)


def test_a_number_is_trained_and_reported(file: Path, tmp_path: Path) -> None:
    arguments = ["vectors", str(file), "--labels", "number", "--out", str(tmp_path / "out"), "--steps", "50", "--quiet"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "ridge regression" in result.stdout
    assert "importance" not in result.stdout


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"inputs": np.zeros((COUNT, 2, 2))}, "'inputs' is float64 of shape .*, but it must hold vectors of numbers"),
        ({"inputs": NAMES[np.zeros((COUNT, 2), int)]}, "'inputs' is <U5 of shape .*, but it must hold vectors"),
        ({"inputs": np.full((COUNT, 2), np.nan)}, r"'inputs' holds nan at \[0, 0\]; leave such vectors out"),
        ({"inputs": np.full((COUNT, 2), 1e300)}, r"'inputs' holds inf at \[0, 0\]"),
        ({"labels": np.zeros(COUNT, int)}, r"'labels' has 1 different value\(s\)"),
        ({"labels": np.zeros(COUNT)}, "'labels' must hold finite numbers that differ"),
        ({"labels": np.arange(COUNT - 1)}, "a number for each of 300 vectors"),
        ({"labels": np.arange(COUNT)}, "labels = 0 has 1 rows"),
        ({"labels": np.array([{}] * COUNT)}, "cannot be read as an npz file of arrays: Object arrays cannot be loaded"),
    ],
)
def test_arrays_that_cannot_be_used(tmp_path: Path, changes: dict[str, NDArray[Any]], message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        load_vectors(write_vectors(tmp_path / "v.npz", **changes))


def test_files_that_cannot_be_used(file: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "one.npy", np.zeros(3))
    (tmp_path / "text.npz").write_text("hello")
    (tmp_path / "cut.npz").write_bytes(file.read_bytes()[:999])
    for name, message in (
        ("one.npy", "is no npz file. Write both arrays to one"),
        ("text.npz", "is no npz file"),
        ("cut.npz", "is no npz file"),
        ("missing.npz", "cannot be read as an npz file of arrays: .*No such file"),
    ):
        with pytest.raises(DatasetError, match=message):
            load_vectors(tmp_path / name)
    with pytest.raises(DatasetError, match=r"has no array 'x'\. Its arrays are inputs, labels, number"):
        load_vectors(file, "x")
    with pytest.raises(DatasetError, match="'labels' holds <U5, so it cannot be predicted as numbers"):
        load_vectors(file, task="regression")
