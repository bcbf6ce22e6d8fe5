"""Experiments with checkpoints: comparisons, ablations, studies and their figures."""
