"""Symbols: characters and byte pairs."""

import pytest
from pydantic import TypeAdapter

from training.translation.vocabulary import END, UNKNOWN, Characters, Level, Vocabulary, learn_vocabulary

TEXTS = ["seventy-seven", "seventeen", "seven", "Ñandú ü"] * 2
STRANGE = ["", " two  spaces ", "7 ☃ \u0000", "né\u0301", "the\ttab"]


def test_characters() -> None:
    vocabulary = learn_vocabulary([*TEXTS, "q"], Level.CHARACTERS, 0)
    assert isinstance(vocabulary, Characters)
    assert set(vocabulary.characters) == set("".join(TEXTS))  # q is rare
    symbols = vocabulary.encode("seven")
    assert vocabulary.decode(symbols) == "seven"
    assert END not in symbols
    assert max(vocabulary.encode("".join(TEXTS))) == vocabulary.size - 1
    assert vocabulary.encode("sq")[1] == UNKNOWN
    assert vocabulary.decode(vocabulary.encode("sq")) == "s�"


def test_byte_pairs() -> None:
    pytest.importorskip("tokenizers")
    vocabulary = learn_vocabulary(TEXTS, Level.BYTE_PAIRS, 4)
    assert vocabulary.size == 1 + 256 + 4
    assert len(vocabulary.encode("seven")) < 5
    for text in [*TEXTS, *STRANGE]:
        symbols = vocabulary.encode(text)
        assert vocabulary.decode(symbols) == text
        assert all(END < symbol < vocabulary.size for symbol in symbols)
    assert vocabulary == learn_vocabulary(TEXTS, Level.BYTE_PAIRS, 4)


@pytest.mark.parametrize("level", Level)
def test_a_vocabulary_is_stored_as_json(level: Level) -> None:
    if level is Level.BYTE_PAIRS:
        pytest.importorskip("tokenizers")
    vocabulary = learn_vocabulary(TEXTS, level, 20)
    schema: TypeAdapter[object] = TypeAdapter(Vocabulary)
    again = schema.validate_json(schema.dump_json(vocabulary))
    assert again == vocabulary
    assert isinstance(again, type(vocabulary))
    assert again.encode("seventy ñ") == vocabulary.encode("seventy ñ")
