"""Training: batches, what is learned, and going on after an interrupt."""

from itertools import islice
from pathlib import Path

import pytest
import torch

from tests.training.translation.networks import start_run, write_pairs
from training.runs.state import TrainingError
from training.translation.batches import sort_batches, stream_batches
from training.translation.measures import Beam, translate_texts
from training.translation.network import CellKind

LENGTHS = [(3 + number % 17, 2 + number % 17 + number % 3) for number in range(200)]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pairs(tmp_path_factory.mktemp("pairs") / "numbers.tsv")


def test_batches_hold_all_pairs_once_in_each_pass() -> None:
    in_a_pass = 0
    seen: list[int] = []
    for batch in stream_batches(LENGTHS, 300, 0):
        seen += batch
        in_a_pass += 1
        assert len(batch) * sum(max(LENGTHS[index][side] for index in batch) for side in (0, 1)) <= 300
        if len(seen) == len(LENGTHS):
            break
    assert sorted(seen) == list(range(len(LENGTHS)))
    assert in_a_pass < 1.5 * sum(map(sum, LENGTHS)) / 300  # little padding
    second = [index for batch in islice(stream_batches(LENGTHS, 300, 0, in_a_pass), in_a_pass) for index in batch]
    assert seen != second
    assert seen[:50] != [index for batch in islice(stream_batches(LENGTHS, 300, 1), in_a_pass) for index in batch][:50]


def test_batches_are_a_function_of_the_seed_and_their_number() -> None:
    whole = list(islice(stream_batches(LENGTHS, 300, 7), 60))
    assert whole[41:] == list(islice(stream_batches(LENGTHS, 300, 7, 41), 19))


def test_a_pair_that_is_too_long_for_a_batch_is_one() -> None:
    assert sort_batches([(2, 2), (90, 90), (2, 2)], 10) == [[0, 2], [1]]


@pytest.mark.parametrize("cell", CellKind)
def test_another_language_is_learned(pairs: Path, cell: CellKind) -> None:
    run = start_run(pairs, cell, updates=50, hidden=24)
    before = run.validate().nats
    while not run.finished:
        run.step()
    assert run.validate().nats < before / 10
    sources, targets = zip(*run.corpus.test, strict=True)
    found = translate_texts(run.best.eval(), sources, Beam(3))
    assert sum(map(str.__eq__, found, targets)) / len(targets) >= 0.8


def test_a_run_that_was_saved_goes_on_unchanged(pairs: Path, tmp_path: Path) -> None:
    whole, first, second = (start_run(pairs, CellKind.HYPER_LSTM, 8, hidden=8, dropout=0.3) for _ in range(3))
    losses = [whole.step() for _ in range(3)]
    whole.validate()
    losses += [whole.step() for _ in range(5)]
    assert [first.step() for _ in range(3)] == losses[:3]
    first.validate()
    first.save(tmp_path / "state.safetensors")
    torch.rand(3)  # what others draw changes nothing
    second.load(tmp_path / "state.safetensors")
    assert second.validations == first.validations
    assert [second.step() for _ in range(5)] == losses[3:]
    assert second.finished
    assert second.symbols == whole.symbols
    for ours, theirs in ((second.network, whole.network), (second.best, whole.best)):
        for name, parameter in ours.state_dict().items():
            assert parameter.equal(theirs.state_dict()[name]), name


def test_the_state_of_another_run_is_refused(pairs: Path, tmp_path: Path) -> None:
    start_run(pairs, CellKind.LSTM, 8, hidden=8).save(tmp_path / "state.safetensors")
    with pytest.raises(TrainingError, match=r"another run, with cell lstm, hidden 8, hyper 2, symbol 4\. Repeat"):
        start_run(pairs, CellKind.HYPER_LSTM, 8, hidden=12).load(tmp_path / "state.safetensors")


def test_the_best_network_is_kept(pairs: Path) -> None:
    run = start_run(pairs, CellKind.LSTM, updates=20, hidden=8)
    for _ in range(10):
        run.step()
    best = run.validate()
    kept = {name: parameter.clone() for name, parameter in run.network.state_dict().items()}
    with torch.no_grad():
        run.network.readout.bias.normal_(0, 10)
    assert run.validate().nats > best.nats
    assert run.best_validation == best
    for name, parameter in run.best.state_dict().items():
        assert parameter.equal(kept[name]), name


def test_validation_does_not_depend_on_batches(pairs: Path) -> None:
    runs = [start_run(pairs, CellKind.LSTM, 4, hidden=8, batch=batch) for batch in (50, 5000)]
    first, second = (run.validate().nats for run in runs)
    assert first == pytest.approx(second, rel=1e-5)


def test_an_infinite_loss_ends_the_training(pairs: Path) -> None:
    run = start_run(pairs, CellKind.LSTM, updates=20, hidden=8)
    with torch.no_grad():
        run.network.readout.bias.fill_(torch.nan)
    with pytest.raises(TrainingError, match=r"the loss became nan at update 1\. Choose a lower --rate"):
        run.step()
    assert run.updates == 0
