"""Tables, from a file to a served model."""

import json
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import polars as pl
import pytest
import torch
from typer.testing import CliRunner

from models.checkpoint import load_checkpoint
from models.checkpoint_files import CheckpointError
from models.inputs.columns import CategoryColumn, DateColumn, NumberColumn
from models.inputs.table import TableSpec
from models.predictions.prediction import interpret
from models.tasks.classification import Classification
from models.tasks.regression import Regression
from service.app import create_app
from service.settings import Settings
from tests.conftest import serve
from training.__main__ import app
from training.data.dataset import Dataset, DatasetError
from training.data.datasets import load_training_data
from training.data.table import Table, load_table, load_table_again, split_rows
from training.data.table_file import read_table_file
from training.evaluation.evaluation import evaluate_split


def make_frame(rows: int = 200) -> pl.DataFrame:
    """A number y that depends on x, a category and a date; some values are missing, and some columns are of no use."""
    random = np.random.default_rng(0)
    x, kind = random.normal(size=rows), random.choice(["a", "b", "c"], rows)
    day = np.datetime64("2024-01-01") + random.integers(0, 700, rows).astype("timedelta64[D]")
    y = 3 * x + np.where(kind == "b", 4.0, 0.0) + random.normal(size=rows)
    columns = {
        "x": [None if number % 9 == 0 else float(value) for number, value in enumerate(x)],
        "kind": kind,
        "day": day.astype(str),
        "code": random.choice([3, 5], rows),
        "id": [f"row {number}" for number in range(rows)],
        "same": ["z"] * rows,
        "y": y,
    }
    return pl.DataFrame(columns)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "things.csv"
    make_frame().write_csv(path)
    return path


def test_columns_are_what_their_values_are(path: Path) -> None:
    table = load_table(path, "y", categories=["code"])
    assert [type(column) for column in table.spec.columns] == [NumberColumn, CategoryColumn, DateColumn, CategoryColumn]
    x, kind, day, code = table.spec.columns
    assert isinstance(x, NumberColumn)
    assert isinstance(kind, CategoryColumn)
    assert isinstance(day, DateColumn)
    assert isinstance(code, CategoryColumn)
    assert (x.missing, kind.missing) == (True, False)
    assert (kind.categories, kind.others, code.categories, day.times) == (("a", "b", "c"), False, ("3", "5"), False)
    assert table.left_out == {
        "id": "it has 120 different texts in 120 rows",
        "same": "it has the same value everywhere",
    }
    train = table.dataset.train.inputs[:, 0]
    assert x.mean == pytest.approx(train[~train.isnan()].mean().item())
    task = table.dataset.task
    assert isinstance(task, Regression)
    assert (task.names, task.noise_std) == (("y",), None)


def test_rows_are_what_the_service_reads(path: Path) -> None:
    """Training and serving give the same numbers for the same row, and each row is in one split."""
    table, frame = load_table(path, "y"), make_frame()
    splits = [table.dataset.train, table.dataset.validation, table.dataset.calibration, table.dataset.test]
    inputs, labels = (torch.cat([getattr(split, part) for split in splits]) for part in ("inputs", "labels"))
    assert [len(split) for split in splits] == [120, 20, 30, 30]
    order = [int((frame["y"] - label).abs().arg_min() or 0) for label in labels[:, 0].tolist()]
    assert sorted(order) == list(range(200))
    rows = frame.select(table.spec.column_names).rows()
    torch.testing.assert_close(inputs, table.spec.read_rows([rows[number] for number in order]), equal_nan=True)
    again = load_table_again(table.name, path, table.spec, table.dataset.task)
    assert torch.equal(again.test.labels, table.dataset.test.labels)


