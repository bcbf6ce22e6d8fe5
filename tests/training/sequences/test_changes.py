"""When weights change."""

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from typer.testing import CliRunner

from models.sequences.checkpoint import load_sequence_checkpoint, save_sequence_checkpoint
from models.sequences.hyper_lstm import HyperLSTMCell
from tests.sequences import HYPER, LSTM, SPEC, describe, make_model, make_sampler
from training.__main__ import app
from training.sequences.changes import classify, measure_changes


def test_kinds_of_characters() -> None:
    assert classify("Don't [a\n") == [
        "first letter",
        "inside a word",
        "inside a word",
        "punctuation and brackets",
        "inside a word",
        "space",
        "punctuation and brackets",
        "first letter",
        "line end",
    ]


def test_a_change_is_that_of_the_weights_of_the_step(tmp_path: Path) -> None:
    sampler = make_sampler(HYPER, 2).float()
    save_sequence_checkpoint(tmp_path, describe(sampler), sampler, "float32")
    checkpoint = load_sequence_checkpoint(tmp_path)
    passages = torch.randint(SPEC.num_inputs, (12, 6), generator=torch.Generator().manual_seed(0))
    found = measure_changes(checkpoint, passages, 0)
    network = checkpoint.sampler.assemble(checkpoint.sampler.draw_latents(0, [0]))
    (cell, _) = network.cells
    assert isinstance(cell, HyperLSTMCell)
    read = torch.cat([torch.tensor([SPEC.start_number]), passages[11, :-1]])
    scales = network.recurrent.trace(read[:, None]).scales[0, :, 0, 0]
    weights = scales[..., None] * cell.weight_h.view(4, 8, 8)  # [T, 4, H, H]
    torch.testing.assert_close(found[11, 1:], weights.diff(dim=0).flatten(2).norm(dim=-1))
    assert not found[11, 0].any()


def test_the_service_says_the_same() -> None:
    model = make_model(2)
    text = SPEC.encode("abba cab")
    sequence = model.open(5, [0], text, changes=True)
    model.live.arrange([sequence])
    while not sequence.finished:
        model.live.advance()
    expected = measure_changes(model.checkpoint, torch.tensor([text]), 5)[0]
    torch.testing.assert_close(torch.tensor([element.changes for element in sequence.fresh]).to(expected), expected)


def test_the_command_writes_a_table_and_a_figure(tmp_path: Path) -> None:
    own = tmp_path / "own.txt"
    own.write_text("abc d\n" * 2_000 + "\N{SNOWMAN}")
    for name, size in (("hyper", HYPER), ("lstm", LSTM)):
        sampler = make_sampler(size).float()
        save_sequence_checkpoint(tmp_path / name, describe(sampler), sampler, "float32")
    done = CliRunner().invoke(app, ["weight-changes", str(tmp_path / "hyper"), "--data", str(own), "--quiet", "--json"])
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    shares = {"first letter": 1 / 3, "inside a word": 1 / 3, "space": 1 / 6, "line end": 1 / 6}
    assert report["counts"] == {kind: pytest.approx(500 * share, abs=1) for kind, share in shares.items()}
    assert set(report["intensities"]["space"]) == {"input", "forget", "output", "candidate"}
    figure = ElementTree.fromstring((tmp_path / "hyper" / "figures" / "changes.svg").read_text())
    assert len(figure.findall("{http://www.w3.org/2000/svg}text")) == 500
    refused = CliRunner().invoke(app, ["weight-changes", str(tmp_path / "lstm"), "--data", str(own)])
    assert refused.exit_code == 1
    assert "the weights of an LSTM do not change" in refused.output
