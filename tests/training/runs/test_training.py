import math
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from safetensors.torch import load_file
from typer.core import TyperGroup
from typer.testing import CliRunner

from models.checkpoint import Checkpoint, load_checkpoint
from models.samplers.sampler import Hypernetwork
from models.tasks.classification import Classification
from tests.conftest import make_session
from training.__main__ import app
from training.data.datasets import load_dataset
from training.objectives.objectives import moment_distance
from training.recipes.all import RECIPES
from training.recipes.toys import digits_hypergan
from training.runs.fitting import FittingRun
from training.runs.loop import StepReport
from training.runs.run import KEEP_EVERY
from training.runs.session import train
from training.runs.state import TrainingError

RECIPE = replace(digits_hypergan(), codes_per_step=32, networks_per_step=4)
STEP = FittingRun.step


def make_run(steps: int = 40, seed: int = 0, **changes: Any) -> FittingRun:
    recipe = replace(RECIPE, **changes)
    return FittingRun(recipe, load_dataset("digits", Path()), seed, steps, torch.device("cpu"))


def hypernetwork_of(run: FittingRun) -> Hypernetwork:
    assert isinstance(run.sampler, Hypernetwork)
    return run.sampler


def discriminator_of(run: FittingRun) -> torch.nn.Module:
    return run._modules["discriminator"]


def test_the_recipe_learns(checkpoint: Checkpoint) -> None:
    assert checkpoint.metrics is not None
    ensembles = {ensemble["size"]: ensemble for ensemble in checkpoint.metrics["ensembles"]}
    assert checkpoint.metrics["single"]["accuracy_mean"] > 0.9
    assert ensembles[100]["accuracy"] > 0.93
    assert ensembles[100]["plain"]["nll"] < checkpoint.metrics["single"]["nll"]
    assert checkpoint.metrics["disagreement"] > 0.005
    flags = [flag for flag in checkpoint.metrics["flags"] if flag["rate"] == 0.05]
    assert {flag["flag"] for flag in flags} == {"out_of_distribution", "suspect_adversarial"}
    assert all(flag["flagged"] < 0.12 for flag in flags)  # 5 % of 300, and sampling error in both splits


def test_card_reports_the_metrics(checkpoints: Path, checkpoint: Checkpoint) -> None:
    card = (checkpoints / "digits" / "README.md").read_text()
    assert checkpoint.metrics is not None
    assert f"{checkpoint.metrics['single']['accuracy_mean']:.2%}" in card
    assert "hyperdraw-train digits-hypergan --out DIR" in card
    assert checkpoint.config.target.source in card


def test_a_resumed_run_ends_where_an_uninterrupted_one_does(tmp_path: Path) -> None:
    straight = make_run()
    for _ in range(40):
        straight.step()
    halted = make_run()
    for _ in range(25):
        halted.step()
    halted.validate()  # looking must not change anything
    halted.save(tmp_path / "state.safetensors")
    resumed = make_run()
    resumed.load(tmp_path / "state.safetensors")
    assert resumed.steps == 25
    while not resumed.finished:
        resumed.step()
    for name, tensor in straight.sampler.state_dict().items():
        assert torch.equal(tensor, resumed.sampler.state_dict()[name]), name
    for name, tensor in discriminator_of(straight).state_dict().items():
        assert torch.equal(tensor, discriminator_of(resumed).state_dict()[name]), name


def interrupt_at_step_17(run: FittingRun) -> StepReport:
    if run.steps == 17:
        os.kill(os.getpid(), signal.SIGINT)
    return STEP(run)


@pytest.mark.parametrize(
    ("steps", "said"), [(40, "interrupted after 18 of 40 steps"), (18, "Run `hyperdraw-train evaluate DIR`")]
)
def test_interrupt_leaves_a_checkpoint_and_resume_ends_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: int, said: str
) -> None:
    assert train(make_session(tmp_path / "straight", steps=steps))
    monkeypatch.setattr(FittingRun, "step", interrupt_at_step_17)
    assert not train(make_session(tmp_path / "halted", steps=steps))
    halted = load_checkpoint(tmp_path / "halted")
    assert halted.config.training.steps == 18
    assert halted.calibration is not None
    assert halted.metrics is None
    assert said in (tmp_path / "halted" / "README.md").read_text()
    monkeypatch.setattr(FittingRun, "step", STEP)
    assert train(replace(make_session(tmp_path / "halted", steps=steps, resume=True), steps=None))
    for name in ("model.safetensors", "config.json", "calibration.json", "metrics.json"):
        assert (tmp_path / "halted" / name).read_bytes() == (tmp_path / "straight" / name).read_bytes(), name


