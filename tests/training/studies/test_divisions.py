"""The comparison of models on random divisions of a table."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.training.data.test_table import make_frame
from training.__main__ import app
from training.runs.state import TrainingError
from training.studies.divisions import Divisions, describe_divisions, study_divisions


def study(folder: Path, divisions: int) -> Divisions:
    return study_divisions(folder / "things.csv", "y", None, folder / "study", divisions)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("divisions")
    make_frame().write_csv(folder / "things.csv")
    arguments = ["divisions", str(folder / "things.csv"), "--target", "y", "--out", str(folder / "study")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.recipes.own_table.LEAST_STEPS", 200)
        patch.setattr("training.recipes.own_table.EPOCHS", 10)
        result = CliRunner().invoke(app, [*arguments, "--divisions", "1", "--quiet"])
    assert result.exit_code == 0, result.output
    return folder


def test_divisions_compare_models_and_flags(folder: Path) -> None:
    found = study(folder, 1)  # of files that are there
    (qualities,), (flags,) = found.qualities, found.flags
    assert [quality.model for quality in qualities] == [
        "hyperdraw",
        "deep ensemble of 5",
        "ridge regression",
        "gradient boosting",
    ]
    for quality in qualities:
        assert quality.error is not None
        assert 0.8 < quality.error < 3.5  # the noise is 1
    for flagged in flags:
        assert flagged.usual < 0.3
    text = describe_divisions(found)
    assert "Means over 1 random divisions" in text
    assert "| | usual rows | all numbers 0 | all numbers × 10 |" in text
    assert (folder / "study" / "README.md").read_text() == text


def test_finished_divisions_are_kept(folder: Path) -> None:
    file = folder / "study" / "division-0.json"
    file.write_text(file.read_text().replace("gradient boosting", "something kept"))
    assert study(folder, 1).qualities[0][-1].model == "something kept"


def test_an_interrupted_division_is_not_kept(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.studies.divisions.train", lambda *_: False)
    with pytest.raises(TrainingError, match="The same command continues"):
        study_divisions(folder / "things.csv", "y", None, tmp_path, 1)
    assert not list(tmp_path.iterdir())


def test_divisions_in_folds_have_sets_of_classes_and_files_of_their_own(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.recipes.own_table.LEAST_STEPS", 10)
    monkeypatch.setattr("training.recipes.own_table.EPOCHS", 1)
    found = study_divisions(folder / "things.csv", "kind", None, tmp_path, 1, folds=2)
    assert found.folds == 2
    ((ours, _, linear, _),) = found.qualities
    assert ours.covered is not None
    assert ours.width is not None
    assert 0.6 < ours.covered <= 1
    assert 1 <= ours.width <= 3
    assert linear.covered is None
    text = describe_divisions(found)
    assert "of the rows, calibrated in 2 folds" in text
    assert "| in the 90% set | its classes |" in text
    assert "| – | – |" in text
    assert (tmp_path / "division-0-in-2-folds.json").exists()
