"""Drawings by strokes of a pen: two publications of sketch-rnn's authors, and a user's own.

Shapes: P points of a drawing, T steps, B drawings of a batch.
"""

import hashlib
import json
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from pickletools import genops
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from models.sequences.checkpoint import SequenceConfig
from models.sequences.drawing import read_drawing
from models.sequences.strokes import LARGEST_EXTENT, LARGEST_SCALE, LEAST_SCALE, StrokesSpec
from training.data.dataset import DatasetError
from training.data.published import Publication, PublishedFile

SKETCH_RNN = "https://raw.githubusercontent.com/hardmaru/sketch-rnn-datasets/7c854dee76090aa18c321c7af2cede815bbd475e/"

KANJI = Publication(
    folder="sketch-rnn/kanji",
    url=f"{SKETCH_RNN}kanji/",
    files=(PublishedFile("short_kanji.npz", "f6855ba03d58f44830499dd98e7cb99f46c970651f4f16f2d886398f34709914"),),
)

OMNIGLOT = Publication(
    folder="sketch-rnn/omniglot",
    url=f"{SKETCH_RNN}omniglot/",
    files=(PublishedFile("omniglot.npz", "bd5277621a8c577919491dfa729a59a8b5c216cff9e4fda9cef532db29f120c7"),),
)

STRETCH = 0.1
"""Largest change of a drawing's width, and of its height, in training."""

POOL = 20
"""Batches whose drawings are sorted by length together."""

LEAST_DRAWINGS = 10
"""Fewest drawings of a user's file, so that each split has one."""

MOST_POINTS = 4096
"""Most points of a user's drawing."""


@dataclass(frozen=True)
class Drawings:
    """Drawings in splits, each float32 [P, 3]: Δx, Δy, and 1 if the pen is lifted after the point, else 0."""

    name: str
    spec: StrokesSpec
    """Its scale is that of the training set."""
    train: list[Tensor]
    validation: list[Tensor]
    test: list[Tensor]
    licence: str | None = None
    """Licence of the data, and whom it names."""


class Batch(NamedTuple):
    """Drawings side by side, padded with zeros."""

    inputs: Tensor
    """What a network reads, float32 [T, B, 3]."""
    targets: Tensor
    """The points that follow, in the data's unit, float32 [T, B, 3]."""
    last: Tensor
    """Whether a point is the drawing's last, bool [T, B]."""
    mask: Tensor
    """Whether there is a point, bool [T, B]."""
    lengths: Tensor
    """Points of each drawing, int64 [B]."""


def load_kanji(data: Path) -> Drawings:
    """Kanji of KanjiVG, drawn as its vectors say: 10,000 to train, 600 to validate, 500 to test.

    Raises:
        DatasetError: if the file is damaged, or missing and not available.
    """
    licence = "CC BY-SA 3.0; KanjiVG, © Ulrich Apel; as points by David Ha"
    return _load_published("kanji", KANJI, data, licence)


def load_omniglot(data: Path) -> Drawings:
    """Characters of 50 alphabets, drawn by people: 30,000 to train, 1,000 to validate, 1,000 to test.

    Raises:
        DatasetError: if the file is damaged, or missing and not available.
    """
    return _load_published("omniglot", OMNIGLOT, data, "MIT; Omniglot, © 2015 Brenden Lake; as points by David Ha")


