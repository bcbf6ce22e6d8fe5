"""The web service: loads checkpoints, samples networks, predicts with them, and says when it does not know."""

import os
from importlib.util import find_spec

if find_spec("fastapi") is None or find_spec("torch") is None:  # where the client alone is installed
    raise ImportError("the service needs packages that are not installed: pip install '.[serve]'")

os.environ.setdefault("GOMP_SPINCOUNT", "100000")
"""How long OpenMP's threads wait for each other actively; read when PyTorch is loaded.

An answer with one image takes 10.7 ms where they never sleep, 11.6 ms so, and 15.1 ms where they sleep at once; with
two other busy processes on the two cores 36, 28 and 33 ms, and in 1 of 100 cases more than 197, 46 and 58 ms.
"""
