"""Text as symbols: which characters a model knows, and what comes before the first.

Shapes: P symbols of a text, V symbols that the model knows.
"""

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import FailFast, Field
from pydantic.dataclasses import dataclass

from models.inputs.kind import InputError
from models.schema import STRICT

OTHER = "\N{REPLACEMENT CHARACTER}"
"""The symbol that stands for all characters that a model does not know, if it has learned such a symbol."""

MOST_NAMED = 20
"""Most unknown characters that a message names."""


@dataclass(frozen=True, config=STRICT)
class TextSpec:
    """The characters of a text model."""

    symbols: Annotated[
        tuple[Annotated[str, Field(min_length=1, max_length=1)], ...],
        Field(min_length=2, max_length=65_536),
        FailFast(),
    ]
    """The V characters, in the order of the network's inputs and outputs."""
    start: str
    """The symbol that the network sees before the first of a text."""
    kind: Literal["text"] = "text"

    def __post_init__(self) -> None:
        if len(set(self.symbols)) != len(self.symbols):
            raise ValueError("a symbol appears twice")
        if self.start not in self.symbols:
            raise ValueError(f"the symbol before a text, {self.start!r}, is not among the symbols")

    @property
    def num_inputs(self) -> int:
        """V: an input is one symbol, as a one-hot vector."""
        return len(self.symbols)

    @property
    def num_outputs(self) -> int:
        """V: logits of the next symbol."""
        return len(self.symbols)

    @property
    def has_other(self) -> bool:
        """Whether characters that are not among the symbols can be read, as one symbol."""
        return OTHER in self.symbols

    def find_unknown(self, text: str) -> list[str]:
        """Characters of a text that are not among the symbols, each once, in order."""
        known = set(self.symbols)
        return [symbol for symbol in dict.fromkeys(text) if symbol not in known]

    def encode(self, text: str) -> list[int]:
        """Numbers of a text's symbols, [P].

        Raises:
            InputError: if the text has unknown characters, and the model has no symbol for them.
        """
        numbers = {symbol: number for number, symbol in enumerate(self.symbols)}
        other = numbers.get(OTHER)
        if other is None and (unknown := self.find_unknown(text)):
            named = ", ".join(f"{symbol!r} (U+{ord(symbol):04X})" for symbol in unknown[:MOST_NAMED])
            more = f" and {len(unknown) - MOST_NAMED} more" if len(unknown) > MOST_NAMED else ""
            raise InputError(
                f"The model does not know {named}{more}; the first is at position {text.index(unknown[0])}.",
                f"It knows {len(self.symbols)} characters: {''.join(sorted(self.symbols))!r}.",
            )
        return [numbers.get(symbol, other) for symbol in text]  # type: ignore[misc]  # None was refused above

    def decode(self, numbers: Sequence[int]) -> str:
        """The text of some symbols."""
        return "".join(self.symbols[number] for number in numbers)

    @property
    def start_number(self) -> int:
        """The number of the symbol before a text."""
        return self.symbols.index(self.start)
