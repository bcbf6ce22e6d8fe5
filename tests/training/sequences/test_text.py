"""Learning from text: how it is split and read, and that a training learns, stops, and goes on."""

import json
import math
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from models.precision import Precision
from models.sequences.checkpoint import load_sequence_checkpoint
from models.sequences.network import HyperLSTMSize, LSTMSize
from models.sequences.text import OTHER
from tests.sequences import HYPER, SPEC, make_sampler
from training.__main__ import app
from training.data.dataset import DatasetError
from training.data.text import Text, load_text
from training.runs.loop import StepReport
from training.runs.state import TrainingError
from training.sequences.recipe import SequenceRecipe, own_text
from training.sequences.run import SequenceRun
from training.sequences.session import SequenceSession, train_sequences
from training.sequences.text import TextProblem, score_text

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Counting, over and over: every digit but the first of a number is certain."""
    path = tmp_path_factory.mktemp("text") / "count.txt"
    path.write_text("".join(f"{number % 10}{number % 10}\n" for number in range(3_400)), "utf-8")
    return path


@pytest.fixture(autouse=True)
def quick_validation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.sequences.text.LEAD", 20)
    monkeypatch.setattr("training.sequences.text.VALIDATED", 100)


@pytest.fixture(scope="module")
def problem(file: Path) -> TextProblem:
    return TextProblem(load_text(file), CPU)


def make_recipe(modes: int = 2, latent_size: int = 1, **more: object) -> SequenceRecipe:
    size = HyperLSTMSize(24, hyper_size=8, embedding_size=4)
    small = replace(own_text(), dataset="count.txt", size=size, modes=modes, latent_size=latent_size)
    return replace(small, batch=16, window=12, learning_rate=1e-2, warmup_updates=10, **more)  # type: ignore[arg-type]


def make_session(out: Path, updates: int | None = 150, **more: object) -> SequenceSession:
    session = SequenceSession(make_recipe(), out, CPU, None, updates, None, "float32", resume=False)
    return replace(session, **more)  # type: ignore[arg-type]


class TestSplits:
    def test_the_end_of_a_text_is_held_out(self, tmp_path: Path) -> None:
        path = tmp_path / "text.txt"
        path.write_bytes(("ab" * 9_500 + "\r\n" * 400 + "x" * 100 + "é").encode("utf-8-sig"))
        text = load_text(path)
        parts = text.train, text.validation, text.calibration, text.test
        assert [len(part) for part in parts] == [16_576, 975, 975, 975]
        whole = "".join(text.spec.decode(part.tolist()) for part in parts)
        assert whole == "ab" * 9_500 + "\n" * 400 + "x" * 100 + OTHER
        assert text.spec.symbols == ("\n", "a", "b", "x", OTHER)
        assert text.spec.start == "\n"

    @pytest.mark.parametrize(
        ("content", "reason"),
        [
            (b"short", "has 5 characters; at least 10000 are needed"),
            (b"a" * 20_000 + b"\xff", "is not text in UTF-8: byte 20000 cannot be read"),
            (None, "cannot be read: No such file"),
        ],
    )
    def test_other_files_are_refused(self, tmp_path: Path, content: bytes | None, reason: str) -> None:
        path = tmp_path / "text.txt"
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(DatasetError, match=reason):
            load_text(path)


class TestBatches:
    def test_streams_go_on_from_step_to_step(self, problem: TextProblem) -> None:
        first, second = (problem.make_batch(3, step, 2, 4, 20) for step in (0, 1))
        assert not first.carries
        assert second.carries
        assert first.inputs.shape == first.targets.shape == (20, 8)
        assert torch.equal(first.inputs[1:], first.targets[:-1])
        assert torch.equal(first.targets[-1], second.inputs[0])

    def test_a_stream_ends_where_the_next_began_so_all_text_is_read_by_each_network(self) -> None:
        numbers = torch.arange(100)
        problem = TextProblem(Text(SPEC, numbers, numbers, numbers, numbers), CPU)
        for network in range(2):
            read = [problem.make_batch(0, step, 2, 5, 10).inputs.unflatten(1, (2, 5))[:, network] for step in range(2)]
            assert sorted(torch.cat(read).T.flatten().tolist()) == list(range(100))


def test_parts_side_by_side_are_scored_as_one_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.sequences.text.LEAD", 250)
    monkeypatch.setattr("training.sequences.text.STREAMS", 3)
    sampler = make_sampler(HYPER, 2)
    latents = sampler.draw_latents(0, range(2))
    text = torch.randint(SPEC.num_inputs, (751,), generator=torch.Generator().manual_seed(0))
    found = score_text(sampler, latents, SPEC.start_number, text, "")
    inputs = torch.cat([torch.tensor([SPEC.start_number]), text[:-1]])
    logits, _ = sampler(inputs[:, None].repeat(1, 2), latents)
    log = logits.log_softmax(-1).transpose(0, 1)
    chosen = log.gather(-1, text[None, :, None].expand(2, -1, 1))[..., 0]
    torch.testing.assert_close(found.surprisal, math.log(2) - chosen.logsumexp(0), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.member_surprisal, -chosen, rtol=1e-5, atol=1e-5)


class TestTraining:
    def test_what_is_certain_is_learned(self, problem: TextProblem, tmp_path: Path) -> None:
        assert train_sequences(make_session(tmp_path / "model", updates=120), problem)
        metrics = json.loads((tmp_path / "model" / "metrics.json").read_text())
        assert metrics["test bits per character"] < 0.5  # characters alone have 2.9
        assert metrics["test bits per character"] <= metrics["test bits per character, one network"]
        checkpoint = load_sequence_checkpoint(tmp_path / "model")
        assert checkpoint.metrics == metrics
        assert checkpoint.config.training.command == "hyperdraw-train text --out DIR --updates 120"
        assert not (tmp_path / "model" / "training" / "state.safetensors").exists()
        card = (tmp_path / "model" / "README.md").read_text()
        assert "2 HyperLSTMs that share their large matrices, and networks around each of them" in card
        assert "| test bits per character | " in card

    def test_an_interrupted_training_goes_on_as_if_it_had_not_been(
        self, problem: TextProblem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert train_sequences(make_session(tmp_path / "whole", updates=8), problem)
        step = SequenceRun.step

        def stop(run: SequenceRun) -> StepReport:
            if run.steps == 5:
                signal.raise_signal(signal.SIGINT)
            return step(run)

        monkeypatch.setattr(SequenceRun, "step", stop)
        assert not train_sequences(make_session(tmp_path / "parts", updates=8), problem)
        monkeypatch.undo()
        with pytest.raises(TrainingError, match="Continue it with --resume"):
            train_sequences(make_session(tmp_path / "parts", updates=8), problem)
        assert train_sequences(make_session(tmp_path / "parts", updates=None, resume=True), problem)
        whole, parts = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "parts"))
        assert whole == parts

    def test_a_loss_that_is_not_finite_ends_the_training(self, problem: TextProblem) -> None:
        run = SequenceRun(make_recipe(), problem, 0, 5, CPU, "float32")
        run.step()
        with torch.no_grad():
            next(run.sampler.parameters()).fill_(math.nan)
        with pytest.raises(TrainingError, match="the gradient is not finite at step 2; try a lower learning rate"):
            run.step()

    def test_half_precision_learns_as_well(self, problem: TextProblem) -> None:
        losses = {}
        precisions: tuple[Precision, ...] = ("float32", "bfloat16")
        for precision in precisions:
            run = SequenceRun(make_recipe(), problem, 0, 40, CPU, precision)
            while not run.finished:
                losses[precision] = float(run.step().losses["loss"])
        assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=0.2)

    def test_global_randomness_is_left_alone(self, problem: TextProblem) -> None:
        state = torch.get_rng_state()
        SequenceRun(make_recipe(), problem, 0, 5, CPU, "float32").step()
        assert torch.equal(torch.get_rng_state(), state)

    def test_an_lstm_is_trained_by_the_same_command(self, file: Path, tmp_path: Path) -> None:
        options = [
            "--cell",
            "lstm",
            "--hidden",
            "16",
            "--no-norm",
            "--batch",
            "8",
            "--dropout",
            "0",
            "--updates",
            "2",
            "--quiet",
        ]
        done = CliRunner().invoke(app, ["text", str(file), "--out", str(tmp_path / "m"), *options, "--json"])
        assert done.exit_code == 0, done.output
        assert json.loads(done.stdout)["parameters"] > 0
        config = load_sequence_checkpoint(tmp_path / "m").config
        assert config.sampler.target.size == LSTMSize(16, layer_norm=False)
        assert config.training.command.endswith("--cell lstm --hidden 16 --batch 8 --dropout 0.0 --no-norm --updates 2")

    @pytest.mark.parametrize(
        ("options", "reason"),
        [
            (["--cell", "lstm", "--modes", "2"], "an LSTM has no --hyper, --embedding, --modes or --latent"),
            (["--modes", "3"], "128 sequences cannot be divided among 3 modes"),
            (["--updates", "2", "--minutes", "1"], "use --steps or --minutes, not both"),
        ],
    )
    def test_contradictions_are_refused(self, file: Path, tmp_path: Path, options: list[str], reason: str) -> None:
        done = CliRunner().invoke(app, ["text", str(file), "--out", str(tmp_path / "m"), *options])
        assert done.exit_code == 2
        assert reason in " ".join(done.output.replace("│", " ").split())
