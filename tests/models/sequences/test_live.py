"""Sequences that go on together: each as if it were alone."""

import math

import numpy as np
import pytest
import torch

from models.sequences.live import MOST_PADDING, LiveSequence, LiveSequences
from models.sequences.model import SequenceModel
from models.sequences.text import OTHER
from models.sequences.writing import Sampling, TextScript
from tests.sequences import LSTM, SPEC, make_model
from training.sequences.text import score_text

TEXT = "abba dcab\nbad cab, aaaaa"


def write(model: SequenceModel, seed: int, length: int = 40, members: int = 3, **options: object) -> LiveSequence:
    return model.open(seed, range(members), SPEC.encode("ab"), more=length, sampling=Sampling(seed), **options)  # type: ignore[arg-type]


def finish(live: LiveSequences, *sequences: LiveSequence) -> None:
    """Lets sequences go on to their ends."""
    while rest := [sequence for sequence in sequences if not sequence.finished]:
        live.arrange(rest)
        live.advance()
    live.arrange([])


def compare(one: LiveSequence, other: LiveSequence) -> None:
    assert [element.value for element in one.fresh] == [element.value for element in other.fresh]
    for a, b in zip(one.fresh, other.fresh, strict=True):
        np.testing.assert_allclose(a.measures, b.measures, atol=1e-9)
        np.testing.assert_allclose(a.changes or [], b.changes or [], atol=1e-9)


