"""Drawings in characters: strokes as dots, and dots as braille, or as the few characters of ASCII that look like dots.

Shapes: n points of a stroke.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Dots = NDArray[np.bool_]
"""Which of the dots in a rectangle are black, row by row."""

CELL = 4, 2
"""Rows and columns of the dots of a braille character."""

ASCII_CELL = 2, 1
"""Rows and columns of the dots of a character of ASCII."""

_WEIGHTS = np.array([[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]])
"""What each dot of a braille character adds to its code."""

_ASCII_WEIGHTS = np.array([[1], [2]])

_BRAILLE = " " + "".join(chr(0x2800 + code) for code in range(1, 256))
"""Braille by its dots. In the place of the blank character, which some fonts show as circles, is a space."""

_ASCII = " '.:"


def rasterize(strokes: Sequence[NDArray[np.floating]], rows: int, columns: int) -> Dots:
    """The dots on the straight lines through the points of strokes.

    The drawing is moved to the top left, and scaled alike in both directions, so that it just fits.

    Args:
        strokes: positions [n, 2] of x and y, n ≥ 1.
        rows: number of rows.
        columns: number of columns.
    """
    everything = np.concatenate(strokes)
    low = everything.min(0)
    extent, room = everything.max(0) - low, np.array([columns - 1, rows - 1])
    factor = min((free / side for free, side in zip(room, extent, strict=True) if side), default=0.0)
    dots = np.zeros((rows, columns), bool)
    for stroke in strokes:
        corners = (stroke - low) * factor
        for start, end in zip(corners, [*corners[1:], corners[-1]], strict=True):
            steps = int(np.ceil(np.abs(end - start).max())) + 1
            x, y = np.floor(np.linspace(start, end, steps) + 0.5).astype(int).T
            dots[y, x] = True
    return dots


def write_braille(dots: Dots) -> list[str]:
    """Lines of braille. A character has four rows and two columns of dots."""
    return _write(dots, _WEIGHTS, _BRAILLE)


def write_ascii(dots: Dots) -> list[str]:
    """Lines of apostrophes, full stops and colons. A character has two rows of dots, and one column."""
    return _write(dots, _ASCII_WEIGHTS, _ASCII)


def _write(dots: Dots, weights: NDArray[np.int_], characters: str) -> list[str]:
    rows, columns = weights.shape
    cells = dots.reshape(len(dots) // rows, rows, -1, columns)
    codes = np.einsum("irjc,rc->ij", cells, weights)
    return ["".join(characters[code] for code in line) for line in codes]
