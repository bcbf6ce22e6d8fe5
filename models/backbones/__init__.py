"""Pretrained backbones: networks in ONNX files whose features are the input of the target network."""
