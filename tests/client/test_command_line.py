"""The console commands, as processes."""

import re
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


def test_serve_answers_and_stops_when_asked(checkpoints: Path) -> None:
    with run_server("--checkpoints", str(checkpoints)) as (process, address):
        assert httpx.get(f"{address}/readyz").status_code == 200
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


@pytest.mark.parametrize("module", ["service", "training"])
def test_help(module: str) -> None:
    shown = subprocess.run([sys.executable, "-m", module, "--help"], capture_output=True, text=True, check=True).stdout
    assert f"hyperdraw-{'serve' if module == 'service' else 'train'}" in shown
    assert "--" in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--checkpoints", "nowhere"], "hyperdraw-serve: nowhere is not a directory"),
        (["--workers", "3"], "workers"),
    ],
)
def test_serve_explains_wrong_settings(arguments: list[str], message: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "service", *arguments], capture_output=True, text=True, check=False, timeout=60
    )
    assert ended.returncode not in (0, None)
    assert message in ended.stderr
    assert "Traceback" not in ended.stderr


def test_settings_come_from_the_environment(checkpoints: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYPERDRAW_CHECKPOINTS", str(checkpoints / "digits"))
    with run_server() as (_, address):
        assert httpx.get(f"{address}/v1/models").json()["default"] == "digits"