@pytest.mark.parametrize(
    "write",
    [
        lambda frame, path: frame.write_csv(path.with_suffix(".tsv"), separator="\t"),
        lambda frame, path: frame.write_csv(path.with_suffix(".csv"), separator=";"),
        lambda frame, path: path.with_suffix(".csv").write_bytes(frame.write_csv().encode("utf-16")),
        lambda frame, path: path.with_suffix(".csv").write_bytes(b"\xef\xbb\xbf" + frame.write_csv().encode()),
        lambda frame, path: path.with_suffix(".csv").write_bytes(frame.write_csv().replace("\n", "\r").encode()),
        lambda frame, path: frame.with_columns(pl.col("day").str.to_date()).write_parquet(path.with_suffix(".parquet")),
    ],
    ids=["TSV", "semicolons", "UTF-16", "a byte order mark", "old line ends", "Parquet"],
)
def test_files_of_other_kinds_hold_the_same_table(tmp_path: Path, write: Callable[..., None]) -> None:
    write(make_frame(), tmp_path / "things")
    (path,) = tmp_path.iterdir()
    make_frame().write_csv(tmp_path / "plain.csv")
    found, expected = read_table_file(path).frame, read_table_file(tmp_path / "plain.csv").frame
    assert found.drop("x", "y").equals(expected.drop("x", "y"))
    for name in ("x", "y"):
        assert found[name].cast(pl.Float64).to_list() == expected[name].cast(pl.Float64).to_list()


def test_commas_before_fractions_where_they_divide_no_columns(tmp_path: Path) -> None:
    rows = "".join(f"{number},5;{'ab'[number % 2]}\n" for number in range(100))
    (tmp_path / "t.csv").write_text("wert;art\n" + rows, encoding="cp1252")
    column, *_ = load_table(tmp_path / "t.csv", "art").spec.columns
    assert isinstance(column, NumberColumn)
    assert column.least % 1 == 0.5


def test_unnamed_columns_and_equal_numbers_are_left_out(tmp_path: Path) -> None:
    """An index that a data frame wrote has no name."""
    frame = make_frame().with_columns(
        pl.when(pl.int_range(200) < 9).then(pl.lit("1")).otherwise(pl.lit("1.0")).alias("same")
    )
    frame.with_row_index("").write_csv(tmp_path / "t.csv")
    left_out = load_table(tmp_path / "t.csv", "y").left_out
    assert left_out[""] == "it has no name"
    assert left_out["same"] == "it has the same value everywhere"


def test_most_rows_of_a_large_table_train() -> None:
    labels = torch.arange(400_000) % 4 // 3  # a quarter of the rows is of the second class
    for classes, answers in ((None, labels.double()), (("a", "b"), labels)):
        splits = split_rows(Path("t.csv"), "y", answers, classes)
        sizes = {split: len(rows) for split, rows in splits.items()}
        assert sizes == {"train": 370_000, "validation": 10_000, "calibration": 10_000, "test": 10_000}
        assert len(torch.cat(list(splits.values())).unique()) == 400_000
    assert labels[splits["test"]].sum() == 2_500


def test_rare_categories_are_one(tmp_path: Path) -> None:
    frame = make_frame().with_columns(
        pl.when(pl.int_range(200) < 3).then(pl.lit("rare")).otherwise("kind").alias("kind")
    )
    frame.write_csv(tmp_path / "t.csv")
    column = load_table(tmp_path / "t.csv", "y").spec.columns[1]
    assert isinstance(column, CategoryColumn)
    assert (column.categories, column.others) == (("a", "b", "c"), True)
    assert column.read("never seen", 0) == 3


@pytest.mark.parametrize(
    ("values", "classes"),
    [(["no", "yes"], ("no", "yes")), ([2, 10, 1], ("1", "2", "10")), ([True, False], ("false", "true"))],
)
def test_targets_of_few_values_are_classes(tmp_path: Path, values: list[object], classes: tuple[str, ...]) -> None:
    labels = [values[number % len(values)] for number in range(200)]
    make_frame().with_columns(pl.Series("y", labels)).write_csv(tmp_path / "t.csv")
    task = load_table(tmp_path / "t.csv", "y").dataset.task
    assert isinstance(task, Classification)
    assert task.classes == classes


