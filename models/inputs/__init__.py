"""Inputs of target networks: kinds of input, image files, and pixels."""
