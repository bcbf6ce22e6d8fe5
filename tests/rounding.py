from typing import Any

import pytest


def allow_rounding(answer: Any) -> Any:
    """An answer, whose floats are equal to any that differ by rounding alone.

    Steps are as long as time allows, so that a busy machine divides inputs otherwise, which rounds otherwise.
    """
    if isinstance(answer, dict):
        return {name: allow_rounding(value) for name, value in answer.items()}
    if isinstance(answer, list):
        return [allow_rounding(value) for value in answer]
    return pytest.approx(answer, rel=1e-4, abs=1e-5) if isinstance(answer, float) else answer