def load_own_drawings(path: Path) -> Drawings:
    """A user's drawings, divided at random: eight tenths to train, a tenth to validate, a tenth to test.

    Args:
        path: a text file with a drawing on each line, a JSON list of points [dx, dy, lifted].

    Raises:
        DatasetError: if the file cannot be used. The message names the line.
    """
    try:
        content = path.read_bytes()
        lines = content.decode().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path} cannot be read as text in UTF-8: {error}") from error
    drawings = [_read_line(path, number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if len(drawings) < LEAST_DRAWINGS:
        raise DatasetError(f"{path} has {len(drawings)} drawings, but at least {LEAST_DRAWINGS} are needed")
    order = torch.randperm(len(drawings), generator=torch.Generator().manual_seed(0)).tolist()
    tenth = len(drawings) // 10
    test, validation, train = (
        [drawings[i] for i in part] for part in (order[:tenth], order[tenth : 2 * tenth], order[2 * tenth :])
    )
    name = f"{path.name}@{hashlib.sha256(content).hexdigest()[:12]}"
    return Drawings(name, _describe(path, train), train, validation, test)


def _read_line(path: Path, number: int, line: str) -> Tensor:
    try:
        return read_drawing(json.loads(line), StrokesSpec(LARGEST_SCALE, LARGEST_EXTENT, MOST_POINTS))
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"line {number} of {path} is not a drawing: {error}") from error


def _load_published(name: str, publication: Publication, data: Path, licence: str) -> Drawings:
    (path,) = publication.locate(data)
    train, validation, test = read_drawings(path)
    return Drawings(name, _describe(path, train), train, validation, test, licence)


def _describe(path: Path, train: Sequence[Tensor]) -> StrokesSpec:
    """Drawings of these offsets and sizes. The most points are the power of two above the longest one's."""
    scale = float(torch.cat(list(train))[:, :2].double().std(correction=0))
    if not LEAST_SCALE <= scale <= LARGEST_SCALE:
        raise DatasetError(
            f"the offsets in {path} have a standard deviation of {scale:g}. "
            f"Scale the drawings so that it is from {LEAST_SCALE:g} to {LARGEST_SCALE:g}"
        )
    paths = [drawing[:, :2].double().cumsum(0) for drawing in train]
    extent = float(torch.stack([(path.amax(0) - path.amin(0)).max() for path in paths]).median())
    return StrokesSpec(scale, extent or scale, 1 << max(map(len, train)).bit_length())


def read_drawings(path: Path) -> tuple[list[Tensor], ...]:
    """Reads an npz file of sketch-rnn: drawings to train, to validate and to test, each float32 [P, 3].

    Its arrays are pickles of arrays. They are never unpickled: only the bytes of the inner arrays are looked up.

    Raises:
        DatasetError: if the file has another format.
    """
    try:
        with zipfile.ZipFile(path) as file:
            return tuple(_find_arrays(file.read(f"{split}.npy")) for split in ("train", "valid", "test"))
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise DatasetError(f"{path} is not a file of drawings as sketch-rnn has them: {error}") from error


def _find_arrays(content: bytes) -> list[Tensor]:
    """The arrays in an array of objects, of rows of three 16-bit numbers each.

    In a pickle of protocol 2 that Python 2 wrote, as sketch-rnn's are, the bytes of an array are the string that
    follows False, for an array that is stored row by row.
    """
    stream = BytesIO(content)
    if np.lib.format.read_magic(stream) != (1, 0):
        raise ValueError("unknown version of NumPy's format")
    shape, _, kind = np.lib.format.read_array_header_1_0(stream)
    arrays = []
    for (before, _, _), (_, text, _) in pairwise(genops(stream)):
        if before.name == "NEWFALSE" and isinstance(text, str):
            arrays.append(np.frombuffer(text.encode("latin-1"), "<i2").reshape(-1, 3))
    if kind != np.dtype(object) or shape != (len(arrays),):
        raise ValueError(f"{len(arrays)} drawings were found, not {shape}")
    return [torch.from_numpy(array.astype(np.float32)) for array in arrays]


def make_batches(
    drawings: Sequence[Tensor],
    spec: StrokesSpec,
    batch_size: int,
    generator: torch.Generator | None = None,
    stretch: float = STRETCH,
) -> Iterator[Batch]:
    """Divides drawings into batches of like length. Each drawing is in one.

    Args:
        drawings: each float32 [P, 3].
        spec: what a network reads of them.
        batch_size: most drawings of a batch.
        generator: for training, shuffles drawings and batches, and draws the factors of width and height. Without one,
            drawings keep their size, and are sorted by length.
        stretch: largest change of width and height, each by itself, as a share.
    """
    for rows in _sort_batches([len(drawing) for drawing in drawings], batch_size, generator):
        lengths = torch.tensor([len(drawings[row]) for row in rows])
        targets = pad_sequence([drawings[row] for row in rows])
        if generator:
            factors = 1 + stretch * (2 * torch.rand(len(rows), 2, generator=generator) - 1)
            targets[..., :2] *= factors
        steps = torch.arange(len(targets))[:, None]
        mask = steps < lengths
        inputs = spec.make_inputs(targets) * mask[..., None]
        yield Batch(inputs, targets, steps == lengths - 1, mask, lengths)


def _sort_batches(lengths: list[int], batch_size: int, generator: torch.Generator | None) -> Iterator[list[int]]:
    """Rows of each batch. In training, drawings are sorted within random pools, so that batches are never the same."""
    count = len(lengths)
    order = torch.randperm(count, generator=generator) if generator else torch.arange(count)
    pool = POOL * batch_size if generator else max(count, 1)
    batches = []
    for rows in order.split(pool):
        by_length = sorted(rows.tolist(), key=lengths.__getitem__)
        batches += [by_length[start : start + batch_size] for start in range(0, len(by_length), batch_size)]
    turns = torch.randperm(len(batches), generator=generator).tolist() if generator else range(len(batches))
    for turn in turns:
        yield batches[turn]


DRAWINGS: dict[str, Callable[[Path], Drawings]] = {"kanji": load_kanji, "omniglot": load_omniglot}
"""Published drawings by name; each is given the folder that holds the datasets' files or receives them."""


def load_training_drawings(config: SequenceConfig, data: Path) -> Drawings:
    """The drawings that a model was trained on.

    Args:
        config: the model's.
        data: the user's own file, or the folder that holds the datasets' files or receives them.

    Raises:
        DatasetError: if the drawings cannot be read or are not what they were.
    """
    name = config.training.dataset
    if name in DRAWINGS:
        return DRAWINGS[name](data)
    if data.is_dir() or not data.exists():
        raise DatasetError(f"the model was trained on your own drawings, {name}; pass the file with --data")
    drawings = load_own_drawings(data)
    if drawings.name.rpartition("@")[2] != name.rpartition("@")[2]:
        raise DatasetError(f"{data} does not hold the drawings that the model was trained on, {name}")
    return drawings
