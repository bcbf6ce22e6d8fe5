"""Predictions of folders, tables and many files into a file."""

import csv
import dataclasses
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import hyperdraw
import numpy as np
import pandas
import pytest
from hyperdraw.__main__ import app as command_line
from hyperdraw.tables import make_row
from PIL import Image
from typer.testing import CliRunner, Result

from tests import ROOT
from tests.client.gateway import PICTURE, refuse, stand_before
from tests.client.test_many_inputs import ALL, PICTURES, TRANSPARENT
from tests.pictures import EXAMPLES


def invoke(address: str, *arguments: str | Path) -> Result:
    return CliRunner().invoke(command_line, ["predict", *map(str, arguments)], env={"HYPERDRAW_URL": address})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """20 pictures, some in a subfolder, and what is no picture."""
    folder = tmp_path / "pictures"
    (folder / "more").mkdir(parents=True)
    (folder / ".hidden").mkdir()
    for index, pixels in enumerate(PICTURES):
        Image.fromarray(pixels).save(folder / ("more" if index > 15 else "") / f"{index:02}.PNG")
    (folder / ".hidden" / "x.png").write_bytes(PICTURE)
    (folder / "notes.txt").write_text("notes")
    return folder


def read(path: Path) -> list[dict[str, Any]]:
    """The rows of a file, without the columns that they lack."""
    if path.suffix == ".csv":
        sets = {"prediction_set": lambda cell: json.loads(cell) if cell else None}
        frame = pandas.read_csv(path, converters=sets, dtype={"label": str})
    elif path.suffix == ".parquet":
        frame = pandas.read_parquet(path)
    else:
        frame = pandas.DataFrame([json.loads(line) for line in path.read_text().splitlines()])
    return [
        {name: value for name, value in row.items() if isinstance(value, list | np.ndarray) or pandas.notna(value)}
        for row in frame.to_dict("records")
    ]


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_a_folder_becomes_a_table(address: str, folder: Path, suffix: str) -> None:
    (folder / "more" / "17a.png").write_bytes(TRANSPARENT)
    out = folder / f"out{suffix}"
    result = invoke(address, folder, "--out", out, "--seed", "7", "--coverage", "0.8")
    assert result.exit_code == 1
    assert result.stderr == f"Error: 1 of 21 inputs have no answer; the column error in {out} says why.\n"
    assert result.stdout.startswith(f"Wrote {out}: 20 answers of digits at version ")
    assert {path.name for path in folder.iterdir()} == {
        *(f"{index:02}.PNG" for index in range(16)),
        *("more", ".hidden", "notes.txt", out.name),
    }
    rows = read(out)
    assert [Path(row["input"]).name for row in rows] == [
        *(f"{index:02}.PNG" for index in range(18)),
        *("17a.png", "18.PNG", "19.PNG"),
    ]
    refused = rows.pop(18)
    assert set(refused) == {"input", "error", "model", "version", "seed"}
    assert "(17a.png) has transparent pixels" in refused["error"]
    with hyperdraw.Client(address) as client:
        answer = client.predict(PICTURES, seed=7, coverage=0.8)
    assert isinstance(answer, hyperdraw.Classification)
    assert answer.prediction_sets is not None
    for i, row in enumerate(rows):
        assert "error" not in row
        assert (row["model"], row["version"], row["seed"]) == ("digits", answer.model.version, 7)
        assert str(row["label"]) == answer.labels[i]
        held = np.array(answer.classes)[answer.prediction_sets[i]]
        assert list(row["prediction_set"]) == held.tolist()
        shares = [row[f"probability.{label}"] for label in answer.classes]
        np.testing.assert_allclose(shares, answer.probabilities[i], rtol=1e-4, atol=1e-6)
        assert row["probability"] == max(shares)
        np.testing.assert_allclose(row["mutual_information"], answer.uncertainty.mutual_information[i], atol=1e-5)
        flag = answer.flags["out_of_distribution"]
        assert bool(row["out_of_distribution"]) == flag.flagged[i]
        np.testing.assert_allclose(row["out_of_distribution.score"], flag.scores[i], rtol=1e-3, atol=1e-5)


def test_without_a_file_a_folder_is_shown(address: str, folder: Path) -> None:
    result = invoke(address, folder, "--seed", "7")
    assert (result.exit_code, result.stdout.count("  →  ")) == (0, 20)
    shown = json.loads(invoke(address, folder, EXAMPLES / "seven.png", "--json").stdout)
    assert [Path(name).name for name in shown["inputs"]][-2:] == ["19.PNG", "seven.png"]


