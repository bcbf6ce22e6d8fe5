"""Files of sentence pairs, and their division into training, validation and test."""

import gzip
import hashlib
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from training.data.dataset import DatasetError
from training.data.image_tree import show

MOST_RATIO = 10
"""A target may have so many times the characters that a source may have."""

PARTS, TEST_PARTS, VALIDATION_PARTS = 20, 2, 1
"""Pairs are divided into so many parts by their sources; the first parts test, and the next ones validate."""

Pair = tuple[str, str]
"""A sentence and its translation."""


@dataclass(frozen=True)
class Corpus:
    """Sentence pairs, divided."""

    name: str
    """Name of the file."""
    sha256: str
    """Digest of the pairs that were taken."""
    train: list[Pair]
    validation: list[Pair]
    test: list[Pair]


def load_corpus(path: Path, longest: int) -> Corpus:
    """Reads pairs, and leaves out those that are too long.

    A pair's part depends on its source alone, so pairs with the same source are in the same part, whatever the seed.

    Args:
        path: UTF-8 text, gzipped if its name ends with `.gz`; each line is a source, a tab and a target.
        longest: most characters of a source. A target may have ten times as many.

    Raises:
        DatasetError: if the file cannot be read, if a line is not a pair, or if a part is empty.
    """
    pairs = [pair for pair in _read_pairs(path) if len(pair[0]) <= longest and len(pair[1]) <= MOST_RATIO * longest]
    parts: list[list[Pair]] = [[] for _ in range(PARTS)]
    for pair in pairs:
        parts[int.from_bytes(hashlib.sha256(pair[0].encode()).digest()[:8]) % PARTS].append(pair)
    held_out = TEST_PARTS + VALIDATION_PARTS
    test, validation, train = (
        [pair for part in chosen for pair in part]
        for chosen in (parts[:TEST_PARTS], parts[TEST_PARTS:held_out], parts[held_out:])
    )
    if not (test and validation and train):
        raise DatasetError(
            f"{show(path)} has {len(pairs)} pairs with sources of at most {longest} characters, which are too few. A "
            "tenth tests and a twentieth validates, so at least some hundred different sources are needed"
        )
    digest = hashlib.sha256("".join(f"{source}\t{target}\n" for source, target in pairs).encode()).hexdigest()
    return Corpus(path.name, digest, train, validation, test)


def _read_pairs(path: Path) -> Iterator[Pair]:
    try:
        content = path.read_bytes()
        content = gzip.decompress(content) if path.suffix == ".gz" else content
    except (OSError, EOFError, zlib.error) as error:
        raise DatasetError(f"{show(path)} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    lines = content.removeprefix(b"\xef\xbb\xbf").removesuffix(b"\n").split(b"\n")
    for number, line in enumerate(lines, 1):
        where = f"{show(path)}, line {number}:"
        try:
            fields = line.decode().strip("\r").split("\t")
        except UnicodeDecodeError as error:
            raise DatasetError(f"{where} byte {error.start + 1} is not UTF-8. Convert the file to UTF-8") from error
        if len(fields) != 2:
            raise DatasetError(f"{where} a source, a tab and a target are needed, but there are {len(fields) - 1} tabs")
        source, target = (field.strip() for field in fields)
        if not source or not target:
            raise DatasetError(f"{where} the {'target' if source else 'source'} is empty")
        yield source, target
