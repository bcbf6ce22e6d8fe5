"""The web service: loads checkpoints, samples networks, predicts with them, and says when it does not know."""

import os
from importlib.util import find_spec

if find_spec("fastapi") is None:
    raise ImportError("the service needs the extra `serve` of hyperdraw-server: pip install '.[serve]'")

SPIN_COUNT = "GOMP_SPINCOUNT"
"""The variable that says how long OpenMP's threads wait for each other actively; PyTorch's read it when it is loaded.

Over HTTP on two cores, half of the answers with one image take less than 10.3 ms where they never sleep, 10.7 ms with
100,000, 11.4 ms with the 8,000 that are set here, and 15.5 ms where they sleep at once; with two other busy processes
355, 150, 30 and 16 ms.
"""
os.environ.setdefault(SPIN_COUNT, "8000")