def test_rows_without_the_target_are_left_out(tmp_path: Path) -> None:
    frame = make_frame().with_columns(pl.when(pl.int_range(200) < 7).then(None).otherwise("y").alias("y"))
    frame.write_csv(tmp_path / "t.csv")
    assert load_table(tmp_path / "t.csv", "y").unlabelled == 7


def with_value(name: str, value: object) -> pl.DataFrame:
    frame = make_frame().with_columns(pl.col(name).cast(pl.String))
    return frame.with_columns(pl.when(pl.int_range(200) == 4).then(pl.lit(value)).otherwise(name).alias(name))


BAD: dict[str, tuple[str, str, str]] = {
    "no such target": (make_frame().write_csv(), "z", "has no column 'z'. Its columns are x, kind, day, code"),
    "a constant target": (make_frame().write_csv(), "same", "the target 'same' has 1 different value(s)"),
    "too many classes": (make_frame().write_csv(), "id", "the target 'id' has 200 different values, too many"),
    "ten rows": (make_frame(10).write_csv(), "y", "things.csv has 10 rows, but at least"),
    "a rare class": (with_value("kind", "d").write_csv(), "kind", "kind = d has 1 rows, but at least"),
    "mixed values": (
        with_value("x", "n/k").write_csv(),
        "y",
        "column 'x' has 176 numbers and 1 other values ('n/k' in row 5). Mend the file, or name the column with",
    ),
    "a target of text and numbers": (
        with_value("y", "n/k").write_csv(),
        "y",
        "classes. They are not all numbers: column 'y' has 199 numbers and 1 other values ('n/k' in row 5)",
    ),
    "a target with units": (
        make_frame().with_columns(pl.format("{} m", "y").alias("y")).write_csv(),
        "y",
        "They are not numbers, such as",
    ),
    "a target that is too large": (
        make_frame().with_columns(pl.col("y") * 1e300).write_csv(),
        "y",
        "and a standard deviation of inf. The deviation must be from 1e-15 to 1e+15",
    ),
    "a target that hardly differs": (
        make_frame().with_columns(pl.col("y") + 1e12).write_csv(),
        "y",
        "at least 1e-06 of the mean. Change the unit, or subtract a constant",
    ),
    "numbers that are too large": (
        make_frame().with_columns(pl.col("x") * 1e300).write_csv(),
        "y",
        "column 'x' has numbers as large as 2",
    ),
    "two columns without a name": (",,b\n1,2,3\n", "b", "has two columns without a name"),
    "zero bytes": (make_frame().write_csv().replace(",", ",\0"), "y", "things.csv is not a text file"),
    "two columns of a name": ("a,b,a\n1,2,3\n", "b", "has two columns named 'a'"),
    "one column": ("a\n1\n", "a", "its first line must name at least two columns"),
    "nothing": ("", "a", "its first line must name at least two columns"),
    "rows of other lengths": ("a,b\n1,2,3\n", "b", "is not a table with the delimiter ','"),
    "nothing to predict from": (
        "a,b\n" + "1,2\n1,3\n" * 50,
        "b",
        "has no column to predict 'b' from (a: it has the same",
    ),
}


@pytest.mark.parametrize(("content", "target", "message"), BAD.values(), ids=BAD)
def test_bad_tables_are_explained_and_leave_nothing(tmp_path: Path, content: str, target: str, message: str) -> None:
    path = tmp_path / "things.csv"
    path.write_text(content)
    with pytest.raises(DatasetError) as caught:
        load_table(path, target)
    assert message in str(caught.value)
    result = CliRunner().invoke(app, ["table", str(path), "--target", target, "--out", str(tmp_path / "out")])
    assert result.exit_code == 1
    assert not (tmp_path / "out").exists()


