"""The web service: loads checkpoints, samples networks, predicts with them, and says when it does not know."""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
"""OpenMP reads it when PyTorch is loaded. Threads that wait actively for each other keep the processors from what they
wait for: with 300 requests a second, of clients on the same two busy cores, answers fell from 30 to 1 a second."""
