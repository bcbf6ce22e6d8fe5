"""The console commands, as they are started."""

import re
import runpy
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import httpx
import pytest
import typer
from hyperdraw.__main__ import app as client_app
from typer.testing import CliRunner

from service.__main__ import app as service_app
from tests.pictures import EXAMPLES
from training.__main__ import app as training_app


@contextmanager
def run_server(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`hyperdraw-serve` on a free port; yields the process and its address."""
    command = [sys.executable, "-m", "service", "--port", "0", *arguments]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            for line in process.stderr:
                if found := re.search(r"running on (http://\S+)", line):
                    yield process, found[1]
                    break
            else:
                pytest.fail("the server ended before it listened")
        finally:
            process.kill()


def test_serve_answers_and_stops_when_asked(checkpoints: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With settings from the environment and from flags."""
    monkeypatch.setenv("HYPERDRAW_CHECKPOINTS", str(checkpoints / "digits"))
    with run_server("--max-inputs", "7") as (process, address):
        assert httpx.get(f"{address}/readyz").status_code == 200
        said = httpx.get(f"{address}/v1/models").json()
        assert (said["default"], said["limits"]["max_inputs"]) == ("digits", 7)
        image = (EXAMPLES / "seven.png").read_bytes()
        answer = httpx.post(f"{address}/v1/models/digits/predict", files={"images": image}, timeout=30)
        assert answer.status_code == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) in (0, -signal.SIGTERM)


@pytest.mark.parametrize(
    ("app", "command", "distribution"),
    [
        (client_app, "hyperdraw", "hyperdraw"),
        (service_app, "hyperdraw-serve", "hyperdraw-server"),
        (training_app, "hyperdraw-train", "hyperdraw-server"),
    ],
)
def test_versions_are_those_of_the_distributions(app: typer.Typer, command: str, distribution: str) -> None:
    shown = CliRunner().invoke(app, ["--version"])
    assert (shown.exit_code, shown.stdout) == (0, f"{command} {version(distribution)}\n")


@pytest.mark.parametrize(("module", "command"), [("service", "hyperdraw-serve"), ("training", "hyperdraw-train")])
def test_help(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], module: str, command: str) -> None:
    """As `python -m` shows it."""
    monkeypatch.delitem(sys.modules, f"{module}.__main__")
    monkeypatch.setattr(sys, "argv", [module, "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module(module, run_name="__main__")
    assert ended.value.code in (0, None)
    shown = capsys.readouterr().out
    assert command in shown
    assert "--" in shown
