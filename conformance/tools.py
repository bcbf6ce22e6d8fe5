"""Others' tools: each runs in an environment of its own, of what its file of requirements pins."""

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

HERE = Path(__file__).parent
ROOT = HERE.parent
ENVIRONMENTS = HERE / "environments"
PROGRAMS = HERE / "programs"
REQUIREMENTS = HERE / "requirements"
RESULTS = HERE / "results"

Command = Sequence[str | Path]

MODEL = "mnist-hyperdraw"
IMAGE = ROOT / "checkpoints" / MODEL / "examples" / "seven.png"

MOST_SECONDS = 300.0
"""That a tool may take."""
LAST_LINES, MOST_COLUMNS = 40, 300
"""Of a tool's output, which say why it failed."""


class ToolMissingError(Exception):
    """A tool that is not here, and cannot be installed."""


class CheckFailedError(Exception):
    """A tool that could not use the service, with what it had to say."""


def make_environment(name: str) -> Path:
    """The folder of a tool's programs, in a virtual environment that is made when its requirements are new.

    Raises:
        ToolMissingError: if they cannot be installed.
    """
    requirements, environment = REQUIREMENTS / f"{name}.txt", ENVIRONMENTS / name
    programs = environment / "bin"
    make: Command = [sys.executable, "-m", "venv", "--clear", environment]
    pip: Command = [programs / "python", "-m", "pip", "--quiet", "--disable-pip-version-check"]
    install_once(environment / "installed", requirements, make, [*pip, "install", "--requirement", requirements])
    return programs


def install_once(mark: Path, wanted: Path, *commands: Command, folder: Path = ROOT) -> None:
    """Runs commands that install what a file lists, unless the mark says that they have run for just that file.

    Raises:
        ToolMissingError: if one fails.
    """
    if mark.exists() and mark.read_bytes() == wanted.read_bytes():
        return
    try:
        for command in commands:
            run(command, folder)
    except CheckFailedError as error:
        raise ToolMissingError(str(error)) from error
    shutil.copy(wanted, mark)


def find_program(name: str, package: str) -> Path:
    """A program of this machine.

    Raises:
        ToolMissingError: if there is none.
    """
    if (found := shutil.which(name)) is None:
        raise ToolMissingError(f"{name} is not installed; on Debian it is in {package}")
    return Path(found)


def fetch(address: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """The service's answer to a GET request, or to a POST request with a body of JSON."""
    request = Request(address + path, data=json.dumps(body).encode() if body else None)  # noqa: S310  # this service
    with urlopen(request, timeout=MOST_SECONDS) as response:  # noqa: S310
        answer: dict[str, Any] = json.load(response)
    return answer


def run(command: Command, folder: Path = ROOT) -> str:
    """Runs a tool in a folder, and returns what it prints.

    Raises:
        CheckFailedError: if it fails or takes too long, with the end of its output.
    """
    words = list(map(str, command))
    try:
        done = subprocess.run(  # noqa: S603  # the words are this program's own
            words, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=MOST_SECONDS
        )
    except subprocess.TimeoutExpired as error:
        raise CheckFailedError(f"{' '.join(words)} took more than {MOST_SECONDS:g} s") from error
    if done.returncode:
        lines = [line[:MOST_COLUMNS] for line in (done.stdout + done.stderr).splitlines()[-LAST_LINES:]]
        raise CheckFailedError("\n".join([f"{' '.join(words)} failed with status {done.returncode}:", *lines]))
    return done.stdout
