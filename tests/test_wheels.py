"""The wheels that `make wheels` has built, each installed into an environment of its own."""

import json
import os
import re
import subprocess
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from sysconfig import get_path
from zipfile import ZipFile

import httpx
import pytest

from tests import ROOT
from tests.pictures import EXAMPLES

pytestmark = [pytest.mark.wheels, pytest.mark.timeout(900)]

ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "HYPERDRAW_"))}


@dataclass(frozen=True)
class Environment:
    """A virtual environment, and a folder to run its programs in."""

    path: Path
    folder: Path

    def run(self, program: str, *arguments: str, code: int = 0) -> str:
        """Runs a program of the environment; returns what it prints."""
        ended = subprocess.run(
            [self.path / "bin" / program, *arguments],
            cwd=self.folder,
            env=ENVIRONMENT,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert ended.returncode == code, ended.stdout + ended.stderr
        return ended.stderr if code else ended.stdout

    def install(self, *requirements: str) -> None:
        """Installs packages, with pip."""
        self.run("python", "-m", "pip", "install", "--quiet", *requirements)


def find_wheel(distribution: str) -> Path:
    found = list((ROOT / "dist").glob(f"{distribution}-*.whl"))
    assert len(found) == 1, "make wheels builds them"
    return found[0]


def make_environment(folder: Path) -> Environment:
    venv.create(folder / "venv", with_pip=True, symlinks=True)
    (folder / "project" / "models").mkdir(parents=True)
    (folder / "project" / "models" / "__init__.py").write_text("OWN = True\n")
    return Environment(folder / "venv", folder / "project")


@pytest.fixture(scope="module")
def client_environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """The client's wheel and what it depends on, nothing else."""
    environment = make_environment(tmp_path_factory.mktemp("client"))
    environment.install("--constraint", str(ROOT / "requirements.lock"), str(find_wheel("hyperdraw")))
    return environment


@pytest.fixture(scope="module")
def server_environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """The application's wheel; the packages that it depends on are those of the environment that the tests run in."""
    environment = make_environment(tmp_path_factory.mktemp("server"))
    environment.install("--no-deps", str(find_wheel("hyperdraw_server")))
    return environment


@pytest.mark.parametrize(
    ("distribution", "packages"),
    [("hyperdraw", {"hyperdraw"}), ("hyperdraw_server", {"models", "service", "training"})],
)
def test_wheels_hold_their_packages_alone(distribution: str, packages: set[str]) -> None:
    with ZipFile(find_wheel(distribution)) as wheel:
        names = wheel.namelist()
        (metadata,) = [name for name in names if name.endswith("METADATA")]
        (licence,) = [name for name in names if name.endswith("LICENSE")]
        assert wheel.read(licence) == (ROOT / "LICENSE").read_bytes()
        assert "Description-Content-Type: text/markdown" in wheel.read(metadata).decode()
    assert {name.split("/")[0] for name in names} == packages | {metadata.split("/")[0]}
    for package in packages:
        folder = ROOT / "client" / package if package == "hyperdraw" else ROOT / package
        sources = {str(path.relative_to(folder.parent)) for path in folder.rglob("*.py")}
        assert {name for name in names if name.endswith(".py") and name.startswith(f"{package}/")} == sources
    assert ("hyperdraw/py.typed" in names) == (distribution == "hyperdraw")
    for name in ("service/static/index.html", "service/open_inference/inference.binpb"):
        assert (name in names) == (distribution == "hyperdraw_server")


def test_the_client_works_alone(client_environment: Environment) -> None:
    """It needs no other package of ours, and leaves a project's own `models` alone."""
    code = """
import importlib.util, json, hyperdraw, hyperdraw.__main__, models
absent = [name for name in ("torch", "fastapi", "service", "training") if importlib.util.find_spec(name) is None]
print(json.dumps([models.OWN, hyperdraw.__file__, absent]))
"""
    own, file, absent = json.loads(client_environment.run("python", "-c", code))
    assert own
    assert Path(file).is_relative_to(client_environment.path)
    assert absent == ["torch", "fastapi", "service", "training"]
    assert client_environment.run("hyperdraw", "--version") == f"hyperdraw {version('hyperdraw')}\n"
    assert "predict" in client_environment.run("hyperdraw", "--help")
    client_environment.run("python", "-m", "pip", "check")


def test_the_service_answers_the_client(server_environment: Environment, client_environment: Environment) -> None:
    for command in ("serve", "train"):
        message = server_environment.run(f"hyperdraw-{command}", "--version", code=1)
        assert message.endswith(f"needs the extra `{command}` of hyperdraw-server: pip install '.[{command}]'\n")
    (site,) = (server_environment.path / "lib").glob("python*/site-packages")
    (site / "packages.pth").write_text(get_path("purelib"))
    server_environment.install(f"{find_wheel('hyperdraw_server')}[serve,train]")
    for command in ("serve", "train"):
        shown = server_environment.run(f"hyperdraw-{command}", "--version")
        assert shown == f"hyperdraw-{command} {version('hyperdraw-server')}\n"
    with serve(server_environment) as address:
        assert httpx.get(f"{address}/readyz").json()["status"] == "ready"
        arguments = ("--url", address, "--seed", "7", "--json")
        answer = json.loads(client_environment.run("hyperdraw", "predict", str(EXAMPLES / "seven.png"), *arguments))
    assert answer["labels"] == ["7"]


@contextmanager
def serve(environment: Environment) -> Iterator[str]:
    """The service with a shipped checkpoint; yields its address."""
    command = [str(environment.path / "bin" / "hyperdraw-serve"), "--port", "0"]
    arguments = ["--checkpoints", str(ROOT / "checkpoints" / "mnist-hyperdraw")]
    with subprocess.Popen(
        [*command, *arguments], cwd=environment.path, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        try:
            lines = []
            for line in process.stderr:
                lines.append(line)
                if found := re.search(r"running on (http://\S+)", line):
                    yield found[1]
                    break
            else:
                pytest.fail("".join(lines))
        finally:
            process.kill()
