"""Drawings that go on together: each as if it were alone, and by the mean of its networks."""

import math

import numpy as np
import pytest
import torch

from models.sequences.drawing import read_drawing
from models.sequences.live import LiveSequence
from models.sequences.model import SequenceModel
from models.sequences.sketching import StrokesScript
from models.sequences.strokes import average_surprisal
from models.sequences.writing import Sampling
from tests.models.sequences.test_live import compare, finish
from tests.sequences import LSTM, STROKES, make_model

BEGUN = [[3.0, -2.0, 0.0, 0.0], [10.0, 5.5, 1.0, 0.0], [-30.0, 0.0, 0.0, 0.0]]


def draw(model: SequenceModel, seed: int, length: int = 25, number: int = 0, **options: object) -> LiveSequence:
    sampling = Sampling(seed, number=number)
    return model.open(seed, range(3), BEGUN, more=length, sampling=sampling, first=3, **options)  # type: ignore[arg-type]


def list_points(sequence: LiveSequence) -> list[list[float]]:
    return [element.value for element in sequence.fresh]


@pytest.mark.parametrize("latent_size", [0, 2])
def test_a_drawing_does_not_depend_on_others(latent_size: int) -> None:
    model = make_model(latent_size=latent_size, spec=STROKES)
    alone, beside = draw(model, 5, changes=True), draw(model, 5, changes=True)
    finish(model.live, alone)
    others = [draw(model, seed, 3 * seed, seed) for seed in range(1, 6)]
    while not beside.finished:
        joining = others[: 2 + beside.position // 4]
        model.live.arrange([sequence for sequence in (*joining, beside) if not sequence.finished])
        model.live.advance()
    finish(model.live, *others)
    compare(beside, alone)
    assert all(len(element.changes or []) == 4 for element in alone.fresh)


def test_numbered_drawings_differ() -> None:
    model = make_model(spec=STROKES)
    drawings = [draw(model, 5, number=number) for number in range(12)]
    again = draw(model, 5, number=7)
    finish(model.live, *drawings, again)
    assert len({str(list_points(drawing)) for drawing in drawings}) == 12
    compare(again, drawings[7])


def test_a_drawing_ends_with_its_last_point_or_its_length() -> None:
    model = make_model(spec=STROKES)
    drawings = [draw(model, seed, 8) for seed in range(40)]
    finish(model.live, *drawings)
    assert {drawing.ended for drawing in drawings} == {"end", "length"}
    for drawing in drawings:
        *before, last = list_points(drawing)
        assert not any(point[3] for point in before)
        assert drawing.ended == ("end" if last[3] else "length")
        assert len(before) < 8
        assert (len(before) == 7) or last[3]
        assert last[2] >= last[3]


@pytest.mark.parametrize(("modes", "members"), [(3, [0, 1, 2]), (4, [2])])
def test_surprisals_are_those_of_one_long_pass(modes: int, members: list[int]) -> None:
    model = make_model(modes, latent_size=2, spec=STROKES)
    points = [*BEGUN, [4.0, 4.0, 1.0, 1.0]]
    scored, beside = model.open(7, members, points), draw(model, 1)
    finish(model.live, beside, scored)
    assert scored.ended == "end"
    assert list_points(scored) == points
    sampler = model.checkpoint.sampler
    drawing, last = torch.tensor(points, dtype=torch.float64)[:, None, :3], torch.tensor([[False]] * 3 + [[True]])
    network = sampler.assemble(sampler.draw_latents(7, members))
    outputs, _ = network(STROKES.make_inputs(drawing).repeat(1, len(members), 1))
    parts = STROKES.split_surprisal(outputs.unflatten(1, (len(members), -1)).transpose(0, 1), drawing, last)
    total, offset = average_surprisal(parts.total)[:, 0], average_surprisal(parts.offset)[:, 0]
    nats = np.array([element.measures for element in scored.fresh]).T
    expected = [total, offset, total - offset, parts.total.mean(0)[:, 0] - total]
    np.testing.assert_allclose(nats, torch.stack(expected), atol=1e-9)
    assert (nats[3] >= 0).all()
    assert (nats[3].max() > 1e-3) == (len(members) > 1)


class TestDrawing:
    """Two networks: one says (1, 0) and lifts the pen, the other (−1, 0) and does not."""

    def make_outputs(self) -> np.ndarray:
        outputs = np.zeros((2, STROKES.num_outputs))
        outputs[:, 2:6] = [[1, 0, 1, 0], [-1, 0, -1, 0]]  # means
        outputs[:, 6:10] = -30  # deviations
        outputs[:, -3:] = [[-50, 0, -50], [0, -50, -50]]  # the pen
        return outputs

    def test_each_network_draws_its_share(self) -> None:
        script, count = StrokesScript(STROKES), 2000
        writer = script.prepare([Sampling(3)] * count, np.full(count, 2))
        noise = np.array(script.draw_noise(Sampling(3), range(count)))
        given = np.array([script.unknown] * count)
        points, measures = writer.write(np.tile(self.make_outputs(), (count, 1)), given, noise)
        right = points[:, 0] > 0
        np.testing.assert_allclose(np.abs(points[:, 0]), STROKES.scale, rtol=0.05)
        assert (points[:, 2] == right).all()
        assert abs(right.mean() - 0.5) < 5 * 0.5 / math.sqrt(count)  # a false alarm: 6e-7
        assert measures[:, 3].min() > 20  # the other network is much surprised
        assert abs(np.corrcoef(right, noise[:, 0])[0, 1]) < 5 / math.sqrt(count)

    def test_what_is_drawn_may_be_given_again(self) -> None:
        outputs = self.make_outputs()[:1]
        outputs[:, 2:6] = [1e6, -1e30, 1e6, -1e30]
        script = StrokesScript(STROKES)
        writer = script.prepare([Sampling(0, temperature=0.0)], np.array([1]))
        points, measures = writer.write(outputs, np.array([script.unknown]), np.array([script.silence]))
        assert np.isfinite(measures).all()
        read_drawing(points[:, :3].tolist(), STROKES)


def test_an_lstm_draws_too() -> None:
    model = make_model(1, size=LSTM, spec=STROKES)
    sequence = model.open(0, [0], [], more=5, changes=True)
    finish(model.live, sequence)
    assert sequence.fresh[0].changes is None