def test_parquet_files_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "t.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(DatasetError, match="not a valid Parquet file"):
        load_table(tmp_path / "t.parquet", "y")
    pl.DataFrame({"a": [[1, 2], [3]], "y": [1, 2]}).write_parquet(tmp_path / "t.parquet")
    with pytest.raises(DatasetError, match="column 'a' holds List"):
        load_table(tmp_path / "t.parquet", "y")
    with pytest.raises(DatasetError, match="cannot be read: No such file"):
        load_table(tmp_path / "nowhere.csv", "y")


def test_another_file_is_not_the_one_that_was_trained_on(path: Path) -> None:
    table = load_table(path, "y")
    make_frame().with_columns(pl.col("y") + 1).write_csv(path)
    with pytest.raises(DatasetError, match=r"is not the file things\.csv that the model was trained on, or its rows"):
        load_again(table, path)
    with pytest.raises(DatasetError, match=r"is not a file\. The model was trained on the file things\.csv"):
        load_again(table, path.parent)


def load_again(table: Table, path: Path) -> None:
    load_table_again(table.name, path, table.spec, table.dataset.task)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A model of y in `things`, beside one of the category; the first one's report."""
    folder = tmp_path_factory.mktemp("tables")
    make_frame(400).write_csv(folder / "things.csv")
    for target, steps in (("kind", "30"), ("y", "300")):
        arguments = ["table", str(folder / "things.csv"), "--target", target, "--out", str(folder / "models" / target)]
        result = CliRunner().invoke(app, [*arguments, "--steps", steps, "--quiet"])
        assert result.exit_code == 0, result.output
    return folder, result.stdout


def test_the_report_compares_with_simpler_models(trained: tuple[Path, str]) -> None:
    folder, text = trained
    report = json.loads((folder / "models" / "y" / "report.json").read_text())
    ensemble, ridge, boosting = report["qualities"]
    assert ensemble["error"] < 2.2  # the noise is 1, and a ninth of x is missing
    assert ridge["error"] < 2.2
    assert boosting["model"] == "gradient boosting"
    assert 0.8 < ensemble["covered"] <= 1
    assert [importance["column"] for importance in report["importances"][:2]] == ["x", "kind"]
    x, kind = report["dependences"][:2]
    assert (x["column"], kind["column"]) == ("x", "kind")
    assert x["values"] == sorted(x["values"])
    means = [mean for (mean,) in x["means"]]
    assert abs(means[-1] - means[0]) > 1  # x has the largest effect
    assert set(kind["values"]) <= {"a", "b", "c", "d", "others"}
    assert [len(d["stds"]) for d in (x, kind)] == [len(d["values"]) for d in (x, kind)]
    assert "Mean answer if all test rows had this value (± over the networks):\n  x: " in text
    assert "ridge regression" in text
    assert "hyperdraw-serve --checkpoints" in text
    card = (folder / "models" / "y" / "README.md").read_text()
    assert "Input: x (number), kind (category), day (date), code (number)" in card
    assert "| nominal coverage | intervals that hold the number |" in card
    assert "image" not in card.replace("--json", "")
    (command,) = (line for line in card.splitlines() if "--json" in line)
    row = json.loads(shlex.split(command)[2])["inputs"][0]
    assert row == {"x": pytest.approx(0, abs=0.3), "kind": "a", "day": row["day"], "code": pytest.approx(4, abs=0.3)}
    assert load_checkpoint(folder / "models" / "y").config.input.read_rows([row]).isfinite().all()


def test_a_table_is_evaluated_again(trained: tuple[Path, str]) -> None:
    folder, _ = trained
    directory = folder / "models" / "kind"
    before = (directory / "metrics.json").read_bytes()
    result = CliRunner().invoke(app, ["evaluate", str(directory), "--data", str(folder / "things.csv")])
    assert result.exit_code == 0, result.output
    assert (directory / "metrics.json").read_bytes() == before


