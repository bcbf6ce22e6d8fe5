"""Sampled networks for sequences: what they share, what differs, and how they run."""

import pytest
import torch
from torch import Tensor

from models.sequences.network import Dropout, LayerStates
from models.sequences.sampler import SequenceSamplerConfig
from tests.sequences import HYPER, LSTM, SPEC, make_sampler

T, B = 7, 2
SYMBOLS = torch.randint(SPEC.num_inputs, (T, B), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("modes", "latent_size", "members"), [(1, 0, 1), (4, 0, 3), (4, 5, 3), (1, 2, 6)])
def test_a_sampled_network_is_the_plain_one_with_its_weights(modes: int, latent_size: int, members: int) -> None:
    sampler = make_sampler(HYPER, modes, latent_size)
    together, _ = sampler(SYMBOLS.repeat(1, members), sampler.draw_latents(3, range(members)))
    weights = sampler.sample(3, range(members))
    plain = sampler.config.target.build().double().eval()
    for member, outputs in enumerate(together.unflatten(1, (members, B)).unbind(1)):
        plain.load_state_dict({name: stack[member] for name, stack in weights.items()})
        torch.testing.assert_close(plain(SYMBOLS)[0], outputs)


def test_an_lstm_is_sampled_too() -> None:
    sampler = make_sampler(LSTM)
    plain = sampler.config.target.build().double().eval()
    plain.load_state_dict({name: stack[0] for name, stack in sampler.sample(0, [0]).items()})
    torch.testing.assert_close(plain(SYMBOLS)[0], sampler(SYMBOLS, sampler.draw_latents(0, [0]))[0])


def test_steps_give_what_one_pass_gives() -> None:
    sampler = make_sampler(HYPER, 3, 2)
    latents = sampler.draw_latents(0, range(3))
    expected, _ = sampler(SYMBOLS.repeat(1, 3), latents)
    network = sampler.assemble(latents)
    seen: list[Tensor] = []
    step, states = network.begin(True, [seen.append, None]), network.open(3 * B)
    outputs: list[Tensor] = []
    with torch.no_grad():
        for symbols in SYMBOLS.repeat(1, 3):
            output, states = step(symbols, states)
            outputs.append(output)
    torch.testing.assert_close(torch.stack(outputs), expected)
    assert torch.stack(seen).shape == (T, 3 * B, 3, 4, 8)


def test_sequences_may_join_and_leave_between_steps() -> None:
    sampler = make_sampler(HYPER, 3, 2)
    latents = sampler.draw_latents(0, range(3))
    first, second = (sampler.assemble(latents[rows]) for rows in ([0], [0, 2]))
    states = first.open(1)
    with torch.no_grad():
        _, states = first.begin(True)(SYMBOLS[0, :1], states)
        joined: LayerStates = [
            tuple(torch.cat([old, new]) for old, new in zip(*layers, strict=True))
            for layers in zip(states, second.open(1), strict=True)
        ]
        outputs, _ = second.begin(True)(torch.stack([SYMBOLS[1, 0], SYMBOLS[0, 1]]), joined)
    alone, _ = sampler(SYMBOLS[:2, :1], latents[:1])
    other, _ = sampler(SYMBOLS[:1, 1:], latents[2:])
    torch.testing.assert_close(outputs, torch.stack([alone[1, 0], other[0, 0]]))


class TestDraws:
    def test_modes_take_turns_and_draws_differ(self) -> None:
        sampler = make_sampler(HYPER, 4, 3)
        latents = sampler.draw_latents(7, range(8))
        assert sorted(latents[:4, 0].tolist()) == sorted(latents[4:, 0].tolist()) == [0, 1, 2, 3]
        assert len({tuple(row) for row in latents.tolist()}) == 8
        assert torch.equal(sampler.draw_latents(7, [5]), latents[5:6])
        assert sampler.num_networks is None

    def test_without_latent_numbers_there_are_only_the_modes(self) -> None:
        sampler = make_sampler(HYPER, 4)
        assert sampler.num_networks == 4
        with pytest.raises(ValueError, match="an ensemble of 4 networks has members 0 to 3, but not 4"):
            sampler.draw_latents(0, range(5))

    def test_training_uses_each_mode_once(self) -> None:
        sampler = make_sampler(HYPER, 4, 3)
        first, second = sampler.draw_training_latents(0, 0), sampler.draw_training_latents(0, 1)
        assert first[:, 0].tolist() == second[:, 0].tolist() == [0, 1, 2, 3]
        assert not torch.equal(first, second)

    def test_a_mode_has_a_few_percent_of_the_parameters(self) -> None:
        size = type(HYPER)(256, hyper_size=32, embedding_size=4)
        target = type(make_sampler().config.target)(size, 65, 65)
        with torch.device("meta"):
            one, eight = (
                sum(p.numel() for p in SequenceSamplerConfig(target, modes).build().parameters()) for modes in (1, 8)
            )
        assert (eight - one) / 7 / one < 0.1

    def test_the_modes_of_a_new_sampler_differ(self) -> None:
        sampler = SequenceSamplerConfig(make_sampler().config.target, 3).build()
        outputs = sampler(SYMBOLS.repeat(1, 3), sampler.draw_latents(0, range(3)))[0].unflatten(1, (3, B))
        assert not torch.allclose(outputs[:, 0], outputs[:, 1], atol=1e-3)


def test_an_lstm_has_no_modes() -> None:
    with pytest.raises(ValueError, match="the weights of an LSTM are not generated"):
        make_sampler(LSTM, modes=2)


def test_dropout_acts_on_inputs_and_outputs_in_training_alone() -> None:
    network = make_sampler().config.target.build(Dropout(input=0.5, output=0.5))
    many = SYMBOLS.repeat(1, 50)
    assert not torch.equal(network(many)[0], network(many)[0])
    network.eval()
    assert torch.equal(network(many)[0], network(many)[0])
