"""Decoding of images in processes of their own."""
