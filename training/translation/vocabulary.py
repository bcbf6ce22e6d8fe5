"""Symbols of a language: characters, or byte pairs (Sennrich et al. 2016, "Neural Machine Translation of Rare Words").

Symbol 0 ends each sentence; a decoder also begins with it.
"""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from enum import StrEnum
from functools import cached_property
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from models.schema import STRICT
from training.runs.state import TrainingError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

END = 0
UNKNOWN = 1
"""A character that is not in the vocabulary."""

RARE = 2
"""A character that the training has fewer times is unknown, so that a network learns of unknown ones."""


class Level(StrEnum):
    """What symbols are."""

    CHARACTERS = "characters"
    BYTE_PAIRS = "bytepairs"


@dataclass(frozen=True, config=STRICT)
class Characters:
    """A symbol for each character."""

    characters: str
    """All that are known, in the order of their symbols."""
    level: Literal["characters"] = "characters"

    @property
    def size(self) -> int:
        """Number of symbols."""
        return UNKNOWN + 1 + len(self.characters)

    def encode(self, text: str) -> list[int]:
        """Symbols of a text, without the end."""
        return [self._numbers.get(character, UNKNOWN) for character in text]

    def decode(self, symbols: Sequence[int]) -> str:
        """The text of symbols, without the end; � where one is unknown."""
        return "".join("�" if symbol == UNKNOWN else self.characters[symbol - UNKNOWN - 1] for symbol in symbols)

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {character: number for number, character in enumerate(self.characters, UNKNOWN + 1)}


@dataclass(frozen=True, config=STRICT)
class BytePairs:
    """A symbol for each byte of UTF-8, and for each merged pair of symbols, so no text is unknown."""

    merges: tuple[str, ...]
    """Pairs of symbols with a space between them, in the order in which they are merged."""
    level: Literal["bytepairs"] = "bytepairs"

    @property
    def size(self) -> int:
        """Number of symbols."""
        return 1 + int(self._tokenizer.get_vocab_size())

    def encode(self, text: str) -> list[int]:
        """Symbols of a text, without the end."""
        return [symbol + 1 for symbol in self._tokenizer.encode(text).ids]

    def decode(self, symbols: Sequence[int]) -> str:
        """The text of symbols, without the end; � for bytes that are not UTF-8."""
        return str(self._tokenizer.decode([symbol - 1 for symbol in symbols]))

    @cached_property
    def _tokenizer(self) -> "Tokenizer":
        require_package("tokenizers")
        from tokenizers.pre_tokenizers import ByteLevel

        pairs = [(first, second) for first, _, second in (merge.partition(" ") for merge in self.merges)]
        symbols = dict.fromkeys([*sorted(ByteLevel.alphabet()), *(first + second for first, second in pairs)])
        return _make_tokenizer({symbol: number for number, symbol in enumerate(symbols)}, pairs)


Vocabulary = Annotated[Characters | BytePairs, Field(discriminator="level")]


def learn_vocabulary(texts: Iterable[str], level: Level, merges: int) -> Characters | BytePairs:
    """The symbols of a training set.

    Args:
        texts: its sentences of one language.
        level: what symbols are.
        merges: most merges of byte pairs.

    Raises:
        TrainingError: if byte pairs are wanted, and their package is missing.
    """
    if level is Level.CHARACTERS:
        counts = Counter(character for text in texts for character in text)
        return Characters("".join(sorted(character for character, count in counts.items() if count >= RARE)))
    require_package("tokenizers")
    from tokenizers.pre_tokenizers import ByteLevel
    from tokenizers.trainers import BpeTrainer

    alphabet = sorted(ByteLevel.alphabet())
    tokenizer = _make_tokenizer({}, [])
    trainer = BpeTrainer(vocab_size=len(alphabet) + merges, show_progress=False, initial_alphabet=alphabet)
    tokenizer.train_from_iterator(texts, trainer)
    return BytePairs(tuple(" ".join(pair) for pair in json.loads(tokenizer.to_str())["model"]["merges"]))


def require_package(name: str) -> None:
    """Checks that a package is installed which only translation needs.

    Raises:
        TrainingError: if it is missing.
    """
    if find_spec(name) is None:
        raise TrainingError(f"{name} is needed: pip install 'hyperdraw-server[translation]'")


def _make_tokenizer(symbols: dict[str, int], merges: list[tuple[str, str]]) -> "Tokenizer":
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    tokenizer = Tokenizer(models.BPE(symbols, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer
