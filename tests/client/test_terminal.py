"""The client's command line as a process: its output and its input."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from hyperdraw.__main__ import app as command_line
from typer.testing import CliRunner

from tests import ROOT
from tests.client.gateway import PICTURE, respond, stand_before
from tests.pictures import EXAMPLES

SEVEN = str(EXAMPLES / "seven.png")


COMMANDS = (["predict", SEVEN], ["models", "--json"], ["predict", "--help"])


LONG = "a class with a name that is longer than any terminal is wide, " * 3


def run(address: str, *arguments: str, closed: bool = False, **options: Any) -> subprocess.CompletedProcess[Any]:
    """Runs the client, without any standard output if that is `closed`."""
    command = [sys.executable, "-m", "hyperdraw", *arguments]
    if closed:
        command = ["sh", "-c", '"$@" >&-', "sh", *command]
    environment = {**os.environ, "HYPERDRAW_URL": address, "PYTHONPATH": str(ROOT)}
    usual = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": environment}
    return subprocess.run(command, check=False, timeout=60, **{**usual, **options})


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_output_that_cannot_be_written_is_said(address: str, arguments: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        ended = run(address, *arguments, stdout=full)
    assert (ended.returncode, ended.stderr) == (1, "Error: The output cannot be written: No space left on device\n")


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_a_reader_who_has_enough_ends_it_silently(address: str, arguments: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as pipe:
        ended = run(address, *arguments, stdout=pipe)
    assert (ended.returncode, ended.stderr) == (1, "")


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_there_may_be_no_output_at_all(address: str, arguments: list[str]) -> None:
    ended = run(address, *arguments, closed=True)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_what_is_closed_is_not_written_into(address: str, tmp_path: Path) -> None:
    for out, code in ((str(tmp_path / "net"), 0), ("-", 2)):
        ended = run(address, "sample", "--out", out, closed=True)
        assert ended.returncode == code
        assert ("is closed" in ended.stderr) == bool(code)
        assert "Traceback" not in ended.stderr


def test_a_picture_that_is_too_large_for_the_service_is_said(address: str, tmp_path: Path) -> None:
    path = tmp_path / "large.png"
    with path.open("wb") as file:
        file.truncate(100 * 2**20)
    ended = run(address, "predict", str(path))
    assert ended.returncode == 1
    assert re.fullmatch(r"Error: .*too large.* 1048576 bytes\.\n", ended.stderr)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_is_no_error(client: httpx.Client, number: signal.Signals) -> None:
    command = [sys.executable, "-m", "hyperdraw", "models", "--url"]
    with (
        stand_before(client, None) as gateway,
        subprocess.Popen([*command, gateway.address], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process,
    ):
        deadline = time.monotonic() + 30
        while not gateway.requests and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(number)
        shown = process.communicate(timeout=20)
    assert (process.returncode, *shown) == (128 + number, b"", b"")


def test_tables_are_as_wide_as_they_must_be(client: httpx.Client) -> None:
    said = client.get("/v1/models").json()
    (model,) = said["models"]
    model |= {"name": "n" * 120, "task": {"kind": "regression", "names": [LONG]}}
    with stand_before(client, respond(200, body=json.dumps(said).encode())) as gateway:
        ended = run(gateway.address, "models")
    heading, row, default = ended.stdout.splitlines()
    assert heading.split() == ["model", "method", "networks", "input", "task", "version"]
    assert row.split()[0] == "n" * 120
    assert LONG in row
    assert row.split()[-1] == model["version"][:12]
    assert default == "The default is digits."
    assert "\x1b" not in ended.stdout


def test_names_of_files_do_not_break_lines(address: str, tmp_path: Path) -> None:
    path = tmp_path / ("long " * 40)
    path.write_bytes(PICTURE)
    assert run(address, "predict", str(path)).stdout.splitlines()[0].startswith(f"{path}  →  ")


@pytest.mark.parametrize("name", [os.fsdecode(b"caf\xe9\n.png"), '"quoted" ✓.png'])
def test_any_name_will_do(address: str, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(PICTURE)
    printed = "".join(letter if letter.isprintable() else "�" for letter in name)
    assert run(address, "predict", name, cwd=tmp_path, encoding="utf-8").stdout.startswith(f"{printed}  →  ")
    assert json.loads(run(address, "predict", name, "--json", cwd=tmp_path).stdout)["inputs"] == [name]
    (tmp_path / name).write_bytes(b"")
    ended = run(address, "predict", name, cwd=tmp_path)
    assert (ended.returncode, ended.stdout, ended.stderr.count("\n")) == (1, "", 1)
    assert "is empty" in ended.stderr


def test_a_picture_may_come_from_standard_input(address: str) -> None:
    with Path(SEVEN).open("rb") as file:
        ended = run(address, "predict", "-", "--json", "--seed", "7", stdin=file)
    expected = json.loads(run(address, "predict", SEVEN, "--json", "--seed", "7").stdout)
    found = json.loads(ended.stdout)
    assert found == expected | {"inputs": ["-"], "request_ids": found["request_ids"]}


def test_every_command_has_its_document(address: str, client: httpx.Client, tmp_path: Path) -> None:
    said = client.get("/v1/models").json()
    models = json.loads(run(address, "models", "--json").stdout)
    (model,) = models.pop("models")
    assert models.pop("limits") == said["limits"]
    assert models == {"default": "digits", "refused": {}}
    fields = ("name", "version", "method", "sampler", "input", "backbone", "task", "versions")
    assert model == {name: said["models"][0][name] for name in fields}
    identity = {name: model[name] for name in ("name", "version", "method")}
    assert json.loads(run(address, "reload", "digits", "--json").stdout) == {"model": identity, "changed": False}
    out = tmp_path / "net"
    expected = {"path": str(out), "model": "digits", "version": model["version"], "seed": 7, "members": [2, 3, 4]}
    arguments = ["sample", "--seed", "7", "--member", "2", "--count", "3", "--json", "--out"]
    assert json.loads(run(address, *arguments, str(out)).stdout) == expected | {"size": out.stat().st_size}
    ended = run(address, *arguments, "-", text=False)
    assert ended.stdout == out.read_bytes()
    assert json.loads(ended.stderr) == expected | {"path": None, "size": out.stat().st_size}


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["predict", str(ROOT / "docker")], 1, "No such file or directory"),
        (["predict", "/dev/zero"], 1, "larger than 1 MiB, too large for a picture: '/dev/zero'"),
        (["predict", "nowhere\n.png"], 1, "No such file or directory"),
        (["predict", SEVEN, "--timeout", "nan"], 2, "--timeout"),
        (["predict", SEVEN, "--timeout", "0"], 2, "--timeout"),
        (["models", "--timeout", "inf"], 0, ""),
        (["sample", "--out", str(EXAMPLES)], 1, f"Is a directory: '{EXAMPLES}'"),
        (["predict", "--numbers", "1,2"], 1, "digits takes pictures, not rows"),
    ],
)
def test_mistakes_are_explained(
    address: str, monkeypatch: pytest.MonkeyPatch, arguments: list[str], code: int, message: str
) -> None:
    monkeypatch.setattr("hyperdraw.inputs._LARGEST_FILE", 2**20)
    result = CliRunner().invoke(command_line, arguments, env={"HYPERDRAW_URL": address})
    assert result.exit_code == code
    assert message in result.stderr
    if code == 1:
        assert result.stderr.startswith("Error: ")
        assert result.stderr.count("\n") == 1
