"""The examples of the shipped checkpoints."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from models.checkpoint import load_checkpoint
from models.examples import load_examples
from models.inputs.pixels import decode_image
from models.model import Model
from tests import ROOT
from tests.shipped_examples import draw_pictures, load_digits

MODELS = sorted((ROOT / "checkpoints").glob("mnist-*")) + sorted((ROOT / "checkpoints").glob("cifar10-*"))

SHOWN = {
    "seven": "7",
    "three": "3",
    "two": "2",
    "airplane": "airplane",
    "ship": "ship",
    "car": "automobile",
    "frog": "frog",
    "horse": "horse",
}
"""Classes of the examples that have one, by the file's name."""

ROUNDING = 3
"""Most by which a pixel may differ, of 255, if another version of Pillow draws it."""


def decode(content: bytes) -> NDArray[np.int_]:
    return np.array(Image.open(io.BytesIO(content))).astype(int)


@pytest.mark.parametrize("directory", MODELS, ids=lambda directory: directory.name)
def test_models_know_their_examples_and_flag_the_foreign_ones(directory: Path) -> None:
    checkpoint = load_checkpoint(directory)
    examples = load_examples(directory, checkpoint.config.input)
    model = Model(checkpoint, examples)
    size = min(20, model.default_size)
    images = [decode_image(example.content, model.input, 10**6, "an example") for example in examples]  # type: ignore[arg-type]
    prediction = model.interpret(model.evaluate(model.draw(7, range(size)), model.prepare(torch.stack(images))))
    answers = [model.task.outputs[label] for label in prediction.probabilities.argmax(-1).tolist()]
    names = [Path(example.entry.file).stem for example in examples]
    right = {name: answer for name, answer in zip(names, answers, strict=True) if name in SHOWN}
    assert len(right) >= 3
    assert right == {name: SHOWN[name] for name in right}
    if model.num_networks == 1:
        return  # it is sure of everything
    assert model.calibration is not None
    judged = model.calibration.judge(prediction)["out_of_distribution"].flagged.tolist()
    flagged = dict(zip(names, judged, strict=True))
    flagged.pop("ambiguous", None)  # resembles training examples, so networks that agree on it may raise no flag
    assert flagged == {name: name not in SHOWN for name in flagged}


@pytest.mark.parametrize("directory", MODELS, ids=lambda directory: directory.name)
def test_the_script_draws_them(directory: Path) -> None:
    examples = load_examples(directory, load_checkpoint(directory).config.input)
    drawn = draw_pictures() if directory.name.startswith("cifar10") else load_digits()
    assert [example.entry for example in examples] == [example.entry for example in drawn]
    for example, again in zip(examples, drawn, strict=True):
        assert np.abs(decode(example.content) - decode(again.content)).max() <= ROUNDING
    assert sum(len(example.content) for example in examples) < 20_000
