"""Learning to draw."""

import json
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from typer.testing import CliRunner

from models.sequences.checkpoint import (
    SequenceConfig,
    SequenceTraining,
    load_sequence_checkpoint,
    save_sequence_checkpoint,
)
from models.sequences.network import HyperLSTMSize, SequenceTarget
from models.sequences.sampler import SequenceSamplerConfig
from models.sequences.strokes import StrokesSpec
from tests.sequences import HYPER
from training.__main__ import app
from training.data.strokes import Drawings
from training.sequences.drawings import DrawingsProblem, score_drawings
from training.sequences.recipe import own_drawings
from training.sequences.run import SequenceRun
from training.sequences.samples import sample_drawings

SPEC = StrokesSpec(2.0, 9.0, 64, mixtures=3)


def make_drawings(count: int) -> list[torch.Tensor]:
    """Zigzags of two to six points."""
    return [
        torch.tensor([[2.0, (-1.0) ** point, float(point == size - 1)] for point in range(size)])
        for size in (2 + number % 5 for number in range(count))
    ]


@pytest.fixture
def problem() -> DrawingsProblem:
    drawings = Drawings("zigzags", SPEC, make_drawings(50), make_drawings(10), make_drawings(20))
    return DrawingsProblem(drawings, torch.device("cpu"))


def test_networks_see_all_drawings_but_few_once_an_epoch(problem: DrawingsProblem) -> None:
    batches = [problem.make_batch(0, step, 2, 8, 0) for step in range(4)]
    assert [batch.inputs.shape[1] for batch in batches] in (
        [16, 16, 16, 2],
        [16, 16, 2, 16],
        [16, 2, 16, 16],
        [2, 16, 16, 16],
    )
    assert sum(batch.num_symbols for batch in batches) == sum(map(len, problem.drawings.train))
    again, later = problem.make_batch(0, 0, 2, 8, 0), problem.make_batch(0, 4, 2, 8, 0)
    assert torch.equal(again.targets, batches[0].targets)
    assert not any(later.targets.shape == b.targets.shape and torch.equal(later.targets, b.targets) for b in batches)


def test_fewer_drawings_than_networks_are_seen_by_all(problem: DrawingsProblem) -> None:
    batch = problem.make_batch(0, 3, 8, 2, 0)
    assert batch.inputs.shape[1] % 8 == 0


def test_an_ensemble_is_scored_as_a_mixture_of_its_networks(problem: DrawingsProblem) -> None:
    torch.manual_seed(0)
    target = SequenceTarget(HYPER, SPEC.num_inputs, SPEC.num_outputs)
    sampler = SequenceSamplerConfig(target, 3).build().eval()
    latents = sampler.draw_latents(0, range(3))
    drawings = problem.drawings.test
    together, alone = score_drawings(sampler, latents, SPEC, drawings, "")
    assert together.shape == alone.shape == (20,)
    assert (together <= alone + 1e-5).all()  # by Jensen's inequality, at each point
    single, same = score_drawings(sampler, latents[:1], SPEC, drawings, "")
    torch.testing.assert_close(single, same)
    longest = drawings[4]
    outputs, _ = sampler(SPEC.make_inputs(longest)[:, None], latents[:1])
    ends = torch.arange(len(longest)) == len(longest) - 1
    torch.testing.assert_close(single[-1], SPEC.measure_surprisal(outputs[:, 0], longest, ends).sum().double())


def test_drawings_are_learned(problem: DrawingsProblem) -> None:
    recipe = replace(own_drawings(), size=HyperLSTMSize(16, hyper_size=6, layer_norm=False), batch=10)
    run = SequenceRun(replace(recipe, learning_rate=1e-2), problem, 0, 100, torch.device("cpu"), "float32")
    while not run.finished:
        run.step()
    assert run.validate()["nats per point"] < 0.5  # two normals and a fair coin have 2.8 + 0.7


def test_own_drawings_are_learned_by_a_command(tmp_path: Path) -> None:
    file = tmp_path / "zigzags.jsonl"
    file.write_text("".join(json.dumps(drawing.tolist()) + "\n" for drawing in make_drawings(50)))
    options = ["--hidden", "16", "--hyper", "6", "--batch", "20", "--updates", "2", "--quiet", "--json"]
    done = CliRunner().invoke(app, ["drawings", str(file), "--out", str(tmp_path / "model"), *options])
    assert done.exit_code == 0, done.output
    metrics = json.loads(done.stdout)
    assert metrics["test nats per drawing"] > metrics["test nats per point"] > 0
    config = load_sequence_checkpoint(tmp_path / "model").config
    assert isinstance(config.input, StrokesSpec)
    assert config.training.dataset.startswith("zigzags.jsonl@")
    assert "draws with a pen: one HyperLSTM of 16 units, scaled by 6" in (tmp_path / "model" / "README.md").read_text()


def test_samples_are_drawn_at_four_temperatures(tmp_path: Path) -> None:
    torch.manual_seed(0)
    target = SequenceTarget(HYPER, SPEC.num_inputs, SPEC.num_outputs)
    sampler = SequenceSamplerConfig(target).build()
    training = SequenceTraining("none", "none", "none", updates=0, planned_updates=1, seed=0)
    save_sequence_checkpoint(tmp_path, SequenceConfig("sequence", sampler.config, SPEC, training), sampler, "float32")
    checkpoint = load_sequence_checkpoint(tmp_path)
    alone, several = (sample_drawings(checkpoint, 5, count, 0.7) for count in (1, 3))
    torch.testing.assert_close(alone[0], several[0])
    assert all(1 <= len(drawing) <= SPEC.max_points for drawing in several)
    assert CliRunner().invoke(app, ["drawing-samples", str(tmp_path)]).exit_code == 0
    figure = ElementTree.fromstring((tmp_path / "figures" / "samples.svg").read_text())
    assert len(figure.findall("{http://www.w3.org/2000/svg}svg")) == 4 * 12
