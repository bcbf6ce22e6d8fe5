"""The study of near-foreign inputs."""

import json
from pathlib import Path

from typer.testing import CliRunner

from models.checkpoint import load_checkpoint
from training.__main__ import app
from training.data.datasets import load_dataset
from training.recipes.recipe import Part
from training.studies.near_foreign import add_part, list_recipes


def test_outliers_are_as_few_as_the_networks_of_a_step() -> None:
    for recipe in list_recipes().values():
        assert recipe.outliers is None
        varied = add_part(recipe, Part.OUTLIERS)
        assert varied.outliers is not None
        assert varied.outliers.group_size < varied.networks_per_step
        assert varied.options == " --with outliers"


def test_recipes_answer_the_classes_that_are_kept() -> None:
    recipe = list_recipes()["digits-8"]
    assert recipe.target.num_outputs == len(load_dataset("digits-8", Path()).task.outputs)


def test_the_study_goes_on_and_compares(tmp_path: Path) -> None:
    arguments = ["near-foreign", "--out", str(tmp_path), "--with", "outliers", "--steps", "3", "--seed", "0", "--json"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    methods = ["near-foreign digits-8 --steps 3", "near-foreign digits-8 --with outliers --steps 3"]
    assert [row["method"] for row in found["rows"]] == methods
    assert {"digits-3-and-7 AUROC", "digits-3-and-7 flag missed"} <= found["rows"][0]["figures"].keys()
    assert methods[1] in (tmp_path / "digits-8" / "README.md").read_text()
    first = tmp_path / "digits-8" / "plain" / "0"
    version = load_checkpoint(first).version
    again = CliRunner().invoke(app, arguments)
    assert json.loads(again.stdout) == found
    assert load_checkpoint(first).version == version
    other = CliRunner().invoke(app, ["near-foreign", "--out", str(tmp_path), "--steps", "4", "--seed", "0"])
    assert other.exit_code == 1
    assert "holds another run" in " ".join(other.output.split())
