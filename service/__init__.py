"""The web service. It loads checkpoints, samples networks, predicts with them, and says when it does not know."""

import os
from importlib.util import find_spec

if find_spec("fastapi") is None:
    raise ImportError("the service needs the extra `serve` of hyperdraw-server: pip install '.[serve]'")

SPIN_COUNT = "GOMP_SPINCOUNT"
"""The variable that sets how long OpenMP's threads wait actively for each other. PyTorch reads it when loaded.

The median answer for one image, over HTTP on two cores, takes 10.3 ms if the threads never sleep, 10.7 ms with 100,000,
11.4 ms with the 8,000 set here, and 15.5 ms if they sleep at once. Beside two busy processes, it takes 355, 150, 30 and
16 ms.
"""
os.environ.setdefault(SPIN_COUNT, "8000")
