"""The comparison of models on random divisions of a table."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.training.data.test_table import make_frame
from training.__main__ import app
from training.studies.divisions import Divisions, describe_divisions, study_divisions


def study(folder: Path, divisions: int) -> Divisions:
    return study_divisions(folder / "things.csv", "y", None, folder / "study", divisions)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("divisions")
    make_frame().write_csv(folder / "things.csv")
    arguments = ["divisions", str(folder / "things.csv"), "--target", "y", "--out", str(folder / "study")]
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
