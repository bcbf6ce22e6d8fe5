"""The client where ensembles grow until answers are settled."""

import json
from collections.abc import Iterator
from pathlib import Path

import hyperdraw
import numpy as np
import pytest
import torch
from hyperdraw.__main__ import app as command_line
from typer.testing import CliRunner

from models.checkpoint import load_checkpoint, save_calibration
from models.inputs.pixels import encode_image
from models.model import Model
from service.app import create_app
from service.settings import Settings
from tests.conftest import serve
from tests.engine import draw_images
from tests.growing import SIZES, add_rules


@pytest.fixture(scope="module")
def growing(checkpoints: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, torch.Tensor]]:
    """Address of a service whose model has a rule, and images that are settled in every round."""
    store = tmp_path_factory.mktemp("growing")
    for file in (checkpoints / "digits").iterdir():
        if file.is_file():
            (store / "digits").mkdir(exist_ok=True)
            (store / "digits" / file.name).write_bytes(file.read_bytes())
    images = draw_images(Model(load_checkpoint(store / "digits")), 60)
    model, _ = add_rules(Model(load_checkpoint(store / "digits")), images)
    assert model.calibration is not None
    save_calibration(store / "digits", model.calibration, model.checkpoint.density)
    with serve(create_app(Settings(checkpoints=store, max_inputs=25))) as address:
        yield address, images


def test_answers_say_how_many_networks_each_input_took(growing: tuple[str, torch.Tensor]) -> None:
    """60 images go in three requests; what is joined is what each of them got, and so is what is picked."""
    address, images = growing
    with hyperdraw.Client(address) as client:
        answer = client.predict(list(map(encode_image, images)), ensemble_size="auto", seed=7)
        assert isinstance(answer, hyperdraw.Classification)
        sizes = np.asarray(answer.ensemble_size)
        assert set(sizes.tolist()) == set(SIZES)
        assert len(answer) == 60
        for size in SIZES:
            fixed = client.predict(list(map(encode_image, images)), ensemble_size=size, seed=7)
            assert isinstance(fixed, hyperdraw.Classification)
            own = sizes == size
            np.testing.assert_allclose(answer.probabilities[own], fixed.probabilities[own], atol=1e-5)
        for i, one in enumerate(answer):
            assert one.ensemble_size == sizes[i]
            for flag, judged in one.flags.items():
                assert judged.threshold == np.asarray(answer.flags[flag].threshold)[i]
                assert bool(judged.flagged) == (judged.scores > judged.threshold)
                assert judged.calibrated_ensemble_size == one.ensemble_size
        with pytest.raises(hyperdraw.errors.InvalidRequest, match="Ensembles that grow have different members"):
            client.predict(encode_image(images[0]), ensemble_size="auto", members=True)


def test_the_command_shows_and_writes_them(growing: tuple[str, torch.Tensor], tmp_path: Path) -> None:
    address, images = growing
    for i, image in enumerate(images[:20]):
        (tmp_path / f"{i:02}.png").write_bytes(encode_image(image))
    asked = ["predict", str(tmp_path), "--url", address, "--ensemble-size", "auto", "--seed", "7"]
    shown = CliRunner().invoke(command_line, asked)
    assert shown.exit_code == 0, shown.output
    assert "5 to 100 networks of digits, seed 7" in shown.output
    assert "votes" not in shown.output
    said = json.loads(CliRunner().invoke(command_line, [*asked, "--json"]).output)
    table = tmp_path / "answers.jsonl"
    written = CliRunner().invoke(command_line, [*asked, "--out", str(table)])
    assert written.exit_code == 0, written.output
    rows = [json.loads(line) for line in table.read_text().splitlines()]
    assert [row["ensemble_size"] for row in rows] == said["ensemble_size"]


@pytest.mark.parametrize("size", ["0", "-3", "most", "1.5"])
def test_other_sizes_are_refused(size: str) -> None:
    refused = CliRunner().invoke(command_line, ["predict", "x.png", "--ensemble-size", size])
    assert refused.exit_code == 2
    said = " ".join(refused.output.replace("│", "").split())
    assert f"{size} is neither a number of networks, from 1 on, nor auto" in said
