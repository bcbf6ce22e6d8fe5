"""Datasets, published or of own images, and what is made of them."""
