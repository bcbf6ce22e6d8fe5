"""The web service. It loads checkpoints, samples networks, predicts with them, and says when it does not know."""

import os
from importlib.util import find_spec

if find_spec("fastapi") is None:
    raise ImportError("the service needs the extra `serve` of hyperdraw-server: pip install '.[serve]'")

SPIN_COUNT = "GOMP_SPINCOUNT"
"""The variable that sets how long OpenMP's threads wait actively for each other. PyTorch reads it when loaded.

The answer for one image by 100 networks takes 5.8 ms with 8,000 on two cores, 6.3 ms with the 2,000 set here, and
9.5 ms if the threads sleep at once. Beside two busy processes, it takes 15 to 33, 15 and 15 ms. Threads that never
sleep then take 355 ms.
"""
os.environ.setdefault(SPIN_COUNT, "2000")
