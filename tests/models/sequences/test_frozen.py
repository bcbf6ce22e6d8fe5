"""What networks say at the end of a sequence, and the LSTM that a HyperLSTM is then."""

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from models.sequences.frozen import find_frozen_target
from models.sequences.live import LiveSequence
from models.sequences.model import SequenceModel
from models.sequences.network import HyperLSTMSize, LSTMSize
from models.sequences.writing import Sampling
from models.tasks.probabilities import NotFiniteError
from tests.sequences import LSTM, SPEC, STROKES, make_model

DEEP = HyperLSTMSize(8, num_layers=2, hyper_size=5, embedding_size=3)
PLAIN = HyperLSTMSize(8, num_layers=1, hyper_size=5, embedding_size=3, layer_norm=False)


def read(model: SequenceModel, text: str, members: int = 1) -> LiveSequence:
    """A text that has been read to its end, beside another."""
    numbers = SPEC.encode(text)
    sequence = model.open(3, range(members), numbers, first=len(numbers), keeps=True)
    other = model.open(4, [0], SPEC.encode("dd"), more=50, sampling=Sampling(4))
    while numbers and not sequence.finished:
        model.live.arrange([other, sequence])
        model.live.advance()
    model.live.arrange([])
    return sequence


@pytest.mark.parametrize(("size", "members", "latent_size"), [(DEEP, 3, 0), (PLAIN, 3, 2), (LSTM, 1, 0)])
@pytest.mark.parametrize("text", ["", "abba cab"])
def test_networks_say_what_one_pass_says(
    size: HyperLSTMSize | LSTMSize, members: int, latent_size: int, text: str
) -> None:
    model = make_model(members, latent_size, size)
    outlook = model.live.look_ahead(read(model, text, members))
    network = model.checkpoint.sampler.assemble(model.checkpoint.sampler.draw_latents(3, range(members)))
    symbols = torch.tensor([SPEC.start_number, *SPEC.encode(text)])
    expected, _ = network(symbols[:, None].expand(-1, members))
    assert_close(outlook.outputs, expected[-1])
    assert (outlook.weights is None) == isinstance(size, LSTMSize)


@pytest.mark.parametrize("size", [DEEP, PLAIN])
@pytest.mark.parametrize("text", ["", "abba cab"])
def test_an_lstm_of_these_weights_makes_the_same_step(size: HyperLSTMSize, text: str) -> None:
    model = make_model(2, 2, size)
    weights = model.live.look_ahead(read(model, text)).weights
    assert weights is not None
    network = model.checkpoint.sampler.assemble(model.checkpoint.sampler.draw_latents(3, [0]))
    frozen = find_frozen_target(model.target).build().double()
    assert {name: tuple(tensor.shape) for name, tensor in weights.items()} == find_frozen_target(
        model.target
    ).parameter_shapes
    frozen.load_state_dict(weights)
    symbols = torch.tensor([SPEC.start_number, *SPEC.encode(text)])[:, None]
    state = network(symbols[:-1])[1] if text else None
    expected, (expected_h, expected_c) = network(symbols[-1:], state)
    large = None if state is None else tuple(part[..., :8] for part in state)
    found, (h, c) = frozen(symbols[-1:], large)
    assert_close(found, expected)
    assert_close(h, expected_h[..., :8])
    assert_close(c, expected_c[..., :8])


def test_weights_differ_from_step_to_step() -> None:
    model = make_model(1, size=PLAIN)
    before, after = (model.live.look_ahead(read(model, text)).weights for text in ("ab", "abb"))
    assert before is not None
    assert after is not None
    name = "recurrent.layers.0.weight_h"
    assert not torch.allclose(before[name], after[name])


def test_drawings_are_read_too() -> None:
    model = make_model(2, spec=STROKES)
    points = [[10.0, 5.0, 0.0, 0.0], [0.0, -5.0, 1.0, 0.0]]
    sequence = model.open(3, [0, 1], points, first=2, keeps=True)
    while not sequence.finished:
        model.live.arrange([sequence])
        model.live.advance()
    model.live.arrange([])
    network = model.checkpoint.sampler.assemble(model.checkpoint.sampler.draw_latents(3, [0, 1]))
    inputs = F.pad(STROKES.prepare(torch.tensor(points)[:, None, :3].double()), (0, 0, 0, 0, 1, 0))
    expected, _ = network(inputs.repeat(1, 2, 1))
    assert_close(model.live.look_ahead(sequence).outputs, expected[-1])


def test_the_weights_of_an_lstm_do_not_change() -> None:
    with pytest.raises(ValueError, match="the weights of an LSTM do not change"):
        find_frozen_target(make_model(1, size=LSTM).target)


def test_nonsense_is_refused() -> None:
    model = make_model(1)
    model.checkpoint.sampler.network.output.bias.data[0] = torch.nan
    with pytest.raises(NotFiniteError, match="outputs that are not finite"):
        model.live.look_ahead(model.open(0, [0], [], keeps=True))
