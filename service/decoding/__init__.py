"""Decoding of images in separate processes."""
