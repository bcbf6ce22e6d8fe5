"""Files whose bytes count, in a clone by a git that converts line ends, as is usual on Windows."""

import shutil
import subprocess
from pathlib import Path

import pytest

from models.checkpoint import Checkpoint, load_checkpoint
from models.checkpoint_files import CheckpointError
from models.sequences.checkpoint import SequenceCheckpoint, is_sequence_checkpoint, load_sequence_checkpoint
from service.app import create_app
from service.settings import Settings
from tests import ROOT

pytestmark = pytest.mark.needs("git")

CHECKPOINTS = sorted(path.name for path in (ROOT / "checkpoints").iterdir())


def load(directory: Path) -> Checkpoint | SequenceCheckpoint:
    return load_sequence_checkpoint(directory) if is_sequence_checkpoint(directory) else load_checkpoint(directory)


def run_git(directory: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.org", "-c", "commit.gpgsign=false"]
    identity += ["-c", "core.compression=0"]  # which takes less time
    subprocess.run(["git", *identity, *arguments], cwd=directory, check=True, capture_output=True)


@pytest.fixture(scope="module")
def clones(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Path]:
    """Of what the project holds beside code: with and without its attributes."""
    directory = tmp_path_factory.mktemp("clones")
    cloned = {}
    for attributes in (True, False):
        origin = directory / f"origin-{attributes}"
        for name in ("checkpoints", "experiments", "docs", "service/static"):
            shutil.copytree(ROOT / name, origin / name)
        if attributes:
            shutil.copy(ROOT / ".gitattributes", origin)
        run_git(origin, "init")
        run_git(origin, "add", ".")
        run_git(origin, "commit", "-m", "all")
        cloned[attributes] = directory / f"clone-{attributes}"
        run_git(directory, "clone", "-c", "core.autocrlf=true", str(origin), str(cloned[attributes]))
    return cloned


def test_every_byte_is_kept(clones: dict[bool, Path]) -> None:
    paths = [path.relative_to(clones[True]) for path in clones[True].rglob("*") if path.is_file()]
    paths = [path for path in paths if path.parts[0] not in (".git", ".gitattributes")]
    assert len(paths) > 100
    assert [path for path in paths if (clones[True] / path).read_bytes() != (ROOT / path).read_bytes()] == []


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_every_checkpoint_loads_as_the_version_that_it_is(clones: dict[bool, Path], name: str) -> None:
    assert load(clones[True] / "checkpoints" / name).version == load(ROOT / "checkpoints" / name).version


@pytest.mark.parametrize(
    "name", [name for name in CHECKPOINTS if (ROOT / "checkpoints" / name / "calibration.json").exists()]
)
def test_converted_line_ends_are_named(clones: dict[bool, Path], name: str) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json: its line endings were converted to CRLF, as git does"):
        load(clones[False] / "checkpoints" / name)


def test_all_shipped_models_are_served_from_such_a_clone(clones: dict[bool, Path]) -> None:
    app = create_app(Settings(checkpoints=clones[True] / "checkpoints"))
    assert sorted(model.name for model in app.state.catalog) == CHECKPOINTS
    assert app.state.catalog.refused == {}
    app.state.engine.close()
