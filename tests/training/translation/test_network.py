"""The encoder, the decoder and their attention."""

import pytest
import torch

from tests.training.translation.networks import make_config, make_network
from training.translation.network import Batch, CellKind, Texts, Translator, collate
from training.translation.vocabulary import END

CPU = torch.device("cpu")
SOURCES = [[2, 3, 4, 5], [6, 2], [3, 3, 3, 6, 5, 4]]
TARGETS = [[4, 5], [6, 3, 2, 2], [5]]


@pytest.fixture(params=CellKind)
def network(request: pytest.FixtureRequest) -> Translator:
    return make_network(make_config(request.param))


def make_batch(sources: list[list[int]], targets: list[list[int]]) -> Batch:
    return Batch(collate(sources, CPU), collate(targets, CPU))


def test_sentences_are_padded_with_ends() -> None:
    texts = collate([[5, 6], [7]], CPU)
    assert texts.symbols.tolist() == [[5, 6, END], [7, END, END]]
    assert texts.lengths.tolist() == [3, 2]
    assert texts.real.tolist() == [[True, True, True], [True, True, False]]


def test_a_batch_gives_what_its_sentences_give_alone(network: Translator) -> None:
    together = network(make_batch(SOURCES, TARGETS))
    alone = [network(make_batch([source], [target])) for source, target in zip(SOURCES, TARGETS, strict=True)]
    assert len(together) == sum(len(target) + 1 for target in TARGETS)
    torch.testing.assert_close(together, torch.cat(alone))


def test_the_encoder_reads_in_both_directions(network: Translator) -> None:
    """Of one sentence: forwards, and the turned sentence, whose outputs are turned back."""
    sources = collate(SOURCES[:1], CPU)
    memory, _ = network.encode(sources)
    embedded = network.source_symbols(sources.symbols).transpose(0, 1)
    onward, backward = network.onward(embedded)[0], network.backward_(embedded.flip(0))[0].flip(0)
    torch.testing.assert_close(memory.values[0], torch.cat([onward, backward], -1)[:, 0])


def test_symbols_depend_on_those_before_and_on_the_whole_source(network: Translator) -> None:
    first = network(make_batch([[2, 3, 4]], [[4, 5, 6]])).log_softmax(-1)
    later = network(make_batch([[2, 3, 4]], [[4, 5, 2]])).log_softmax(-1)
    torch.testing.assert_close(first[:3], later[:3])
    assert (first[3] - later[3]).abs().max() > 1e-3
    for changed in ([5, 3, 4], [2, 3, 5], [2, 3, 4, 4]):
        other = network(make_batch([changed], [[4, 5, 6]])).log_softmax(-1)
        assert ((first - other).abs().amax(1) > 1e-4).all()


def test_steps_give_what_a_window_gives(network: Translator) -> None:
    expected = network(make_batch(SOURCES, [[4, 5, 2]] * 3)).log_softmax(-1).view(3, 4, -1)
    memory, (h, c) = network.encode(collate(SOURCES, CPU))
    state = h[0][:, None].expand(-1, 2, -1), c[0][:, None].expand(-1, 2, -1)  # two equal hypotheses
    for step, symbol in enumerate([END, 4, 5, 2]):
        logs, state = network.advance(torch.full((3, 2), symbol), state, memory)
        torch.testing.assert_close(logs, expected[:, step, None].expand_as(logs))


def test_gradients_reach_all_parameters(network: Translator) -> None:
    network(make_batch(SOURCES, TARGETS)).square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


def test_dropout_is_for_training_alone() -> None:
    config = make_config(CellKind.LSTM)
    network = Translator(type(config)(**(vars(config) | {"dropout": 0.5})))
    batch = make_batch(SOURCES, TARGETS)
    assert network.eval()(batch).equal(network(batch))
    assert not network.train()(batch).equal(network(batch))


def test_a_memory_is_selected_by_sentence(network: Translator) -> None:
    sources = collate(SOURCES, CPU)
    memory = network.encode(sources)[0].select(torch.tensor([2, 0]))
    chosen = network.encode(Texts(sources.symbols[[2, 0]], sources.lengths[[2, 0]]))[0]
    torch.testing.assert_close(memory.values, chosen.values)
    torch.testing.assert_close(memory.keys, chosen.keys)
    assert memory.real.equal(chosen.real)