def test_a_table_of_numbers_becomes_a_table_of_answers(line_address: str, tmp_path: Path) -> None:
    given, out = tmp_path / "in.csv", tmp_path / "out.jsonl"
    given.write_text("\ufeffb;a;name\n-1;0.5;x\n\n3;2;y\n;2;z\n", encoding="utf-8")
    result = invoke(line_address, given, "--out", out, "--seed", "7", "--json")
    assert result.exit_code == 1
    summary = json.loads(result.stdout)
    assert (summary["answered"], summary["refused"], summary["seed"], summary["path"]) == (2, 1, 7, str(out))
    with hyperdraw.Client(line_address) as client:
        answer = client.predict([[0.5, -1.0], [2.0, 3.0]], seed=7)
    assert isinstance(answer, hyperdraw.Regression)
    *rows, wrong = read(out)
    assert [row["input"] for row in rows] == [f"{given}:2", f"{given}:4"]
    for name in ("mean", "standard_deviation", "noise_variance", "epistemic_variance"):
        np.testing.assert_allclose([row[f"y.{name}"] for row in rows], getattr(answer, name)[:, 0], rtol=1e-5)
    np.testing.assert_allclose([row["relative_deviation"] for row in rows], answer.relative_deviation, rtol=1e-5)
    assert (wrong["input"], wrong["error"]) == (f"{given}:5", "b is '', not a number")

    assert invoke(line_address, "--numbers", "0.5,-1", "--numbers", "2,3", "--out", out, "--seed", "7").exit_code == 0
    assert [row["y.mean"] for row in read(out)] == [row["y.mean"] for row in rows]

    ends = {"interval_lower": answer.mean[0] - 1, "interval_upper": answer.mean[0] + 1}
    row = make_row("a", dataclasses.replace(answer[0], **ends, coverage=0.9))
    assert row["y.interval_lower"] < row["y.mean"] < row["y.interval_upper"]
    assert row["coverage"] == 0.9


def test_the_rows_of_a_table_may_hold_text_and_lack_values(line_address: str, tmp_path: Path) -> None:
    given, out = tmp_path / "people.csv", tmp_path / "out.csv"
    given.write_text("sex,since,age,town\nf,2020-05-01,59,Bonn\nm,2021-01-01,,Ulm\nd,2021-01-01,5,Ulm\n")
    assert invoke(line_address, given, "--model", "people", "--out", out, "--seed", "7").exit_code == 1
    with hyperdraw.Client(line_address) as client:
        answer = client.predict([[59, "f", "2020-05-01"], [None, "m", "2021-01-01"]], model="people", seed=7)
    assert isinstance(answer, hyperdraw.Classification)
    *rows, wrong = read(out)
    assert [row["label"] for row in rows] == answer.labels.tolist()
    np.testing.assert_allclose([row["probability.Rome"] for row in rows], answer.probabilities[:, 1], rtol=1e-5)
    assert wrong["error"] == "sex in row 2 is 'd'. It must be one of f, m."


