"""Images in characters: half blocks in two colours, or without colours the characters of ASCII that are as bright.

Shapes: H × W pixels.
"""

import numpy as np
from numpy.typing import NDArray
from rich.color import Color
from rich.style import Style
from rich.text import Text

SMALLEST, LARGEST = 16, 28
"""Columns of the smallest and the largest picture, each a pixel wide."""

_RAMP = np.array(list(" .:-=+*#%@"))
"""Characters from dark to bright."""


def choose_size(width: int, height: int) -> tuple[int, int]:
    """Width and height in pixels for an image, with the larger within `SMALLEST` and `LARGEST`."""
    factor = min(max(width, height, SMALLEST), LARGEST) / max(width, height)
    return max(1, round(width * factor)), max(1, round(height * factor))


def draw_pixels(pixels: NDArray[np.uint8], *, colours: bool) -> Text:
    """Lines of characters, each two pixels high and one wide.

    Args:
        pixels: uint8 [H, W, 3].
        colours: whether the terminal has colours and block characters.
    """
    if len(pixels) % 2:
        pixels = np.concatenate([pixels, np.zeros_like(pixels[:1])])
    rows = list(zip(pixels[::2], pixels[1::2], strict=True))
    if not colours:
        means = np.array([(top.astype(float) + bottom).mean(-1) / 2 for top, bottom in rows])
        return Text("\n".join("".join(line) for line in _RAMP[(means / 256 * len(_RAMP)).astype(int)]))
    lines = []
    for top, bottom in rows:
        pairs = zip(top.tolist(), bottom.tolist(), strict=True)
        lines.append(Text.assemble(*(("▀", Style(color=_paint(up), bgcolor=_paint(down))) for up, down in pairs)))
    return Text("\n").join(lines)


def _paint(channels: list[int]) -> Color:
    return Color.from_rgb(*channels)
