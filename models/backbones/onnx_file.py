"""What is checked on the bytes of an ONNX file before anything runs it.

An ONNX file is one message of Protocol Buffers: fields in a row, each with a number, a type and a value, some of which
are messages themselves. Only the fields that matter here are entered; all others are skipped by their length. Nothing
is copied, and the number of fields is bounded.
"""

from collections.abc import Iterator

MAX_FIELDS = 1_000_000
"""Most fields that are read. Weights are one field each; a network of 1,000 operators has about 20,000 fields."""

STANDARD_DOMAINS = ("", "ai.onnx")
RANDOM_OPERATORS = frozenset(
    {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}
)

_MOST_VARINT_BYTES = 10
_MOST_NAME_BYTES = 256
_KEY_LIMIT = 2**32
"""Keys of fields lie below this. Some readers drop higher bits, and would see another field than this one."""


class OnnxError(ValueError):
    """An ONNX file that is refused. The message completes a sentence that begins with the file's name."""


def check_onnx(content: bytes) -> None:
    """Checks that an ONNX file is whole in itself: standard operators, no other files, no functions, no control flow.

    Random operators are refused too, because the same image must have the same features.

    Raises:
        OnnxError: if it is not, or if it is not an ONNX file.
    """
    _Walker().check_model(memoryview(content))


class _Walker:
    """Reads the fields of one file, and counts them."""

    def __init__(self) -> None:
        self._fields = 0

    def check_model(self, model: memoryview) -> None:
        graphs = 0
        for number, value in self._read(model):
            match number, value:
                case 7, memoryview():
                    graphs += 1
                    self._check_graph(value)
                case 20, _:
                    raise OnnxError("holds a training graph; export the network for inference")
                case 25, _:
                    raise OnnxError("holds functions of its own; export it with standard operators alone")
        if graphs != 1:
            raise OnnxError("is not an ONNX file: it holds no network")

    def _check_graph(self, graph: memoryview) -> None:
        for number, value in self._read(graph):
            if isinstance(value, memoryview):
                match number:
                    case 1:
                        self._check_node(value)
                    case 5:
                        self._check_tensor(value)
                    case 15:
                        self._check_sparse_tensor(value)

    def _check_node(self, node: memoryview) -> None:
        operator = domain = ""
        for number, value in self._read(node):
            if isinstance(value, memoryview):
                match number:
                    case 4:
                        operator = _decode(value)
                    case 5:
                        self._check_attribute(value)
                    case 7:
                        domain = _decode(value)
        if domain not in STANDARD_DOMAINS:
            raise OnnxError(f"uses the operator {operator!r} of {domain!r}; only ONNX's standard operators are allowed")
        if operator in RANDOM_OPERATORS:
            raise OnnxError(f"uses the operator {operator!r}, whose results are random")

    def _check_attribute(self, attribute: memoryview) -> None:
        for number, value in self._read(attribute):
            match number, value:
                case 5 | 10, memoryview():
                    self._check_tensor(value)
                case 22 | 23, memoryview():
                    self._check_sparse_tensor(value)
                case 6 | 11, _:
                    raise OnnxError("has branches or loops; only a plain sequence of operators is allowed")

    def _check_sparse_tensor(self, tensor: memoryview) -> None:
        for number, value in self._read(tensor):
            if number in (1, 2) and isinstance(value, memoryview):
                self._check_tensor(value)

    def _check_tensor(self, tensor: memoryview) -> None:
        for number, value in self._read(tensor):
            if number == 13 or (number == 14 and value != 0):
                raise OnnxError("keeps weights in another file; save it as one file, without external data")

    def _read(self, message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
        """Numbers and values of a message's fields. Values of fixed length are given as 0."""
        position = 0
        while position < len(message):
            self._fields += 1
            if self._fields > MAX_FIELDS:
                raise OnnxError(f"has more than {MAX_FIELDS:,} fields")
            key, position = _read_varint(message, position)
            if key >= _KEY_LIMIT:
                raise OnnxError("is not an ONNX file: it has a field whose number is too large")
            value: int | memoryview = 0
            match key & 7:
                case 0:
                    value, position = _read_varint(message, position)
                case 1:
                    position += 8
                case 2:
                    length, position = _read_varint(message, position)
                    value = message[position : position + length]
                    position += length
                case 5:
                    position += 4
                case kind:
                    raise OnnxError(f"is not an ONNX file: it has a field of the unknown type {kind}")
            if position > len(message):
                raise OnnxError("is not an ONNX file, or is cut short")
            yield key >> 3, value


def _read_varint(message: memoryview, position: int) -> tuple[int, int]:
    """A number of variable length, and the position after it."""
    number = 0
    for index, byte in enumerate(message[position : position + _MOST_VARINT_BYTES]):
        number |= (byte & 127) << 7 * index
        if byte < 128:
            return number, position + index + 1
    raise OnnxError("is not an ONNX file, or is cut short")


def _decode(text: memoryview) -> str:
    return bytes(text[:_MOST_NAME_BYTES]).decode("utf-8", "replace")
