"""LSTM and HyperLSTM: the paper's sizes and start, the faults of known ports, and what `torch.nn.LSTM` promises."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from models.sequences.hyper_lstm import GENERATORS, HyperLSTM, HyperLSTMCell
from models.sequences.lstm import LSTM, LSTMCell
from models.sequences.recurrent import Recurrent
from tests.models.sequences.networks import MAKERS, B, H, N, T, X, Z, make


def count(network: Recurrent, symbols: int) -> int:
    return sum(p.numel() for p in network.parameters()) + network.hidden_size * symbols + symbols


@pytest.mark.parametrize(
    ("made", "parameters"),
    [
        (lambda: LSTM(50, 1000), 4_254_050),
        (lambda: LSTM(50, 1250), 6_567_550),
        (lambda: LSTM(50, 1000, layer_norm=True), 4_264_050),
        (lambda: HyperLSTM(50, 1000, layer_norm=False), 4_911_874),
        (lambda: HyperLSTM(50, 1000), 4_923_154),
        (lambda: HyperLSTM(50, 1000, 2, embedding_size=16), 14_407_714),
    ],
)
def test_parameters_are_as_many_as_the_paper_counts(made: Callable[[], Recurrent], parameters: int) -> None:
    with torch.device("meta"):
        assert count(made(), 50) == parameters


def test_one_hot_inputs_are_looked_up(network: Recurrent) -> None:
    symbols = torch.randint(X, (T, B))
    torch.testing.assert_close(network(symbols)[0], network(F.one_hot(symbols, X).double())[0])


def test_a_state_carried_over_windows_gives_what_one_long_pass_gives(network: Recurrent) -> None:
    inputs = torch.randn(T, B, X, dtype=torch.float64)
    whole, last = network(inputs)
    first, state = network(inputs[:4])
    second, state = network(inputs[4:], state)
    torch.testing.assert_close(torch.cat([first, second]), whole)
    torch.testing.assert_close(state, last)
    found, expected = (
        torch.autograd.grad(own.sum(), list(network.parameters()), retain_graph=True) for own in (second, whole[4:])
    )
    torch.testing.assert_close(found, expected)


def test_networks_that_share_all_but_their_generators_run_together() -> None:
    network = make("ln-hyper", num_layers=2)
    stacks = {
        name: torch.stack([parameter + 0.3 * torch.randn_like(parameter) for _ in range(3)])
        for name, parameter in network.named_parameters()
        if name.split(".", 2)[2] in GENERATORS
    }
    inputs = torch.randn(T, B, X, dtype=torch.float64)
    together, _ = functional_call(network, stacks, (inputs.repeat(1, 3, 1),))
    alone = [
        functional_call(network, {name: stack[k] for name, stack in stacks.items()}, (inputs,))[0] for k in range(3)
    ]
    torch.testing.assert_close(together, torch.cat(alone, dim=1))
    assert not torch.allclose(alone[0], alone[1])


def test_packed_sequences_are_padded_ones_without_the_padding(network: Recurrent) -> None:
    lengths = torch.tensor([3, 9, 1, 6])
    inputs = torch.randn(T, B, X, dtype=torch.float64)
    packed, last = network(pack_padded_sequence(inputs, lengths, enforce_sorted=False))
    assert isinstance(packed, PackedSequence)
    outputs, found = pad_packed_sequence(packed)
    assert found.tolist() == lengths.tolist()
    for row, length in enumerate(lengths.tolist()):
        alone, state = network(inputs[:length, row : row + 1])
        torch.testing.assert_close(outputs[:length, row], alone[:, 0])
        torch.testing.assert_close([part[:, row] for part in last], [part[:, 0] for part in state])


def test_shapes_are_those_of_torch(network: Recurrent) -> None:
    theirs = nn.LSTM(X, H).double()
    for inputs in (torch.randn(T, B, X).double(), torch.randn(T, X).double()):
        mine, (h, c) = network(inputs)
        expected, (their_h, _) = theirs(inputs)
        assert mine.shape == expected.shape
        assert h.shape[:-1] == c.shape[:-1] == their_h.shape[:-1]
        torch.testing.assert_close(mine[-1], h[-1, ..., :H])
    first = make("lstm", batch_first=True)
    swapped = torch.randn(B, T, X).double()
    torch.testing.assert_close(first(swapped)[0], make("lstm")(swapped.transpose(0, 1))[0].transpose(0, 1))


def test_an_lstm_without_normalisation_is_that_of_torch() -> None:
    mine, theirs = make("lstm"), nn.LSTM(X, H).double()
    (cell,) = mine.layers
    assert isinstance(cell, LSTMCell)
    order = [0, 1, 3, 2]  # theirs are input, forget, candidate, output
    with torch.no_grad():
        for name, own in (("weight_ih_l0", cell.weight_x), ("weight_hh_l0", cell.weight_h), ("bias_ih_l0", cell.bias)):
            parts = own.chunk(4)
            getattr(theirs, name).copy_(torch.cat([parts[k] for k in order]))
        forget = theirs.get_parameter("bias_hh_l0")
        forget.zero_()
        forget[H : 2 * H] = 1
    inputs = torch.randn(T, B, X).double()
    torch.testing.assert_close(mine(inputs), theirs(inputs))


class TestStart:
    """The start of a training, as in appendix A.2.3."""

    def test_every_row_is_scaled_by_a_tenth(self) -> None:
        network = HyperLSTM(X, H, hyper_size=N, embedding_size=Z)
        trace = network.trace(torch.randn(T, B, X))
        assert trace.scales.shape == (1, T, B, 3, 4, H)
        torch.testing.assert_close(trace.scales[..., :2, :, :], torch.full((1, T, B, 2, 4, H), 0.1).to(trace.scales))

    def test_biases_are_zero_and_their_embeddings_small(self) -> None:
        (cell,) = HyperLSTM(X, 50, hyper_size=80, embedding_size=16).layers
        assert isinstance(cell, HyperLSTMCell)
        assert not cell.scale_weight[2].any()
        assert not cell.bias.any()
        assert cell.embedding_weight[2].std().item() == pytest.approx(0.01, rel=0.1)
        assert not cell.embedding_weight[:2].any()

    def test_each_gate_has_an_orthogonal_matrix_of_its_own(self) -> None:
        (cell,) = HyperLSTM(H, H, hyper_size=N).layers
        assert isinstance(cell, HyperLSTMCell)
        seen = torch.cat([cell.hyper_weight_h, cell.hyper_weight_x], 1)
        for weight in (cell.weight_h, cell.weight_x, cell.hyper_weight, seen):
            assert weight.any()
            for part in weight.chunk(4):
                torch.testing.assert_close(part @ part.T, torch.eye(len(part)), atol=1e-5, rtol=0)
            assert not torch.allclose(weight.chunk(4)[0], weight.chunk(4)[1])


class TestPorts:
    """Faults that ports of the authors' code have."""

    def test_the_forget_bias_survives_normalisation(self) -> None:
        for name in ("ln-lstm", "ln-hyper"):
            network = MAKERS[name]()
            with torch.no_grad():
                for parameter in network.parameters():
                    parameter.zero_()
            c = torch.randn(1, B, network(torch.zeros(1, B, X))[1][1].shape[-1])
            kept = network(torch.zeros(1, B, X), (torch.zeros_like(c), c))[1][1]
            torch.testing.assert_close(kept, torch.tensor(1.0).sigmoid() * c)

    def test_the_carried_cell_is_not_normalised(self) -> None:
        for name in ("ln-lstm", "ln-hyper"):
            network = make(name)
            h, c = (torch.zeros_like(part) for part in network(torch.zeros(1, B, X).double())[1])
            far = 100 + c
            torch.testing.assert_close(
                network(torch.zeros(1, B, X).double(), (h, far))[1][1] / far,
                network(torch.zeros(1, B, X).double(), (h, 2 * far))[1][1] / (2 * far),
                rtol=0.02,
                atol=0,
            )

    def test_the_small_cell_sees_the_output_of_the_large_one(self) -> None:
        network = make("ln-hyper")
        h, c = network(torch.randn(1, B, X).double())[1]
        other = h.clone()
        other[..., :H] += 1  # the large cell's output alone
        inputs = torch.randn(1, B, X).double()
        assert not torch.allclose(network(inputs, (h, c))[1][0][..., H:], network(inputs, (other, c))[1][0][..., H:])

    def test_gates_have_scales_of_their_own(self) -> None:
        scales = make("ln-hyper").trace(torch.randn(T, B, X).double()).scales
        for gate in range(1, 4):
            assert not torch.allclose(scales[:, :, :, :, 0], scales[:, :, :, :, gate])
        assert not torch.allclose(scales[:, :, :, 0], scales[:, :, :, 1])

    def test_scales_come_from_the_same_step(self) -> None:
        trace = make("ln-hyper").trace(torch.randn(1, 2, X).double())
        assert not torch.allclose(trace.scales[0, 0, 0], trace.scales[0, 0, 1])  # though both begin with zeros


