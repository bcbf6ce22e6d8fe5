"""Samplers of weights: what they share, and a file for each method."""
