"""Windows are what their equations are, forwards and backwards, however they are computed."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.plain_sequences import run_plainly
from models.sequences.lstm import LSTM
from models.sequences.masks import Masks
from models.sequences.products import ROWS
from models.sequences.recurrent import Recurrent
from tests.models.sequences.networks import MAKERS, B, H, T, X, make


@pytest.mark.parametrize("name", MAKERS)
def test_outputs_and_gradients_are_those_of_the_equations(name: str) -> None:
    network = make(name, num_layers=2)
    inputs, weights = torch.randn(T, B, X, dtype=torch.float64), torch.randn(T, B, H, dtype=torch.float64)
    found, expected = network(inputs)[0], run_plainly(network, inputs)
    torch.testing.assert_close(found, expected)
    gradients = [
        torch.autograd.grad((outputs * weights).sum(), list(network.parameters())) for outputs in (found, expected)
    ]
    torch.testing.assert_close(gradients[0], gradients[1])


def test_the_gradient_of_the_input_and_the_state_is_that_of_differences(network: Recurrent) -> None:
    inputs = torch.randn(3, 2, X, dtype=torch.float64, requires_grad=True)
    size = network(inputs)[1][0].shape[-1]
    state = [torch.randn(1, 2, size, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    assert torch.autograd.gradcheck(lambda x, h, c: network(x, (h, c))[0], (inputs, *state))


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("one_hot", [True, False])
def test_gradients_of_many_sequences_are_those_of_the_equations(name: str, one_hot: bool) -> None:
    """They are summed in several pieces, as a window is not multiplied at once."""
    network, sequences = make(name, num_layers=2), ROWS // 2 + 1
    symbols = torch.randint(X, (4, sequences))
    inputs = F.one_hot(symbols, X).double()
    weights = torch.randn(4, sequences, H, dtype=torch.float64)
    outputs = network(symbols if one_hot else inputs)[0], run_plainly(network, inputs)
    found, expected = (torch.autograd.grad((own * weights).sum(), list(network.parameters())) for own in outputs)
    torch.testing.assert_close(found, expected)


def test_gradients_that_are_asked_for_one_after_the_other_are_those_asked_for_at_once(network: Recurrent) -> None:
    inputs = torch.randn(T, B, X, dtype=torch.float64, requires_grad=True)
    wanted = [inputs, *network.parameters()]
    loss = network(inputs)[0].square().sum()
    at_once = torch.autograd.grad(loss, wanted, retain_graph=True)
    torch.testing.assert_close(torch.autograd.grad(loss, wanted[:1], retain_graph=True), at_once[:1])
    torch.testing.assert_close(torch.autograd.grad(loss, wanted[1:]), at_once[1:])


def test_parameters_that_are_frozen_change_no_other_gradient(network: Recurrent) -> None:
    inputs = torch.randn(T, B, X, dtype=torch.float64)
    parameters = dict(network.named_parameters())
    for name, own in parameters.items():
        network.requires_grad_(True)
        (expected,) = torch.autograd.grad(network(inputs)[0].sum(), own)
        network.requires_grad_(False)
        own.requires_grad_(True)
        (found,) = torch.autograd.grad(network(inputs)[0].sum(), own)
        torch.testing.assert_close(found, expected, msg=name)


def test_nothing_is_kept_without_gradients(network: Recurrent) -> None:
    kept: list[Tensor] = []
    inputs = torch.randn(T, B, X, dtype=torch.float64)

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        with torch.no_grad():
            network(inputs)
        assert not kept
        network(inputs)
        assert kept


def test_steps_one_by_one_are_those_of_a_window(network: Recurrent) -> None:
    symbols = torch.randint(X, (T, B))
    for inputs in (symbols, F.one_hot(symbols, X).double()):
        expected, last = network(inputs)
        advance = network.begin(one_hot=not inputs.is_floating_point())
        output, state = advance(inputs[0])
        outputs = [output]
        for own in inputs[1:]:
            output, state = advance(own, state)
            outputs.append(output)
        torch.testing.assert_close(torch.stack(outputs), expected)
        torch.testing.assert_close(state, last)
        assert not output.requires_grad


def test_steps_one_by_one_show_their_scales() -> None:
    network = make("ln-hyper", num_layers=2)
    inputs = torch.randn(T, B, X, dtype=torch.float64)
    seen: list[list[Tensor]] = [[], []]
    advance, state = network.begin(one_hot=False, watchers=[own.append for own in seen]), None
    for own in inputs:
        _, state = advance(own, state)
    torch.testing.assert_close(torch.stack([torch.stack(own) for own in seen]), network.trace(inputs).scales)


def test_recurrent_dropout_thins_the_candidate_anew_at_each_step() -> None:
    network = LSTM(X, 2000, recurrent_dropout=0.1)
    inputs = torch.randn(1, X).expand(3, X)[:, None].contiguous()
    _, (_, c) = network(inputs[:1])
    share = (c == 0).double().mean().item()
    assert share == pytest.approx(0.1, abs=0.03)
    _, (_, second) = network(inputs[:2])
    assert (second == 0).double().mean().item() == pytest.approx(0.01, abs=0.01)
    _, (_, plain) = network.eval()(inputs[:1])
    torch.testing.assert_close(c[c != 0], plain[c != 0] / 0.9)


def test_masks_of_recurrent_dropout_are_those_of_the_seed() -> None:
    network, inputs = LSTM(X, H, recurrent_dropout=0.5), torch.randn(T, B, X)

    def run(seed: int) -> Tensor:
        torch.manual_seed(seed)
        output: Tensor = network(inputs)[0]
        return output

    first, then = run(0), network(inputs)[0]
    torch.testing.assert_close(run(0), first)
    torch.testing.assert_close(network(inputs)[0], then)
    assert not torch.allclose(first, then)
    assert not torch.allclose(first, run(1))


def test_masks_keep_the_expectation() -> None:
    mask = Masks(0.3, torch.zeros(())).draw(333, 999)
    assert mask.unique().tolist() == pytest.approx([0, 1 / 0.7], rel=1e-4)
    assert mask.mean().item() == pytest.approx(1, abs=0.006)  # five standard deviations


@pytest.mark.parametrize("name", MAKERS)
def test_autocast_computes_products_in_its_type_and_all_else_in_that_of_the_weights(name: str) -> None:
    network = make(name).float()
    inputs, weights = torch.randn(T, B, X), torch.randn(T, B, H)
    found = {}
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            outputs, state = network(inputs)
            gradients = torch.autograd.grad((outputs * weights).sum(), list(network.parameters()))
        assert {outputs.dtype, state[0].dtype, state[1].dtype} == {torch.float32}
        found[enabled] = outputs, *gradients
    for exact, rounded in zip(found[False], found[True], strict=True):
        assert rounded.dtype == torch.float32
        distance = (rounded - exact).norm() / exact.norm()
        assert 0 < distance < 0.03
