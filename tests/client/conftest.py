"""Fixtures of the client's tests."""

import asyncio
import os
from collections.abc import Iterator
from typing import Any

import httpx
import hyperdraw
import pytest
from fastapi import FastAPI

from models.checkpoint import CheckpointConfig, Training, save_checkpoint
from models.checkpoint_files import digest_config
from models.inputs.vector import VectorSpec
from models.samplers.deep_ensemble import DeepEnsembleConfig
from models.sequences.calibration import PassageCalibration, SizeThresholds
from models.sequences.checkpoint import save_passage_calibration
from models.targets.layers import Activation, Linear
from models.targets.target import TargetNetwork
from models.tasks.regression import Regression
from service.app import create_app
from service.settings import Settings
from tests.checkpoints import save_table
from tests.client.gateway import Ask, Environment
from tests.conftest import serve
from tests.sequences import LSTM, save_writer

VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR", "SSLKEYLOGFILE")


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> Environment:
    """Sets variables; none is set before."""
    for name in list(os.environ):
        if name.upper() in VARIABLES:
            monkeypatch.delenv(name)

    def set_variables(**variables: str) -> None:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return set_variables


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hyperdraw.transfer._FIRST_PAUSE", 0.01)


@pytest.fixture(params=["Client", "AsyncClient"])
def ask(request: pytest.FixtureRequest) -> Ask:
    """Asks a service with a client of its own: `ask(address, method, *arguments, options={…}, **parameters)`."""

    def ask_waiting(address: str, method: str, *arguments: Any, options: Any = None, **parameters: Any) -> Any:
        with hyperdraw.Client(address, **(options or {})) as client:
            return getattr(client, method)(*arguments, **parameters)

    def ask_asynchronously(address: str, method: str, *arguments: Any, options: Any = None, **parameters: Any) -> Any:
        async def ask() -> Any:
            async with hyperdraw.AsyncClient(address, **(options or {})) as client:
                return await getattr(client, method)(*arguments, **parameters)

        return asyncio.run(ask())

    return ask_waiting if request.param == "Client" else ask_asynchronously


@pytest.fixture(scope="session")
def address(client: httpx.Client) -> str:
    return str(client.base_url)


@pytest.fixture(scope="module")
def line_address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A regression by three networks, and a classifier of rows of a table, not calibrated; the service's address."""
    directory = tmp_path_factory.mktemp("checkpoints")
    sampler = DeepEnsembleConfig(networks=3).build(TargetNetwork((2,), (Linear(4), Activation(), Linear(1)))).eval()
    config = CheckpointConfig(
        method=sampler.config,
        target=sampler.target,
        input=VectorSpec(names=("a", "b"), mean=(0.0, 0.0), std=(1.0, 1.0)),
        task=Regression(names=("y",), mean=(5.0,), std=(2.0,), noise_std=(0.5,)),
        training=Training("test", "none", "digits", 0, 0, 0),
    )
    save_checkpoint(directory / "line", config, sampler, "float32")
    save_table(directory / "people")
    with serve(create_app(Settings(checkpoints=directory, default_model="line"))) as address:
        yield address


@pytest.fixture(scope="session")
def text_app(tmp_path_factory: pytest.TempPathFactory) -> FastAPI:
    """Two random models of text: `hyper`, two networks with a threshold for foreign passages, and `lstm`, whose weights
    do not change. The default is a model of a table."""
    directory = tmp_path_factory.mktemp("checkpoints")
    save_table(directory / "people")
    save_writer(directory / "lstm", modes=1, size=LSTM)
    save_writer(directory / "hyper", modes=2)
    sizes = (SizeThresholds(2, "surprisal", (2.0, 0.0)),)
    digest = digest_config(directory / "hyper")
    save_passage_calibration(directory / "hyper", PassageCalibration(digest, 10, 50, (0.05, 0.2), sizes))
    return create_app(Settings(checkpoints=directory))


@pytest.fixture(scope="session")
def text_address(text_app: FastAPI) -> Iterator[str]:
    with serve(text_app) as address:
        yield address
