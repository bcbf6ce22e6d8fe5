"""Figures of models for sequences, as SVG."""

from collections.abc import Sequence
from html import escape

from torch import Tensor

COLOURS = "#cc0000", "#009900", "#0066cc", "#ffcc00"
"""Of the input, forget and output gates and the candidate, as in the paper."""

LINE = 64
"""Characters of a line."""

WIDTH, HEIGHT, SQUARE = 10, 60, 8
"""Of a character with its squares, and of a square, in pixels."""


def render_changes(text: str, changes: Tensor) -> str:
    """A text with four rows of squares under it, as the paper draws it: the stronger, the more the weights changed.

    Args:
        text: T characters.
        changes: of the four gates, [T, 4]. The largest of each is drawn fully.
    """
    intensities = (changes / changes.amax(0).clamp(min=1e-30)).tolist()
    cells = [
        _render_cell(symbol, values, position % LINE * WIDTH, position // LINE * HEIGHT)
        for position, (symbol, values) in enumerate(zip(text, intensities, strict=True))
    ]
    size = f"{LINE * WIDTH} {-(-len(text) // LINE) * HEIGHT}"
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size}" font-family="monospace" font-size="13">'
    return "\n".join([head, '<rect width="100%" height="100%" fill="#ffffff"/>', *cells, "</svg>", ""])


def _render_cell(symbol: str, values: Sequence[float], x: int, y: int) -> str:
    shown = escape({"\n": "↵", " ": "·"}.get(symbol, symbol))
    squares = "".join(
        f'<rect x="{x + 1}" y="{y + 20 + row * (SQUARE + 1)}" width="{SQUARE}" height="{SQUARE}" fill="{colour}" '
        f'fill-opacity="{value:.2f}"/>'
        for row, (colour, value) in enumerate(zip(COLOURS, values, strict=True))
    )
    return f'<text x="{x + WIDTH / 2:g}" y="{y + 14}" text-anchor="middle">{shown}</text>{squares}'
