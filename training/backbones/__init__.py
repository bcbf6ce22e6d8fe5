"""Pretrained backbones: what training needs to know of an ONNX file, and recipes that make such files."""