def test_the_service_takes_rows_by_name(trained: tuple[Path, str]) -> None:
    folder, _ = trained
    checkpoint = load_checkpoint(folder / "models" / "y")
    spec = checkpoint.config.input
    assert isinstance(spec, TableSpec)
    row = {"x": 1.0, "kind": "b", "day": "2024-05-01", "code": 3}
    with (
        serve(create_app(Settings(checkpoints=folder / "models"))) as address,
        httpx.Client(base_url=address, timeout=60) as client,
    ):
        rows = [row, {**row, "x": None}, list(row.values())]
        path, parameters = "/v1/models/y/predict", {"seed": 7, "coverage": 0.9}
        answer = client.post(path, json={"inputs": rows}, params=parameters)
        assert answer.status_code == 200, answer.text
        whole, lacking, ordered = (prediction["outputs"]["y"] for prediction in answer.json()["predictions"])
        assert whole["mean"] == pytest.approx(ordered["mean"])
        assert whole["mean"] == pytest.approx(7, abs=2)  # 3 + 4
        assert whole["interval"]["lower"] < whole["mean"] < whole["interval"]["upper"]
        assert lacking["noise_variance"] > whole["noise_variance"]  # what is not known is noise
        cells = [str(value) for value in row.values()]
        tensor = {"name": "cells", "shape": [1, 4], "datatype": "BYTES", "data": cells}
        request = {"inputs": [tensor], "parameters": parameters, "outputs": [{"name": "mean"}]}
        inferred = client.post("/v2/models/y/infer", json=request)
        assert inferred.json()["outputs"][0]["data"] == pytest.approx([whole["mean"]], rel=1e-5)
        wrong = client.post(path, json={"inputs": [row, {**row, "kind": "q"}]}).json()["error"]
        assert wrong["message"] == "kind in row 1 is 'q'."
        assert wrong["hint"] == "It must be one of a, b, c."
        described = client.get("/v1/models/kind").json()
        assert described["input"]["kind"] == "table"
        assert described["input"]["columns"][0]["name"] == "x"


def test_rows_far_from_the_table_are_flagged(trained: tuple[Path, str]) -> None:
    """Rows of zeros have a usual x, but a day in 1970."""
    folder, _ = trained
    for name in ("kind", "y"):
        checkpoint = load_checkpoint(folder / "models" / name)
        dataset = load_training_data(checkpoint.config, folder / "things.csv")
        assert isinstance(dataset, Dataset)
        assert checkpoint.calibration is not None
        flagged = []
        for rows in (dataset.test.inputs, 0 * dataset.test.inputs, 10 * dataset.test.inputs):
            prediction = interpret(checkpoint.config.task, evaluate_split(checkpoint, rows))
            flag = checkpoint.calibration.judge(prediction, 0.05)["out_of_distribution"]
            assert flag.score_name in {"feature_distance", "combined_surprise"}
            flagged.append(flag.flagged.double().mean().item())
        assert flagged[0] < 0.2
        assert flagged[1:] == [1, 1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda path: path.unlink(), "No such file"),
        (
            lambda path: path.write_bytes(path.read_bytes()[:-1] + b"x"),
            "its SHA-256 is not the one in calibration.json",
        ),
        (lambda path: path.write_bytes(bytes(10**6)), "larger than"),
    ],
    ids=["missing", "changed", "too large"],
)
def test_a_damaged_density_is_refused(
    trained: tuple[Path, str], tmp_path: Path, change: Callable[[Path], object], message: str
) -> None:
    directory = tmp_path / "y"
    shutil.copytree(trained[0] / "models" / "y", directory)
    change(directory / "density.safetensors")
    with pytest.raises(CheckpointError, match=message) as caught:
        load_checkpoint(directory)
    assert caught.value.path == directory / "density.safetensors"
