"""The report on a model of a table."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

import training.report.own_table as own_table
from models.checkpoint import load_checkpoint
from tests.training.data.test_table import make_frame
from training.__main__ import app
from training.data.table import load_table
from training.report.own_table import describe_table_report, make_table_report


def test_what_grows_with_a_table_is_bounded_and_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Simpler models have fewer rows, and importances are measured by fewer, but by about the same measure."""
    path, out = tmp_path / "things.csv", tmp_path / "out"
    make_frame(400).write_csv(path)
    result = CliRunner().invoke(app, ["table", str(path), "--target", "kind", "--out", str(out), "--steps", "30"])
    assert result.exit_code == 0, result.output
    table, checkpoint = load_table(path, "kind"), load_checkpoint(out)
    whole = make_table_report(out, table, checkpoint)
    for name, number in {"MOST_CHOOSING": 50, "MOST_COMPARED": 1000, "LEAST_MIXED": 20, "MOST_MIXED": 100}.items():
        monkeypatch.setattr(own_table, name, number)
    report = make_table_report(out, table, checkpoint)
    (features,) = table.dataset.input.prepared_shape
    rows = max(50, 1000 // (features * len(table.dataset.task.outputs)))
    assert [quality.model for quality in report.qualities[1:]] == [
        f"logistic regression, {rows} rows",
        f"gradient boosting, {rows} rows",
    ]
    assert report.qualities[0] == whole.qualities[0]
    assert (whole.importance_rows, report.importance_rows) == (whole.rows["test"], 100 // len(table.kinds))
    assert {i.column for i in report.importances} == {i.column for i in whole.importances}
    assert "rows" not in "".join(quality.model for quality in whole.qualities)
    assert "Columns by importance (nats" in describe_table_report(whole)
    assert f"Columns by importance, by {report.importance_rows} of them (nats" in describe_table_report(report)
