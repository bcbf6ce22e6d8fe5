import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from service.engine.engine import Engine


@pytest.fixture
def engine() -> Iterator[Engine]:
    engine = Engine(torch.device("cpu"))
    yield engine
    engine.close()


@pytest.fixture
def store(checkpoints: Path, tmp_path: Path) -> Path:
    """A directory with a copy of the checkpoint, to be changed."""
    shutil.copytree(checkpoints / "digits", tmp_path / "digits")
    return tmp_path