def test_another_seed_is_another_run() -> None:
    runs = [make_run(steps=1, seed=seed) for seed in (0, 0, 1)]
    for run in runs:
        run.step()
    first, again, other = (run.sampler.state_dict()["mixer.1.weight"] for run in runs)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_training_leaves_the_global_generators_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of other devices, too, which `fork_rng` without devices does not bring back."""
    seeded: list[int] = []
    for device in (torch.cuda, torch.mps, torch.xpu):
        for name in ("manual_seed", "manual_seed_all"):
            monkeypatch.setattr(device, name, seeded.append, raising=False)
    before = torch.get_rng_state()
    run = make_run()
    run.step()
    run.validate()
    assert torch.equal(before, torch.get_rng_state())
    assert seeded == []


@pytest.mark.parametrize("weights", [(0.0, 0.0), (1.0, 0.0), (0.0, 0.5)])
def test_code_losses_are_optional(weights: tuple[float, float]) -> None:
    run = make_run(moment_matching_weight=weights[0], adversarial_weight=weights[1])
    losses = run.step().losses
    expected = {"fit"}
    expected |= {"moments"} if weights[0] else set()
    expected |= {"adversarial", "discriminator"} if weights[1] else set()
    assert set(losses) == expected


def test_a_run_that_blows_up_keeps_its_last_good_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parameters that are no numbers any more are found out by the loss of the step after."""
    good = make_run(steps=80)
    for _ in range(KEEP_EVERY):
        good.step()

    def blow_up_at_step_60(run: FittingRun) -> StepReport:
        report = STEP(run)
        if run.steps == 60:
            for parameter in run.sampler.parameters():
                parameter.detach().fill_(math.nan)
        return report

    monkeypatch.setattr(FittingRun, "step", blow_up_at_step_60)
    with pytest.raises(TrainingError, match=r"loss is nan at step 60\. .*run holds the checkpoint of step 50"):
        train(make_session(tmp_path / "run", steps=80))
    stored = load_file(tmp_path / "run" / "model.safetensors")
    for name, parameter in good.sampler.named_parameters():
        assert torch.equal(stored[name], parameter), name
    training = load_checkpoint(tmp_path / "run").config.training
    assert (training.steps, training.failure) == (50, "the loss is nan at step 60")
    assert "the training failed (the loss is nan at step 60)" in (tmp_path / "run" / "README.md").read_text()


def test_a_run_that_was_never_good_writes_nothing(tmp_path: Path) -> None:
    recipe = replace(digits_hypergan(), learning_rates=dict.fromkeys(("codes", "deviations", "mean"), 1e16))
    with pytest.raises(TrainingError, match="No checkpoint was written, because no step is known to be good"):
        train(make_session(tmp_path / "run", steps=40, recipe=recipe))
    assert not (tmp_path / "run" / "config.json").exists()


def test_a_run_that_fails_at_once_when_resumed_leaves_the_checkpoint_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FittingRun, "step", interrupt_at_step_17)
    assert not train(make_session(tmp_path, steps=40))
    monkeypatch.undo()
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    monkeypatch.setattr(Classification, "measure_loss", lambda _, logits, *__: logits.sum() * math.nan)
    with pytest.raises(TrainingError, match="No checkpoint was written"):
        train(make_session(tmp_path, steps=40, resume=True))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before


def test_matched_moments_bring_the_codes_to_their_prior() -> None:
    distances = []
    rates = {group: 3 * rate for group, rate in RECIPE.learning_rates.items()}
    for weight in (0.0, 10.0):
        changes: dict[str, Any] = {"moment_matching_weight": weight, "adversarial_weight": 0.0, "learning_rates": rates}
        run = make_run(steps=80, codes_per_step=256, **changes)
        while not run.finished:
            run.step()
        run.recalibrate()
        distances.append(moment_distance(hypernetwork_of(run).mix(run.sampler.draw_latents(7, range(512)))).item())
    assert distances[1] < 0.7 * distances[0]


