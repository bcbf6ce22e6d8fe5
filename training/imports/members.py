"""Classifiers in ONNX files. Those of an ensemble become one file, which gives the logits of all of them, and
features if asked to.

Shapes: B images, C channels, H rows, W columns, M members, K classes, D numbers that describe an image.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from models.backbones.backbone import (
    MAX_BYTES,
    Backbone,
    BackboneSpec,
    digest_backbone,
    list_outputs,
    open_session,
    probe,
    read_backbone,
)
from models.backbones.onnx_file import OnnxError, check_onnx
from models.inputs.image import ImageSpec
from models.samplers.deep_ensemble import DeepEnsemble, DeepEnsembleConfig
from models.targets.layers import Linear
from models.targets.target import TargetNetwork
from training.imports.network import NetworkError, check_distinct
from training.progress import announce

if TYPE_CHECKING:
    import onnx

SUFFIX = ".onnx"
INPUT, OUTPUT = "images", "logits"
"""Names in the file of all members."""

PROBES = 4
"""Random images on which the outputs of members are looked at, and compared with those of the file of all."""

MOST_DIFFERENCE = 1e-4
LEAST_PROBABILITY = 1e-12
"""Smaller probabilities count as this, because zero has no logarithm."""


@dataclass(frozen=True)
class Member:
    """One classifier: its file, and what it says about its input."""

    path: Path
    content: bytes
    model: "onnx.ModelProto"
    input: str
    channels: Literal[1, 3]
    size: tuple[int, int] | None
    """Height and width of the images that it takes, if it takes no others."""


def read_member(path: Path) -> Member:
    """Reads a classifier of images.

    Raises:
        BackboneError: if the file cannot be read.
        NetworkError: if it is not a network of standard operators that takes images, or if the package onnx is missing.
    """
    content = read_backbone(path)
    try:
        check_onnx(content)
    except OnnxError as error:
        raise NetworkError(f"{path} {error}") from error
    try:
        import onnx
    except ImportError as error:
        raise NetworkError(f"{path} needs the package onnx: pip install 'hyperdraw-server[backbones]'") from error
    model = onnx.load_model_from_string(content)
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [each for each in model.graph.input if each.name not in weights]
    if len(inputs) != 1:
        raise NetworkError(f"{path} has {len(inputs)} inputs, not the one for images")
    dimensions = [each.dim_value or None for each in inputs[0].type.tensor_type.shape.dim]
    if len(dimensions) != 4 or dimensions[1] not in (None, 1, 3):
        shown = ", ".join("any" if number is None else str(number) for number in dimensions)
        raise NetworkError(
            f"{path} takes inputs of shape ({shown}), not images of shape (any, channels, height, width) with 1 or 3 "
            "channels"
        )
    height, width = dimensions[2:]
    size = (height, width) if height and width else None
    return Member(path, content, model, inputs[0].name, 1 if dimensions[1] == 1 else 3, size)


def join_members(
    members: Sequence[Member], images: ImageSpec, classes: int, *, with_features: bool
) -> tuple[bytes, Backbone]:
    """Makes one ONNX file of all members: images [B, C, H, W] → the logits of each member, [B, M K].

    Where a member gives probabilities, its logits are their logarithms, which have the same softmax. With features,
    [B, M K + D], there follows what the last linear layer of each member reads; nothing of one that ends otherwise.

    Returns:
        The file, and the backbone that it is.

    Raises:
        BackboneError: if onnxruntime cannot run a member on such images.
        NetworkError: if members are equal, or differ in their versions of ONNX, or if one does not give K numbers.
    """
    _check_alike(members)
    generator = torch.Generator().manual_seed(0)
    raw = torch.randint(256, (PROBES, *images.shape), generator=generator, dtype=torch.uint8)
    pixels = images.prepare(raw).numpy()
    outputs, expected = [], []
    for member in members:
        session = open_session(member.path, member.content, images)
        names = [output.name for output in session.get_outputs()]
        if len(names) != 1:
            raise NetworkError(f"{member.path} has the outputs {list_outputs(session)}; export the logits alone")
        if (shape := probe(member.path, session, images, names[0])) != (classes,):
            raise NetworkError(f"{member.path} gives outputs of shape {shape}, but --classes names {classes} classes")
        (logits,) = session.run(names, {member.input: pixels})
        if gives_probabilities := bool((logits >= 0).all() and np.allclose(logits.sum(1), 1, atol=1e-3)):
            announce(f"{member.path} gives probabilities; their logarithms are its logits")
            logits = np.log(np.maximum(logits, LEAST_PROBABILITY))
        outputs.append((names[0], gives_probabilities))
        expected.append(logits)
    features: list[str | None] = [None] * len(members)
    if with_features:
        features = [_find_features(member, name) for member, (name, _) in zip(members, outputs, strict=True)]
        for member in (member for member, found in zip(members, features, strict=True) if found is None):
            announce(f"{member.path} does not end in a linear layer; distances look only at its logits")
    content = _write(members, outputs, features, images)
    session = open_session(Path(OUTPUT), content, images)
    (numbers,) = probe(Path(OUTPUT), session, images, OUTPUT)
    backbone = Backbone(_describe(members, content, numbers), session, len(content))
    logits = backbone.extract(torch.from_numpy(pixels))[:, : len(members) * classes]
    found = logits.unflatten(1, (len(members), classes))
    alone = torch.from_numpy(np.stack(expected, 1))
    difference = float((found - alone).abs().max())
    if not difference <= MOST_DIFFERENCE * max(1.0, float(alone.abs().max())):
        raise NetworkError(f"the members give other logits together than alone; the largest difference is {difference}")
    return content, backbone


def build_selector(members: int, classes: int, spec: BackboneSpec) -> DeepEnsemble:
    """An ensemble on what the file of all members gives, of which each network picks the logits of one member."""
    sampler = DeepEnsembleConfig(members).build(TargetNetwork(spec.feature_shape, (Linear(classes),)))
    state = {name: torch.zeros_like(tensor) for name, tensor in sampler.networks.state_dict().items()}
    for member in range(members):
        state["linear1.weight"][member, :, member * classes : (member + 1) * classes] = torch.eye(classes)
    sampler.networks.load_state_dict(state)
    return sampler


def _check_alike(members: Sequence[Member]) -> None:
    check_distinct([m.path for m in members], [hashlib.sha256(m.content).digest() for m in members])
    if sum(len(member.content) for member in members) > MAX_BYTES // 2:
        raise NetworkError(f"the members have more than {MAX_BYTES // 2:,} bytes together; import fewer")
    first = members[0]
    for member in members[1:]:
        if member.channels != first.channels:
            raise NetworkError(f"{member.path} takes {member.channels} channels, but {first.path} {first.channels}")
        versions = [_read_version(each) for each in (member, first)]
        if versions[0] != versions[1]:
            raise NetworkError(
                f"{member.path} has version {versions[0]} of ONNX's operators, but {first.path} has {versions[1]}; "
                "export them alike"
            )


def _read_version(member: Member) -> int:
    return max((each.version for each in member.model.opset_import if each.domain in ("", "ai.onnx")), default=1)


def _find_features(member: Member, output: str) -> str | None:
    """Name of what the last linear layer reads, if nothing but a bias and a softmax follows that layer."""
    makers = {name: node for node in member.model.graph.node for name in node.output}
    node = makers.get(output)
    while node is not None and node.op_type in ("Add", "Identity", "LogSoftmax", "Softmax"):
        node = next((makers[name] for name in node.input if name in makers), None)
    return node.input[0] if node is not None and node.op_type in ("Gemm", "MatMul") else None


def _write(
    members: Sequence[Member], outputs: Sequence[tuple[str, bool]], features: Sequence[str | None], images: ImageSpec
) -> bytes:
    """The file of all members, whose names of values get a prefix each."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    floor = "least probability"
    graph = helper.make_graph(
        [],
        "members",
        [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["batch", *images.shape])],
        [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["batch", "numbers"])],
        [numpy_helper.from_array(np.array(LEAST_PROBABILITY, np.float32), floor)],
    )
    rows = []
    for number, (member, (output, gives_probabilities)) in enumerate(zip(members, outputs, strict=True)):
        prefix = f"{number}/"
        part = onnx.compose.add_prefix(member.model, prefix).graph
        graph.node.append(helper.make_node("Identity", [INPUT], [prefix + member.input]))
        graph.node.extend(part.node)
        graph.initializer.extend(part.initializer)
        graph.sparse_initializer.extend(part.sparse_initializer)
        found = prefix + output
        if gives_probabilities:
            graph.node.append(helper.make_node("Max", [found, floor], [f"{number} bounded"]))
            graph.node.append(helper.make_node("Log", [f"{number} bounded"], [found := f"{number} log"]))
        rows.append(found)
    rows += [f"{number}/{name}" for number, name in enumerate(features) if name is not None]
    graph.node.append(helper.make_node("Concat", rows, [OUTPUT], axis=1))
    versions = [helper.make_opsetid("", _read_version(members[0]))]
    model = helper.make_model(
        graph, opset_imports=versions, ir_version=max(member.model.ir_version for member in members)
    )
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def _describe(members: Sequence[Member], content: bytes, numbers: int) -> BackboneSpec:
    names = ", ".join(member.path.name for member in members)
    return BackboneSpec(
        sha256=digest_backbone(content),
        output=OUTPUT,
        feature_shape=(numbers,),
        source=f"the networks {names}"[:1_000],
    )