def test_an_interrupted_run_goes_on(address: str, client: httpx.Client, folder: Path, tmp_path: Path) -> None:
    out, part = tmp_path / "out.csv", tmp_path / "out.csv.part"
    command = [sys.executable, "-m", "hyperdraw", "predict", str(folder), "--out", str(out)]
    with (
        stand_before(client, *[ALL] * 4, *[None] * 9) as gateway,
        subprocess.Popen([*command, "--url", gateway.address], stderr=subprocess.PIPE, text=True) as process,
    ):
        deadline = time.monotonic() + 30
        while not (part.exists() and part.read_bytes().count(b"\n") > 4) and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, shown = process.communicate(timeout=20)
    assert process.returncode == 130
    first, *kept = part.read_text().splitlines()
    assert shown == f"{len(kept)} of 20 answers are kept in {part}. The same command goes on from there.\n"
    assert len(kept) in (4, 8)
    assert not out.exists()

    with part.open("a") as file:
        file.write('{"input": "half a li')
    with stand_before(client) as gateway:
        assert invoke(gateway.address, folder, "--out", out).exit_code == 0
    assert sum(head.startswith("POST") for head in gateway.requests) == -(-(20 - len(kept)) // 8)
    assert not part.exists()
    rows = read(out)
    assert len(rows) == 20
    assert {row["seed"] for row in rows} == {json.loads(first)["seed"]}
    with hyperdraw.Client(address) as asking:
        answer = asking.predict(PICTURES, seed=json.loads(first)["seed"])
    assert isinstance(answer, hyperdraw.Classification)
    np.testing.assert_allclose([row["probability"] for row in rows], answer.probabilities.max(-1), rtol=1e-4)


def test_a_failure_keeps_what_was_answered(client: httpx.Client, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    with stand_before(client, *[ALL] * 3, *[refuse(401)] * 9) as gateway:
        result = invoke(gateway.address, folder, "--out", out, "--seed", "7")
    assert result.exit_code == 1
    assert result.stderr.endswith("Error: It was so. Do otherwise.\n")
    assert not out.exists()
    with stand_before(client) as gateway:
        assert invoke(gateway.address, folder, "--out", out, "--seed", "7").exit_code == 0
    assert len(read(out)) == 20
    assert set(tmp_path.iterdir()) == {folder, out}


def test_refused_inputs_are_asked_again(address: str, client: httpx.Client, tmp_path: Path) -> None:
    pictures = [tmp_path / f"{index}.png" for index in range(3)]
    for path, content in zip(pictures, (PICTURE, TRANSPARENT, PICTURE), strict=True):
        path.write_bytes(content)
    out, part = tmp_path / "out.jsonl", tmp_path / "out.jsonl.part"
    assert invoke(address, *pictures, "--out", out, "--seed", "7").exit_code == 1
    version = client.get("/v1/models/digits").json()["version"]
    run = {"model": "digits", "version": version, "ensemble_size": None, "false_alarm_rate": None, "coverage": None}
    part.write_text(json.dumps({**run, "seed": 7}) + "\n" + out.read_text())
    pictures[1].write_bytes(PICTURE)
    with stand_before(client) as gateway:
        assert invoke(gateway.address, *pictures, pictures[0], "--out", out).exit_code == 0
    assert sum(head.startswith("POST") for head in gateway.requests) == 1
    labels = [row["label"] for row in read(out)]
    assert len(labels) == 4
    assert len(set(labels)) == 1


@pytest.mark.parametrize(
    ("content", "arguments", "message"),
    [
        (
            '{"model": "digits", "version": "0", "ensemble_size": null, "false_alarm_rate": null, "coverage": null}\n',
            [],
            "a run with another version. Remove it to begin anew",
        ),
        (None, ["--seed", "8"], "a run with another seed. Remove it"),
        (None, ["--ensemble-size", "5"], "a run with another ensemble_size. Remove it"),
        ("notes", [], "not the beginning of such a run"),
        ("[]\n", [], "not the beginning of such a run"),
        ("{}\n", [], "not the beginning of such a run"),
    ],
)
def test_another_run_is_not_mixed_in(
    client: httpx.Client, address: str, tmp_path: Path, content: str | None, arguments: list[str], message: str
) -> None:
    version = client.get("/v1/models/digits").json()["version"]
    run = {"model": "digits", "version": version, "ensemble_size": None, "false_alarm_rate": None, "coverage": None}
    part = tmp_path / "out.csv.part"
    part.write_text(json.dumps({**run, "seed": 7}) + "\n" if content is None else content)
    before = part.read_text()
    result = invoke(address, EXAMPLES / "seven.png", "--out", tmp_path / "out.csv", *arguments)
    assert (result.exit_code, result.stdout) == (1, "")
    assert message in result.stderr
    assert result.stderr.startswith("Error: ")
    assert part.read_text() == before
    assert list(tmp_path.iterdir()) == [part]


def test_a_file_may_say_only_what_was_wrong(address: str, tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    for _ in range(2):
        assert invoke(address, tmp_path / "nowhere.png", "--out", out, "--seed", "7").exit_code == 1
        (row,) = csv.DictReader(out.read_text().splitlines())
        assert "No such file or directory" in row["error"]
        assert row["seed"] == "7"
        assert list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([EXAMPLES, "--out", "out.xlsx"], 2, "out.xlsx must end with .csv, .jsonl or .parquet"),
        ([EXAMPLES, "--out", "nowhere/out.csv"], 1, "No such file or directory: 'nowhere/out.csv.part'"),
        ([EXAMPLES, "--out", "out.csv", "--model", "other"], 1, "no model 'other'"),
        ([EXAMPLES, "--out", "out.csv", "--ensemble-size", "5000"], 1, "ensemble_size is 5000"),
        (["empty"], 1, "It has no pictures, that is, no files such as *.png or *.jpg: 'empty'"),
        (["nowhere.csv"], 1, "No such file or directory: 'nowhere.csv'"),
        (["header.csv"], 2, "header.csv has no rows; its first line must have the names of the columns"),
        (["twice.csv"], 2, "twice.csv has several columns named 'a'"),
        (["ragged.csv"], 2, "line 3 of ragged.csv does not have 2 cells"),
        (["latin.csv"], 2, "latin.csv is not text in UTF-8"),
        (["quote.csv"], 2, "quote.csv is not a table: unexpected end of data"),
    ],
)
def test_mistakes_are_explained_and_leave_nothing(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[Any], code: int, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    Path("empty").mkdir()
    files = {"header": b"a,b\n", "twice": b"a,a\n1,2\n", "ragged": b"a,b\n1,2\n1,2,3\n", "latin": b"a\n\xe9\n"}
    for name, content in {**files, "quote": b'a\n"1\n'}.items():
        Path(f"{name}.csv").write_bytes(content)
    before = set(tmp_path.iterdir())
    result = invoke(address, *arguments)
    assert (result.exit_code, result.stdout) == (code, "")
    assert message in result.stderr
    assert set(tmp_path.iterdir()) == before


def test_parquet_without_pyarrow_is_explained(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setenv("COLUMNS", "200")
    result = invoke(address, EXAMPLES, "--out", "out.parquet")
    assert result.exit_code == 2
    assert "out.parquet needs pyarrow: pip install pyarrow" in result.stderr
    assert not (ROOT / "out.parquet.part").exists()


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_names_need_not_be_text(address: str, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / "caf\udce9.png"
    path.write_bytes(PICTURE)
    out = tmp_path / f"out{suffix}"
    assert invoke(address, path, "--out", out).exit_code == 0
    assert read(out)[0]["input"].startswith(f"{tmp_path}/caf")