@pytest.mark.parametrize("latent_size", [0, 2])
def test_a_sequence_does_not_depend_on_others(latent_size: int) -> None:
    model = make_model(latent_size=latent_size)
    live, alone, beside = model.live, write(model, 5, changes=True), write(model, 5, changes=True)
    finish(live, alone)
    others = [write(model, seed, 3 * seed, members) for seed, members in ((1, 3), (2, 1), (3, 2), (9, 3), (8, 3))]
    joining = others[:2]
    while not beside.finished:
        live.arrange([sequence for sequence in (*joining, beside) if not sequence.finished])
        live.advance()
        joining = others[: 2 + beside.position // 4]
    compare(beside, alone)
    finish(live, *others)
    for other in others:
        again = write(model, other.sampling.seed, other.length - 2, len(other.networks))
        finish(live, again)
        compare(other, again)


def test_few_rows_are_computed_for_those_who_have_left() -> None:
    model = make_model(latent_size=2)
    live, sequences = model.live, [write(model, seed, 5 * seed) for seed in range(1, 9)]
    alone = [write(model, seed, 5 * seed) for seed in range(1, 9)]
    shapes = set()
    while rest := [sequence for sequence in sequences if not sequence.finished]:
        live.arrange(rest)
        live.advance()
        assert 3 * len(rest) <= len(live._last) <= MOST_PADDING * 3 * len(rest)
        shapes.add((len(rest), len(live._last)))
    live.arrange([])
    assert len({rows for _, rows in shapes}) < len(shapes)  # some leave without a new layout
    for one, other in zip(sequences, alone, strict=True):
        finish(live, other)
        compare(one, other)


@pytest.mark.parametrize("changes", [False, True])
def test_a_pause_changes_nothing(changes: bool) -> None:
    model = make_model()
    paused, whole, other = write(model, 1, changes=changes), write(model, 1, changes=changes), write(model, 2, 60)
    finish(model.live, whole)
    for step in range(50):
        model.live.arrange([other] if step % 7 < 3 or paused.finished else [paused, other])
        model.live.advance()
    finish(model.live, paused)
    compare(paused, whole)


@pytest.mark.parametrize(("modes", "latent_size", "members"), [(3, 0, 3), (3, 2, 5), (4, 0, 1)])
def test_scores_are_those_of_one_long_pass(modes: int, latent_size: int, members: int) -> None:
    model = make_model(modes, latent_size)
    sampler, symbols = model.checkpoint.sampler, SPEC.encode(TEXT)
    scored, beside = model.open(7, range(members), symbols), write(model, 1)
    finish(model.live, beside, scored)
    expected = score_text(
        sampler, sampler.draw_latents(7, range(members)), SPEC.start_number, torch.tensor(symbols), "scoring"
    )
    probabilities, *bits = np.array([element.measures for element in scored.fresh]).T
    np.testing.assert_allclose(probabilities, np.exp2(-bits[0]))
    for own, nats in zip(bits, (expected.surprisal, expected.entropy, expected.disagreement), strict=True):
        np.testing.assert_allclose(own, nats / math.log(2), atol=1e-9)


@pytest.mark.parametrize("members", [1, 3])
def test_the_most_probable_symbols_are_reported_if_asked_for(members: int) -> None:
    model = make_model()
    few, every, none = (write(model, 4, members=members, likely=likely) for likely in (2, 100, 0))
    finish(model.live, few, none, every)
    assert all(element.likely is None for element in none.fresh)
    for told, whole in zip(few.fresh, every.fresh, strict=True):
        assert told.likely is not None
        assert whole.likely is not None
        assert np.array(told.likely) == pytest.approx(np.array(whole.likely[:2]))
        numbers, logarithms = zip(*whole.likely, strict=True)
        assert sorted(numbers) == list(range(len(SPEC.symbols)))
        assert list(logarithms) == sorted(logarithms, reverse=True)
        assert sum(map(math.exp, logarithms)) == pytest.approx(1)
        assert math.exp(dict(whole.likely)[whole.value]) == pytest.approx(whole.measures[0])


def test_changes_are_those_of_the_scaled_rows() -> None:
    model = make_model()
    symbols, sampler = SPEC.encode("abcad"), model.checkpoint.sampler
    sequence = model.open(0, range(3), symbols, changes=True)
    finish(model.live, sequence)
    changes = []
    for member in range(3):
        network = sampler.assemble(sampler.draw_latents(0, [member]))
        read = torch.tensor([[SPEC.start_number], *([symbol] for symbol in symbols[:-1])])
        scales = network.recurrent.trace(read).scales[0, :, 0, 0]  # of W_h in the first layer, [T, 4, H]
        rows = network.cells[0].get_parameter("weight_h").unflatten(0, (4, -1))
        changes.append((scales[:, :, :, None] * rows).diff(dim=0).flatten(2).norm(dim=-1))
    assert sequence.fresh[0].changes == [0, 0, 0, 0]
    told = np.array([element.changes for element in sequence.fresh[1:]])
    np.testing.assert_allclose(told, torch.stack(changes).mean(0), atol=1e-9)


def test_outputs_that_are_not_finite_end_only_their_sequence() -> None:
    model = make_model(latent_size=0)
    good, bad, expected = write(model, 1, members=1), write(model, 1), write(model, 1, members=1)
    finish(model.live, expected)
    mode = int(good.networks[0][0])
    for key, stack in model.checkpoint.sampler.modes.items():
        if key == "output/bias":
            stack[[other for other in range(3) if other != mode]] = math.nan
    finish(model.live, good, bad)
    assert bad.error is not None
    assert (bad.position, bad.fresh) == (0, [])
    compare(good, expected)


class TestDrawing:
    def draw(self, logits: list[float], noise: float, **options: float) -> int:
        writer = TextScript(SPEC).prepare([Sampling(0, **options)], np.array([1]))  # type: ignore[arg-type]
        values, _ = writer.write(np.log([logits]), np.array([-1]), np.array([noise]))
        return int(values[0])

    def test_symbols_are_as_frequent_as_they_are_probable(self) -> None:
        shares = [0.1, 0.2, 0.05, 0.15, 0.3, 0.1, 0.1]
        drawn = [self.draw(shares, (i + 0.5) / 900) for i in range(900)]
        assert np.bincount(drawn, minlength=7).tolist() == [100, 200, 50, 150, 300, 100, 0]  # of what may be written

    def test_the_symbol_for_others_is_never_drawn(self) -> None:
        assert SPEC.symbols[6] == OTHER
        for options in ({}, {"temperature": 0.0}, {"temperature": 10.0}, {"top_k": 1}, {"top_p": 0.5}):
            for noise in (1e-9, 0.5, 1 - 1e-7):
                assert self.draw([1e-9] * 6 + [1 - 6e-9], noise, **options) != 6

    @pytest.mark.parametrize(
        "options", [{"temperature": 0.0}, {"temperature": 1e-300}, {"top_k": 1}, {"top_p": 0.3}, {"top_p": 1e-9}]
    )
    def test_the_most_probable(self, options: dict[str, float]) -> None:
        for noise in (1e-9, 0.5, 1 - 1e-7):
            assert self.draw([0.1, 0.2, 0.05, 0.15, 0.3, 0.1, 0.1], noise, **options) == 4

    def test_the_few_most_probable(self) -> None:
        shares = [0.1, 0.2, 0.05, 0.15, 0.3, 0.1, 0.1]
        noises = [(i + 0.5) / 500 for i in range(500)]
        assert np.bincount([self.draw(shares, u, top_k=2) for u in noises]).tolist() == [0, 200, 0, 0, 300]
        assert np.bincount([self.draw(shares, u, top_p=0.5) for u in noises]).tolist() == [0, 200, 0, 0, 300]
        many = [self.draw(shares, u, top_k=100) for u in noises]
        assert many == [self.draw(shares, u) for u in noises]

    def test_heat_flattens(self) -> None:
        noises = [(i + 0.5) / 300 for i in range(300)]
        hot = np.bincount([self.draw([1, 4, 1e-30, 1e-30, 1e-30, 1e-30, 1e-30], u, temperature=2) for u in noises])
        assert hot.tolist() == [100, 200]


def test_an_ensemble_may_have_any_size() -> None:
    """Its mean is that of its own networks, whatever the sizes of others."""
    logits = np.log([[0.5, 0.5], [0.9, 0.1], [0.1, 0.9], [0.5, 0.5]])
    writer = TextScript(SPEC).prepare([Sampling(0)] * 2, np.array([1, 3]))
    values, measures = writer.write(logits, np.array([0, 1]), np.array([0.5, 0.5]))
    assert values.tolist() == [0, 1]
    binary = -0.9 * math.log2(0.9) - 0.1 * math.log2(0.1)
    expected = [[0.5, 1, 1, 0], [0.5, 1, 1, 1 - (1 + 2 * binary) / 3]]
    np.testing.assert_allclose(measures, expected, atol=1e-12)


def test_an_lstm_writes_too() -> None:
    model = make_model(1, size=LSTM)
    sequence = write(model, 0, members=1, changes=True)
    finish(model.live, sequence)
    assert len(sequence.fresh) == 42
    assert not model.changes_weights
    assert sequence.fresh[3].changes is None


def test_a_sequence_has_elements() -> None:
    with pytest.raises(ValueError, match="a sequence must have at least one element"):
        make_model().open(0, [0], [])
