"""What two processes do for `test_ranks.py`. Run under torchrun, with the folder to write to.

They train a few steps of each case. Then they train by the command line, are interrupted through torchrun, which waits
for them to end, and continue.
"""

import os
import shutil
import signal
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import torch

from models.checkpoint import MethodConfig
from models.samplers.apd import APDConfig
from models.samplers.deutsch import DeutschConfig
from models.samplers.hyperdraw import HyperDrawConfig
from models.samplers.mc_dropout import MCDropoutConfig
from models.samplers.mnf import MNFConfig
from models.samplers.static_hypernetwork import StaticHypernetworkConfig
from training.__main__ import app
from training.data.augmentation import Augmentation
from training.data.datasets import load_dataset
from training.objectives.gaussian_noise import GaussianNoise
from training.objectives.hardening import Hardening
from training.objectives.logitnorm import LogitNorm
from training.objectives.objectives import Diversity
from training.objectives.repulsion import Repulsion
from training.recipes.recipe import Distillation, OutlierExposure, Recipe
from training.recipes.toys import digits_hypergan, toy_cubic
from training.runs.fitting import FittingRun
from training.runs.loop import StepReport
from training.runs.ranks import ALONE, Ranks, join_ranks
from training.runs.run import TrainingRun
from training.runs.session import start_run

STEPS = 3
PLANNED = 40
COMMAND = ("digits-hypergan", "--steps", str(PLANNED), "--device", "cpu")
HALT = 17
"""The step of the command in which the processes are interrupted."""

HYPERGAN = replace(digits_hypergan(), codes_per_step=32, networks_per_step=4)


def vary(method: MethodConfig, networks: int, **changes: object) -> Recipe:
    """A recipe for digits without regularisers of codes."""
    rates = dict.fromkeys(("all", "modes", "gains", "generator", "embeddings", "direct"), 1e-2)
    bare = replace(HYPERGAN, moment_matching_weight=0.0, adversarial_weight=0.0, weight_decays={}, learning_rates=rates)
    recipe = replace(bare, method=method, networks_per_step=networks)
    return replace(recipe, **changes)  # type: ignore[arg-type]  # of any of its fields


PARTS = {
    "augmentation": Augmentation(),
    "outliers": OutlierExposure(count=100, group_size=2),
    "hardening": Hardening(steps=1),  # the more, the more often rounding decides a gradient's sign
    "noise": GaussianNoise(),
}
DEUTSCH = DeutschConfig(latent_size=8, code_size=4, extractor_hidden_size=16, generator_hidden_sizes=(12, 16, 16))
STATIC = StaticHypernetworkConfig(embedding_size=4, hidden_size=4, basic_channels=8)
DISTILLATION = Distillation(langevin_share=0.6, burn_in=0, interval=1, batch_size=4)

CASES = {
    "codes": HYPERGAN,
    "repulsion": replace(HYPERGAN, repulsion=Repulsion(), outliers=OutlierExposure(count=100, group_size=4)),
    "diversity": vary(DEUTSCH, 4, codes_per_step=4, diversity=Diversity(1_000)),
    "parts": vary(HyperDrawConfig(4), 4, own_epochs=True, **PARTS),
    "parts of three networks": vary(HyperDrawConfig(3), 3, own_epochs=True, **PARTS),
    "dropout": vary(MCDropoutConfig(), 4, logitnorm=LogitNorm(), precision="bfloat16"),
    "divergence": vary(MNFConfig(), 4),
    "one network": vary(STATIC, 1, inputs_per_network=33),
    "shared examples": replace(toy_cubic(), networks_per_step=5, codes_per_step=10),
    "distillation": vary(APDConfig(hidden_size=8), 1, distillation=DISTILLATION),
}
"""Recipes whose steps are divided by networks or by inputs, and whose losses compare networks or not."""


def start(case: str, ranks: Ranks = ALONE) -> TrainingRun:
    """Starts the run of a case."""
    recipe = CASES[case]
    return start_run(recipe, load_dataset(recipe.dataset, Path()), 0, STEPS + 1, torch.device("cpu"), ranks)


def run_case(case: str, out: Path, ranks: Ranks) -> None:
    """Writes what this process has after all steps, and after the same ones with a save and a load in between."""
    straight, resumed = start(case, ranks), start(case, ranks)
    path = out / f"{case}-{ranks.number}"
    while straight.steps < STEPS - 1:
        straight.step()
    straight.save(path)
    resumed.load(path)
    for run in (straight, resumed):
        run.step()
    straight.save(path)
    resumed.save(out / f"{case}-resumed-{ranks.number}")


def run_astray(out: Path, ranks: Ranks) -> None:
    """Writes what the processes have if the second begins with other networks."""
    run = start("parts", ranks)
    if not ranks.leads:
        with torch.no_grad():
            for parameter in run.sampler.parameters():
                parameter.mul_(2)
    while run.steps < STEPS:
        run.step()
    run.save(out / f"astray-{ranks.number}")


def interrupt_at_halt(run: FittingRun) -> StepReport:
    """Makes a step. In one of them, the second process tells torchrun to end, and waits until it is told so, too."""
    if run.steps == HALT and run.ranks.number == 1:
        handler = signal.getsignal(signal.SIGTERM)
        os.kill(os.getppid(), signal.SIGTERM)
        while signal.getsignal(signal.SIGTERM) == handler:
            time.sleep(0.01)
    return step(run)


step = FittingRun.step

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    joined = ranks, _ = join_ranks("cpu")
    for name in CASES:
        run_case(name, folder, ranks)
    run_astray(folder, ranks)
    assert ranks.agree(5 + ranks.number) == 5
    joining = patch("training.__main__.join_ranks", lambda _: joined)  # processes can join only once
    with joining, patch("torch.distributed.destroy_process_group"):
        with patch.object(FittingRun, "step", interrupt_at_halt), suppress(SystemExit):
            app([*COMMAND, "--out", str(folder / "run")])
        if ranks.leads:
            shutil.copytree(folder / "run", folder / "halted")
        ranks.unite(False)  # the second waits for what the first writes
        app([*COMMAND, "--out", str(folder / "run"), "--resume"])
