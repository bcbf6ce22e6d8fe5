"""Texts on a terminal: how much weights change while a text is written, and how surprising a scored text is."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from rich.cells import cell_len
from rich.console import Console
from rich.style import Style
from rich.text import Text

from hyperdraw.terminal import printable
from hyperdraw.texts import Foreign, Score, Symbol

GATES = (204, 0, 0), (0, 153, 0), (0, 102, 204), (255, 204, 0)
"""Colours of the input, forget and output gates and of the candidate, as Ha, Dai & Le draw them."""

EXCERPT = 40
"""Characters of an excerpt."""

MOST_EXCERPTS = 5
"""Most excerpts that are shown, for each reason."""

MOST_BITS = 10.0
"""Surprisal from which on characters are as red as can be."""


class TextPainter:
    """Writes a text on a terminal as it comes. Below each line stand four rows of squares, one for each gate.

    A square is the brighter, the more the weights of its gate changed when the character above it was written. The
    largest change of the gate so far has the full colour, and no change is black.
    """

    def __init__(self, console: Console) -> None:
        """Begins at the start of a line of the terminal."""
        self._console = console
        self._line: list[tuple[int, Sequence[float] | None]] = []
        """Columns and changes of the characters of this line."""
        self._largest = np.zeros(len(GATES))

    def write(self, text: str, changes: Sequence[float] | None = None, style: str = "") -> None:
        """Writes characters, all with the same changes, if they are known."""
        for character in text:
            shown = " " if character in "\n\t" else printable(character)
            columns = cell_len(shown)
            if sum(taken for taken, _ in self._line) + columns >= self._console.width:
                self._end_line()
            self._line.append((columns, changes))
            if changes is not None:
                self._largest = np.maximum(self._largest, changes)
            if character == "\n":
                self._end_line()
            else:
                self._console.print(Text(shown, style), end="", soft_wrap=True)

    def finish(self) -> None:
        """Ends the last line."""
        if self._line:
            self._end_line()

    def _end_line(self) -> None:
        line, self._line = self._line, []
        self._console.print()
        if len(line) == 1 or all(changes is None for _, changes in line):  # an empty line, or the prompt's
            return
        for gate, colour in enumerate(GATES):
            row = Text()
            for columns, changes in line:
                share = changes[gate] / self._largest[gate] if changes is not None and self._largest[gate] else 0.0
                red, green, blue = (round(share * part) for part in colour)
                row.append(" " * columns, Style.parse(f"on rgb({red},{green},{blue})"))
            self._console.print(row, soft_wrap=True)


@dataclass(frozen=True)
class Excerpt:
    """A part of a text."""

    line: int
    """Number of the line in which it begins, from 1."""
    bits_per_character: float
    text: str


def find_surprises(tokens: Sequence[Symbol]) -> list[Excerpt]:
    """The most surprising excerpts of a text, the most surprising first. They do not overlap.

    A text that is shorter than two excerpts has none.
    """
    if len(tokens) < 2 * EXCERPT:
        return []
    sums = np.cumsum([0.0, *(token.bits for token in tokens)])
    means = (sums[EXCERPT:] - sums[:-EXCERPT]) / EXCERPT
    found: list[Excerpt] = []
    for _ in range(MOST_EXCERPTS):
        begin = int(means.argmax())
        if means[begin] == -np.inf:
            break
        found.append(_cut(tokens, begin, float(means[begin])))
        means[max(0, begin - EXCERPT + 1) : begin + EXCERPT] = -np.inf
    return found


def _cut(tokens: Sequence[Symbol], begin: int, bits: float) -> Excerpt:
    text = "".join(token.text for token in tokens[begin : begin + EXCERPT])
    return Excerpt(1 + sum(token.text == "\n" for token in tokens[:begin]), bits, text)


def show_score(console: Console, name: str, score: Score) -> None:
    """Shows how surprising a text is. If the terminal has colours, they say it of each character."""
    if console.color_system is not None:
        _show_text(console, score.tokens)
    count = len(score.tokens)
    characters = "1 character" if count == 1 else f"{count:,} characters"
    console.print(Text.assemble((printable(name), "bold"), f": {characters}"), soft_wrap=True)
    console.print(f"surprisal: {score.bits:,.1f} bits, {score.bits_per_character:.4g} bits per character")
    if len(score.members) > 1:
        parts = f"{score.entropy:.4g} bits per character, of which {score.disagreement:.3g} are disagreement"
        console.print(f"entropy: {parts}")
    else:
        console.print(f"entropy: {score.entropy:.4g} bits per character")
    if surprises := find_surprises(score.tokens):
        console.print("the most surprising passages, in bits per character:")
        _show_excerpts(console, surprises)
    if score.foreign:
        _show_foreign(console, score.foreign, score.tokens)
    if score.unknown:
        named = ", ".join(f"{character!r} (U+{ord(character):04X})" for character in score.unknown)
        console.print(Text(f"characters that the model does not know: {named}", "yellow"), soft_wrap=True)
    show_origin(console, score.model, score.members, score.seed)


def _show_foreign(console: Console, foreign: Foreign, tokens: Sequence[Symbol]) -> None:
    """Shows how many passages are foreign, and the beginnings of those that are so the most."""
    found = sorted((passage for passage in foreign.passages if passage.foreign), key=lambda passage: -passage.value)
    count = f"{len(found)} of {len(foreign.passages)} passages of {foreign.passage} characters"
    reason = f"{foreign.score} above {foreign.threshold:.3g} bits per character"
    style = "bold red" if found else "green"
    console.print(
        Text.assemble("foreign: ", (count, style), f" ({reason}, false alarms {foreign.false_alarm_rate:g})"),
        soft_wrap=True,
    )
    _show_excerpts(console, [_cut(tokens, passage.start, passage.value) for passage in found[:MOST_EXCERPTS]])


def _show_excerpts(console: Console, excerpts: Sequence[Excerpt]) -> None:
    for excerpt in excerpts:
        where = f"  {excerpt.bits_per_character:5.2f}  line {excerpt.line}: "
        console.print(Text(where + printable(excerpt.text.replace("\n", "↵"))), soft_wrap=True)


def show_origin(console: Console, model: str, members: Sequence[int], seed: int) -> None:
    """Shows which networks answered."""
    networks = "1 network" if len(members) == 1 else f"{len(members)} networks"
    console.print(Text(printable(f"{networks} of {model}, seed {seed}"), "dim"), soft_wrap=True)


def _show_text(console: Console, tokens: Sequence[Symbol]) -> None:
    """Shows a text. The more surprising a character is, the redder it is; unknown characters are reversed."""
    text = Text()
    for token in tokens:
        share = min(token.bits / MOST_BITS, 1.0)
        other = round(128 * (1 - share))
        colour = f"rgb({128 + round(127 * share)},{other},{other})"
        shown = token.text if token.text in "\n\t" else printable(token.text)
        text.append(shown, Style.parse(f"reverse {colour}" if token.unknown else colour))
    console.print(text, soft_wrap=True)
    console.print(Text(f"grey: expected; red: {MOST_BITS:g} bits or more; reversed: not known to the model", "dim"))
    console.print()
