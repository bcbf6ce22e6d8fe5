"""Samplers of weights: their shared code, and a file for each method."""
