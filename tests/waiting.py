"""Waiting for what is to happen, on however slow a machine."""

import time
from collections.abc import Callable

PATIENCE = 60.0
"""Seconds after which what has not happened never will; what tests wait for takes less than one."""


def wait_until(condition: Callable[[], object]) -> None:
    """Returns once a condition holds."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"it has not happened within {PATIENCE:g} s"
        time.sleep(0.01)
