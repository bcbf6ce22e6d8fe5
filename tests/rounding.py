"""Answers that are equal but for rounding."""

from typing import Any

import pytest


def allow_rounding(answer: Any, most: float = 1e-5) -> Any:
    """An answer, whose floats are equal to any that differ by rounding alone.

    Steps are as long as time allows, so that a busy machine divides inputs otherwise, which rounds otherwise.

    Args:
        answer: what JSON can hold.
        most: the largest difference of small numbers.
    """
    if isinstance(answer, dict):
        return {name: allow_rounding(value, most) for name, value in answer.items()}
    if isinstance(answer, list):
        return [allow_rounding(value, most) for value in answer]
    return pytest.approx(answer, rel=1e-4, abs=most) if isinstance(answer, float) else answer
