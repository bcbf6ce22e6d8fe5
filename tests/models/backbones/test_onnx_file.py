"""What the bytes of an ONNX file are checked for, before anything runs it."""

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from models.backbones import onnx_file
from models.backbones.onnx_file import OnnxError, check_onnx
from tests.backbones import make_onnx
from tests.costs import bound_time

PACKAGE = Path(onnx.__file__).parent


def test_a_backbone_passes() -> None:
    check_onnx(make_onnx().SerializeToString())
    check_onnx(make_onnx(domains=["", "pkg.unused"]).SerializeToString())  # torch's exporter leaves such imports


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("light_*.onnx")), ids=lambda path: path.stem)
def test_known_networks_pass(path: Path) -> None:
    """ResNet, DenseNet, Inception and others, as the package of ONNX carries them."""
    check_onnx(path.read_bytes())


def keep_outside(tensor: onnx.TensorProto) -> None:
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "/etc/passwd"


def make_constant(change: Callable[[onnx.TensorProto], None]) -> onnx.NodeProto:
    """A constant, in whose tensor something is changed."""
    node = helper.make_node("Constant", [], ["c"], value=helper.make_tensor("c", TensorProto.FLOAT, [1], [0.0]))
    change(node.attribute[0].t)
    return node


def call_foreign(model: onnx.ModelProto) -> None:
    model.graph.node[0].domain = "com.microsoft"


def keep_kernel_outside(model: onnx.ModelProto) -> None:
    keep_outside(model.graph.initializer[0])


def keep_constant_outside(model: onnx.ModelProto) -> None:
    model.graph.node.append(make_constant(keep_outside))


def keep_sparse_outside(model: onnx.ModelProto) -> None:
    sparse = model.graph.sparse_initializer.add()
    keep_outside(sparse.values)


def keep_sparse_constant_outside(model: onnx.ModelProto) -> None:
    node = helper.make_node("Constant", [], ["c"])
    attribute = node.attribute.add()
    attribute.name, attribute.type = "sparse_value", onnx.AttributeProto.SPARSE_TENSOR
    keep_outside(attribute.sparse_tensor.indices)
    model.graph.node.append(node)


def branch(model: onnx.ModelProto) -> None:
    inner = helper.make_graph([], "inner", [], [])
    model.graph.node.append(helper.make_node("If", ["images"], ["x"], then_branch=inner, else_branch=inner))


def roll_dice(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("RandomNormalLike", ["images"], ["x"]))


def define_function(model: onnx.ModelProto) -> None:
    model.functions.add().name = "f"


def train(model: onnx.ModelProto) -> None:
    model.training_info.add()


def forget_graph(model: onnx.ModelProto) -> None:
    model.ClearField("graph")


REFUSED: dict[Callable[[onnx.ModelProto], None], str] = {
    call_foreign: "operator 'Conv' of 'com.microsoft'; only ONNX's standard",
    keep_kernel_outside: "weights in another file",
    keep_constant_outside: "weights in another file",
    keep_sparse_outside: "weights in another file",
    keep_sparse_constant_outside: "weights in another file",
    branch: "branches or loops",
    roll_dice: "RandomNormalLike', whose results are random",
    define_function: "functions of its own",
    train: "training graph",
    forget_graph: "holds no network",
}


@pytest.mark.parametrize("change", REFUSED, ids=lambda change: change.__name__)
def test_what_is_more_than_a_network_is_refused(change: Callable[[onnx.ModelProto], None]) -> None:
    model = make_onnx()
    change(model)
    with pytest.raises(OnnxError, match=REFUSED[change]):
        check_onnx(model.SerializeToString())


def test_no_encoding_of_a_number_hides_external_data() -> None:
    """Protocol Buffers drops the upper bits of an enumeration, so 2^32 + 1 means 1 to it."""
    tensor = bytes([14 << 3]) + bytes([0x81, 0x80, 0x80, 0x80, 0x10])
    assert onnx.TensorProto.FromString(tensor).data_location == TensorProto.EXTERNAL
    graph = bytes([5 << 3 | 2, len(tensor)]) + tensor
    model = bytes([7 << 3 | 2, len(graph)]) + graph
    with pytest.raises(OnnxError, match="another file"):
        check_onnx(model)
    hidden = bytes([0xBA, 0x80, 0x80, 0x80, 0x10, 0])  # field 7 with a bit above the 32nd
    with pytest.raises(OnnxError, match="number is too large"):
        check_onnx(hidden)


@pytest.mark.parametrize("length", [0, 1, 2, 10, 100, 300, -1])
def test_a_file_that_is_cut_short_is_refused(length: int) -> None:
    with pytest.raises(OnnxError, match="is not an ONNX file"):
        check_onnx(make_onnx().SerializeToString()[:length])


@given(st.binary(max_size=300))
def test_any_bytes_are_refused_or_hold_one_graph(content: bytes) -> None:
    try:
        check_onnx(content)
    except OnnxError:
        return
    assert onnx.ModelProto.FromString(content).HasField("graph")


def test_the_time_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_file, "MAX_FIELDS", 20_000)
    with bound_time(2), pytest.raises(OnnxError, match="more than 20,000 fields"):
        check_onnx(b"\x08\x00" * 10_000_000)
