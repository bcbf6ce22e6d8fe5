import gc
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
import torch
from fastapi import FastAPI
from filelock import FileLock
from httpx._config import DEFAULT_TIMEOUT_CONFIG
from hypothesis import HealthCheck, settings

import training.evaluation.classification
import training.evaluation.regression
import training.recipes.own_images
import training.report.card_flags
import training.runs.checkpoints
import training.studies.comparison
from models.checkpoint import Checkpoint, load_checkpoint
from models.model import Model
from models.samplers.deutsch import DeutschConfig
from models.samplers.hypergan import HyperGANConfig
from models.targets.layers import Activation, Convolution, Flatten, Linear, MaxPooling
from models.targets.target import TargetNetwork, Weights
from service.app import create_app
from service.operation.server import Server
from service.settings import Settings
from tests.programs import check_programs, pytest_addoption, pytest_terminal_summary
from tests.waiting import PATIENCE, wait_until
from training.evaluation.evaluation import PROMISE_SEEDS
from training.recipes.recipe import Recipe
from training.recipes.toys import digits_hypergan
from training.runs.session import Session, train

__all__ = ["pytest_addoption", "pytest_terminal_summary"]  # hooks

gc.disable()  # until all modules are imported, whose objects stay
torch.set_num_threads(1)  # the networks of the tests are too small for more

os.environ["HYPERDRAW_PRECISION"] = "float32"  # services answer alike on all machines, unless a test is about precision

settings.register_profile("tests", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tests")

for limit in ("connect", "read", "write", "pool"):  # five seconds each, which a busy machine may take
    setattr(DEFAULT_TIMEOUT_CONFIG, limit, PATIENCE)


# Scores and temperatures are chosen, and flags measured, by the networks of fewer seeds, on fewer inputs that are made
# up, fewer of which are trained against, and intervals come from fewer resamples, which takes less time.
training.runs.checkpoints.VALIDATION_SEEDS = training.runs.checkpoints.VALIDATION_SEEDS[:5]
training.runs.checkpoints.FOREIGN_INPUTS = 200
training.studies.comparison.RESAMPLES = 100
vars(training.recipes.own_images).update(OUTLIERS=300, MOST_OUTLIERS_ON_FEATURES=300)
for module in (training.evaluation.classification, training.evaluation.regression, training.report.card_flags):
    vars(module).update(PROMISE_SEEDS=PROMISE_SEEDS[:10])

SMALL_TARGET = TargetNetwork(
    (1, 12, 12), (Convolution(4, 3), Activation(), MaxPooling(), Convolution(6, 2), Activation(), Flatten(), Linear(5))
)
SMALL_CONFIG = HyperGANConfig(latent_size=8, code_size=4, hidden_size=16)
SMALL_DEUTSCH = DeutschConfig(latent_size=8, code_size=4, extractor_hidden_size=16, generator_hidden_sizes=(12, 16, 16))


def pytest_collection_finish() -> None:
    """Spares the garbage collector what all modules hold, which stays."""
    gc.freeze()
    gc.enable()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skips what cannot be tested here. What is drawn without a seed, also in fixtures, is the same in each run."""
    check_programs(item)
    torch.manual_seed(0)


def draw_weights(
    target: TargetNetwork, generator: torch.Generator, size: int, dtype: torch.dtype = torch.float32
) -> Weights:
    """Networks of standard normal weights."""
    return {
        name: torch.randn(size, *shape, generator=generator, dtype=dtype)
        for name, shape in target.parameter_shapes.items()
    }


def make_session(
    out: Path, *, steps: int, resume: bool = False, recipe: Recipe | None = None, seed: int | None = None
) -> Session:
    return Session(
        recipe=recipe or replace(digits_hypergan(), codes_per_step=32, networks_per_step=4, largest_ensemble=20),
        out=out,
        data=out / "no-data",
        device=torch.device("cpu"),
        seed=seed,
        steps=steps,
        minutes=None,
        resume=resume,
    )


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with one checkpoint, `digits`, from the recipe's real training, at half its length.

    The first process of pytest-xdist trains it, the others copy it.
    """
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    with FileLock(shared / "digits.lock"):
        if not (shared / "digits").exists():
            recipe, trained = digits_hypergan(), tmp_path_factory.mktemp("trained") / "digits"
            assert train(make_session(trained, steps=recipe.steps // 2, recipe=recipe))
            trained.rename(shared / "digits")
    directory = tmp_path_factory.mktemp("checkpoints")
    shutil.copytree(shared / "digits", directory / "digits")
    return directory


@pytest.fixture(scope="session")
def checkpoint(checkpoints: Path) -> Checkpoint:
    return load_checkpoint(checkpoints / "digits")


@pytest.fixture(scope="session")
def model(checkpoint: Checkpoint) -> Model:
    return Model(checkpoint)


@contextmanager
def serve(app: FastAPI, port: int = 0) -> Iterator[str]:
    """Serves an app on a port of this machine, 0 for a free one, as `hyperdraw-serve` does; yields its address."""
    with run(Server(app, app.state.settings.model_copy(update={"port": port}))) as address:
        yield address


@contextmanager
def run(server: Server) -> Iterator[str]:
    """Runs a server in a thread; yields its address."""
    thread = threading.Thread(target=server.run)
    thread.start()
    wait_until(lambda: server.started or not thread.is_alive())
    assert server.started
    try:
        at = server.servers[0].sockets[0].getsockname()
        yield f"unix:{at}" if isinstance(at, str) else f"http://127.0.0.1:{at[1]}"
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="session")
def app(checkpoints: Path) -> FastAPI:
    return create_app(Settings(checkpoints=checkpoints, max_image_pixels=1_000_000, max_body_bytes=2**20, max_inputs=8))


@pytest.fixture(scope="session")
def client(app: FastAPI) -> Iterator[httpx.Client]:
    with serve(app) as address, httpx.Client(base_url=address) as client:
        yield client