def test_the_mixer_follows_the_adversarial_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    """Alone with the discriminator, its gradient is that of −β log D at its codes."""
    run = make_run(adversarial_weight=0.5, moment_matching_weight=0.0)
    expected = make_run(adversarial_weight=0.5, moment_matching_weight=0.0)
    monkeypatch.setattr(Classification, "measure_loss", lambda _, logits, *__: 0 * logits.sum())
    run.step()
    codes = hypernetwork_of(expected).train().mix(expected.sampler.draw_latents(0, range(32), stream=1))
    (0.5 * -discriminator_of(expected)(codes).sigmoid().log().mean()).backward()
    for (name, parameter), ours in zip(expected.sampler.named_parameters(), run.sampler.parameters(), strict=True):
        if name.startswith("mixer"):
            assert ours.grad is not None
            assert parameter.grad is not None
            assert parameter.grad.norm() > 0
            torch.testing.assert_close(ours.grad, parameter.grad)


def test_nothing_is_overwritten(tmp_path: Path, checkpoints: Path) -> None:
    with pytest.raises(TrainingError, match=r"already holds a training run\. Choose another --out"):
        train(make_session(checkpoints / "digits", steps=5))
    with pytest.raises(TrainingError, match="nothing to resume"):
        train(make_session(tmp_path, steps=5, resume=True))


def test_states_of_other_runs_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    make_run(seed=1).save(path)
    with pytest.raises(TrainingError, match="another run, with seed 1"):
        make_run(seed=0).load(path)
    with pytest.raises(TrainingError, match="another run, with planned_steps 40"):
        make_run(seed=1, steps=50).load(path)
    with pytest.raises(
        TrainingError, match=r"another run, with options ''\. Repeat its command, or choose another --out\."
    ):
        make_run(seed=1, options=" --folds 3").load(path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(TrainingError, match="is not a saved training run"):
        make_run(seed=1).load(path)


def test_minutes_become_steps(tmp_path: Path) -> None:
    session = replace(make_session(tmp_path / "run", steps=1), steps=None, minutes=0.02)
    assert train(session)
    provenance = load_checkpoint(tmp_path / "run").config.training
    assert 10 < provenance.steps == provenance.planned_steps
    assert provenance.command.endswith(f"--steps {provenance.steps}")


def test_help_lists_every_recipe() -> None:
    result = CliRunner().invoke(app, ["--help"])
    assert result.exit_code == 0
    commands = typer.main.get_command(app)
    assert isinstance(commands, TyperGroup)
    for name in (recipe().name for recipe in RECIPES):
        assert name in result.output
        assert "--resume" in {option for parameter in commands.commands[name].params for option in parameter.opts}
    shown = CliRunner().invoke(app, [name, "--help"])
    assert shown.exit_code == 0
    assert "--resume" in shown.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["digits-hypergan"], "Missing option '--out'"),
        (["cifar"], "No such command 'cifar'"),
        (["digits-hypergan", "--out", "x", "--steps", "0"], "greater than or equal to 1"),
        (["digits-hypergan", "--out", "x", "--steps", "9", "--minutes", "1"], "not both"),
        (["digits-hypergan", "--out", "x", "--device", "cuda:99"], "has no device"),
        (["digits-hypergan", "--out", "x", "--resume"], "nothing to resume"),
        (["evaluate", "nowhere"], "config.json: No such file"),
    ],
)
def test_wrong_usage(arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code != 0
    assert message in " ".join(result.output.replace("│", " ").split())


def test_a_training_that_others_slow_down_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of sixty-four threads it gets far less than three quarters."""
    monkeypatch.setattr("training.runs.loop.CONTENTION_SECONDS", 0)
    assert train(make_session(tmp_path / "alone", steps=3))
    assert "other programs" not in capsys.readouterr().err
    monkeypatch.setattr("torch.get_num_threads", lambda: 64)
    assert train(make_session(tmp_path / "crowded", steps=3))
    assert capsys.readouterr().err.count("Warning: other programs use the processor: 64 threads get") == 1
