"""Training by several processes under torchrun, here on CPUs."""

import os
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from models.checkpoint import load_checkpoint
from tests import ROOT
from tests.training.runs import two_processes
from tests.training.runs.two_processes import CASES, HALT, PLANNED, STEPS, start
from training.__main__ import app
from training.data.datasets import load_dataset
from training.recipes.toys import digits_hypergan, toy_mixture
from training.runs.output import STATE_FILE
from training.runs.ranks import SECONDS_TO_SPEAK, Ranks
from training.runs.session import start_run
from training.runs.state import TrainingError

pytestmark = pytest.mark.timeout(600)  # three more processes import PyTorch, where others may compute, too

CPU = torch.device("cpu")
TWO = Ranks(0, 2)


@dataclass(frozen=True)
class Trained:
    """What two processes have written, and what they have said."""

    folder: Path
    stdout: str
    stderr: str


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("trained")
    program = [two_processes.__file__, str(folder)]
    result = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", *program],
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "400"},
        capture_output=True,
        text=True,
        timeout=500,
    )
    return Trained(folder, result.stdout, result.stderr)


@pytest.mark.parametrize("case", CASES)
def test_two_processes_train_as_one_does(case: str, trained: Trained, tmp_path: Path) -> None:
    alone = start(case)
    while alone.steps < STEPS:
        alone.step()
    alone.save(tmp_path / "alone")
    expected = load_file(tmp_path / "alone")
    first, *others = (load_file(trained.folder / f"{case}-{name}") for name in ("0", "1", "resumed-0", "resumed-1"))
    torch.testing.assert_close(first, expected, rtol=1e-4, atol=1e-4)
    for other in others:
        torch.testing.assert_close(other, first, rtol=0, atol=0)


def test_all_processes_evaluate_the_networks_of_the_first(trained: Trained) -> None:
    """If they did not, processes that round differently would drift apart, and spoil each other's gradients."""
    first, second, undisturbed = (load_file(trained.folder / name) for name in ("astray-0", "astray-1", "parts-0"))
    torch.testing.assert_close(first, undisturbed, rtol=0, atol=0)
    assert not torch.equal(second["sampler.modes.linear1.weight"], first["sampler.modes.linear1.weight"])


def test_an_interrupt_of_all_leaves_one_checkpoint(trained: Trained) -> None:
    halted = load_checkpoint(trained.folder / "halted")
    assert halted.config.training.steps == HALT + 1, trained.stderr
    assert halted.calibration is not None
    assert halted.metrics is None
    assert trained.stderr.count("Continue with --resume") == 1


def test_a_resumed_training_ends_where_that_of_one_process_does(trained: Trained) -> None:
    checkpoint = load_checkpoint(trained.folder / "run")
    assert checkpoint.metrics is not None
    assert not (trained.folder / "run" / STATE_FILE).exists()
    assert trained.stdout.count("Wrote ") == 2  # when it was interrupted, and at the end
    assert trained.stderr.count(f"step {PLANNED}: validation") == 1
    alone = start_run(digits_hypergan(), load_dataset("digits", Path()), 0, PLANNED, CPU)
    while not alone.finished:
        alone.step()
    alone.recalibrate()
    torch.testing.assert_close(checkpoint.sampler.state_dict(), alone.sampler.state_dict(), rtol=1e-4, atol=1e-4)


def test_the_state_of_another_number_of_processes_is_refused(tmp_path: Path) -> None:
    state = tmp_path / "state"
    start("codes").save(state)
    with pytest.raises(TrainingError, match=r"processes is 1, not 2, so .* Continue it without torchrun, or choose"):
        start("codes", TWO).load(state)
    start("codes", TWO).save(state)
    with pytest.raises(TrainingError, match=r"is 2, not 1, so .* Continue it with torchrun --nproc-per-node 2"):
        start("codes").load(state)


def test_what_cannot_be_divided_is_refused() -> None:
    with pytest.raises(TrainingError, match="toy-mixture has no inputs that processes could divide"):
        start_run(toy_mixture(), load_dataset("mixture", Path()), 0, 10, CPU, TWO)
    recipe = replace(digits_hypergan(), networks_per_step=5, inputs_per_network=6)
    digits = load_dataset("digits", Path())
    for count in (5, 6):
        start_run(recipe, digits, 0, 10, CPU, Ranks(0, count))
    with pytest.raises(
        TrainingError, match="cannot divide a step of 5 networks with 6 inputs each; start at most 6, or as"
    ):
        start_run(recipe, digits, 0, 10, CPU, Ranks(0, 10))


@pytest.fixture
def second_of_two(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The environment that torchrun gives the second of two processes; the seconds that it sleeps."""
    slept: list[float] = []
    monkeypatch.setattr("training.runs.ranks.sleep", slept.append)
    for name, value in {"TORCHELASTIC_RUN_ID": "none", "WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    return slept


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["evaluate", "x"], "evaluate runs in one process. Start it without torchrun"),
        (["text", "x", "--out", "y"], "text runs in one process"),
        (["digits-hypergan", "--out", "x", "--device", "cuda:0"], "several processes cannot share cuda:0. Leave out"),
    ],
)
def test_errors_of_all_processes_are_left_to_the_first(
    arguments: list[str], message: str, second_of_two: list[float]
) -> None:
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 1
    assert message in result.output
    assert second_of_two == [SECONDS_TO_SPEAK]
