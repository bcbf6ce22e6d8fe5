"""Files of pairs, and how they are divided."""

import gzip
import random
from pathlib import Path

import pytest

from training.data.dataset import DatasetError
from training.translation.pairs import load_corpus

PAIRS = [(f"{number} apples", f"{number} Äpfel") for number in range(600)]


def write(path: Path, pairs: list[tuple[str, str]]) -> Path:
    text = "".join(f"{source}\t{target}\n" for source, target in pairs).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return path


def test_the_division_depends_on_sources_alone(tmp_path: Path) -> None:
    corpus = load_corpus(write(tmp_path / "a.tsv", PAIRS), 120)
    assert sorted([*corpus.train, *corpus.validation, *corpus.test]) == sorted(PAIRS)
    # Each source is in a part by a fair hash: outside of these bounds with a chance below 10⁻⁶.
    assert 25 < len(corpus.test) < 100
    assert 8 < len(corpus.validation) < 60
    other = [(source, "so viele") for source, _ in PAIRS]
    random.Random(0).shuffle(other)
    again = load_corpus(write(tmp_path / "b.tsv", [*PAIRS, *other]), 120)
    for ours, theirs in ((corpus.test, again.test), (corpus.validation, again.validation)):
        assert {source for source, _ in ours} == {source for source, _ in theirs}
        assert len(theirs) == 2 * len(ours)


def test_gzipped_and_windows_files_hold_the_same_pairs(tmp_path: Path) -> None:
    plain = load_corpus(write(tmp_path / "a.tsv", PAIRS), 120)
    zipped = load_corpus(write(tmp_path / "a.tsv.gz", PAIRS), 120)
    (tmp_path / "b.tsv").write_bytes(b"\xef\xbb\xbf" + (tmp_path / "a.tsv").read_bytes().replace(b"\n", b"\r\n"))
    windows = load_corpus(tmp_path / "b.tsv", 120)
    assert plain.sha256 == zipped.sha256 == windows.sha256
    assert plain.train == zipped.train == windows.train


def test_long_pairs_are_left_out(tmp_path: Path) -> None:
    long = [("x" * 21, "short"), ("short", "x" * 201)]
    kept = [("y" * 20, "z" * 200)]
    corpus = load_corpus(write(tmp_path / "a.tsv", [*PAIRS, *long, *kept]), 20)
    assert sorted([*corpus.train, *corpus.validation, *corpus.test]) == sorted([*PAIRS, *kept])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"no tab", "a.tsv, line 2: a source, a tab and a target are needed, but there are 0 tabs"),
        (b"a\tb\tc", "line 2: a source, a tab and a target are needed, but there are 2 tabs"),
        (b"", "line 2: a source, a tab and a target are needed"),
        (b" \tb", "line 2: the source is empty"),
        (b"a\t", "line 2: the target is empty"),
        (b"caf\xe9\tb", "line 2: byte 4 is not UTF-8"),
    ],
)
def test_bad_lines_are_named(tmp_path: Path, line: bytes, message: str) -> None:
    (tmp_path / "a.tsv").write_bytes(b"one\tuno\n" + line + b"\ntwo\tdos\n")
    with pytest.raises(DatasetError, match=message):
        load_corpus(tmp_path / "a.tsv", 120)


def test_files_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"none\.tsv cannot be read: No such file"):
        load_corpus(tmp_path / "none.tsv", 120)
    (tmp_path / "text.tsv.gz").write_bytes(b"one\tuno\n")
    with pytest.raises(DatasetError, match="cannot be read: Not a gzipped file"):
        load_corpus(tmp_path / "text.tsv.gz", 120)
    cut = write(tmp_path / "cut.tsv.gz", PAIRS)
    cut.write_bytes(cut.read_bytes()[:-20])
    with pytest.raises(DatasetError, match="cannot be read"):
        load_corpus(cut, 120)
    with pytest.raises(DatasetError, match="has 3 pairs with sources of at most 120 characters, which are too few"):
        load_corpus(write(tmp_path / "few.tsv", PAIRS[:3]), 120)
