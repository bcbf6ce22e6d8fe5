import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import torch

from models.checkpoint import save_calibration
from models.inputs.pixels import encode_image
from models.predictions.stopping import StoppingRule
from service.app import create_app
from service.engine.engine import Engine
from service.settings import Settings
from tests.conftest import serve
from tests.engine import draw_images
from tests.growing import add_rules


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


@pytest.fixture
def grown(store: Path, engine: Engine) -> tuple[Path, StoppingRule, list[bytes]]:
    """A directory with a checkpoint that has a rule, the rule, and images that it settles in every round."""
    images = draw_images(engine.load(store / "digits"), 60)
    model, rule = add_rules(engine.load(store / "digits"), images)
    assert model.calibration is not None
    save_calibration(store / "digits", model.calibration, model.checkpoint.density)
    return store, rule, [encode_image(image) for image in images]


@pytest.fixture
def growing(grown: tuple[Path, StoppingRule, list[bytes]]) -> Iterator[httpx.Client]:
    with serve(create_app(Settings(checkpoints=grown[0]))) as address, httpx.Client(base_url=address) as client:
        yield client
