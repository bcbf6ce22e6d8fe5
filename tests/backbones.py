"""Small backbones in ONNX files, and checkpoints with them."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from models.backbones.backbone import FILE, BackboneSpec
from models.checkpoint import CheckpointConfig, save_checkpoint
from models.inputs.image import ImageSpec
from models.samplers.hyperdraw import HyperDrawConfig
from models.targets.layers import Linear
from models.targets.target import TargetNetwork
from models.tasks.classification import Classification
from tests.checkpoints import TRAINING

CHANNELS = 6
IMAGES = ImageSpec(channels=3, height=12, width=12, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))


def draw_kernel() -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """The weights of the small backbone's convolution, [channels, 3, 3, 3]."""
    return np.random.default_rng(0).normal(size=(CHANNELS, 3, 3, 3)).astype(np.float32)


def make_onnx(
    nodes: Sequence[onnx.NodeProto] | None = None,
    *,
    shape: Sequence[int | str] = ("batch", 3, "height", "width"),
    outputs: Sequence[str] = ("features",),
    weights: Sequence[onnx.TensorProto] = (),
    kind: int = TensorProto.FLOAT,
    domains: Sequence[str] = ("",),
) -> onnx.ModelProto:
    """A backbone: by default a convolution and a ReLU give a `map`, and its means are the `features`."""
    if nodes is None:
        outputs = ("features", "map")
        nodes = [
            helper.make_node("Conv", ["images", "kernel"], ["convolved"], strides=[2, 2]),
            helper.make_node("Relu", ["convolved"], ["map"]),
            helper.make_node("GlobalAveragePool", ["map"], ["means"]),
            helper.make_node("Flatten", ["means"], ["features"]),
        ]
    kernel = numpy_helper.from_array(draw_kernel(), "kernel")
    graph = helper.make_graph(
        list(nodes),
        "backbone",
        [helper.make_tensor_value_info("images", kind, shape)],
        [helper.make_empty_tensor_value_info(name) for name in outputs],
        [kernel, *weights],
    )
    for output in graph.output:
        output.type.tensor_type.elem_type = kind
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid(domain, 17 if not domain else 1) for domain in domains], ir_version=8
    )


def write_onnx(path: Path, model: onnx.ModelProto | None = None) -> str:
    """Writes a backbone; returns its digest."""
    content = (model or make_onnx()).SerializeToString()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return hashlib.sha256(content).hexdigest()


def save_with_backbone(directory: Path, classes: Sequence[str] = ("cat", "dog", "owl")) -> CheckpointConfig:
    """Saves a checkpoint of untrained networks on the features of the small backbone."""
    digest = write_onnx(directory / FILE)
    spec = BackboneSpec(digest, "features", (CHANNELS,), source="a test", licence="CC0")
    target = TargetNetwork((CHANNELS,), (Linear(len(classes)),))
    sampler = HyperDrawConfig(modes=4, latent_size=2).build(target).eval()
    config = CheckpointConfig(sampler.config, target, IMAGES, Classification(tuple(classes)), TRAINING, backbone=spec)
    save_checkpoint(directory, config, sampler, "float32")
    return config