@pytest.mark.parametrize(
    ("inputs", "reason"),
    [
        (torch.zeros(2, 3, X + 1), f"inputs must have {X} numbers, not {X + 1}"),
        (torch.zeros(0, 3, X), "no steps"),
        (torch.zeros(2, 3, 4, X), "2 or 3 dimensions, not 4"),
        (torch.full((2, 3), X), f"from 0 to {X - 1}"),
        (torch.zeros(2, 3, dtype=torch.int32), "must be int64"),
    ],
)
def test_other_inputs_are_refused(inputs: Tensor, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        LSTM(X, H)(inputs)


def test_a_state_of_another_shape_is_refused() -> None:
    wide = torch.zeros(1, 3, H)
    with pytest.raises(ValueError, match=r"the state's h must have the shape \(1, 3, 13\), not \(1, 3, 7\)"):
        HyperLSTM(X, H, hyper_size=N)(torch.zeros(2, 3, X), (wide, wide))


def test_a_recurrent_dropout_that_keeps_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="less than 1, not 1"):
        LSTM(X, H, recurrent_dropout=1)


def test_an_lstm_has_no_scaling_vectors() -> None:
    with pytest.raises(ValueError, match="no scaling vectors"):
        LSTM(X, H).trace(torch.zeros(2, 3, X))
