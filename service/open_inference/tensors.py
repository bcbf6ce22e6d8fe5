"""Tensors of the Open Inference Protocol, as JSON and in its binary extension.

In memory they are NumPy arrays; BYTES arrays hold `bytes` objects. Sources: "Tensor Data" in KServe's Open Inference
Protocol (REST), and Triton's "Binary Tensor Data Extension".
"""

import struct
from collections.abc import Sequence
from itertools import chain
from math import prod
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from models.inputs.kind import Datatype
from service.errors import ServiceError

Array: TypeAlias = NDArray[Any]

_DTYPES = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype("u1"),
    "INT64": np.dtype("<i8"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
}
_JSON_TYPES: dict[str, set[type]] = {
    "BOOL": {bool},
    "UINT8": {int},
    "INT64": {int},
    "FP32": {int, float},
    "FP64": {int, float},
    "BYTES": {str},
}
_LENGTH = struct.Struct("<I")


def decode_json(values: list[Any], datatype: Datatype, shape: Sequence[int]) -> Array:
    """Reads a tensor of some shape from JSON, in row-major order, flat or nested by its shape.

    Strings become BYTES as UTF-8. FP32 becomes float64, which keeps the precision of JSON.

    Raises:
        ServiceError: 400 for a wrong number of elements, or elements of a wrong type.
    """
    flat = _flatten(values, shape)
    if wrong := set(map(type, flat)) - _JSON_TYPES[datatype]:
        kinds = " or ".join(kind.__name__ for kind in _JSON_TYPES[datatype])
        raise _refuse(f"{datatype} data contains a {wrong.pop().__name__}", f"Each element must be {kinds}.")
    if datatype == "BYTES":
        return _hold([text.encode() for text in flat], shape)
    dtype = _DTYPES["FP64"] if datatype == "FP32" else _DTYPES[datatype]
    try:
        return np.array(flat, dtype).reshape(shape)
    except OverflowError as error:
        raise _refuse(f"{datatype} data: {error}", "Send numbers within the datatype's range.") from error


def decode_binary(content: memoryview, datatype: Datatype, shape: Sequence[int]) -> Array:
    """Reads a tensor of some shape from its bytes: little-endian, in row-major order. Each element of BYTES comes after
    its length, an unsigned 32-bit number.

    Raises:
        ServiceError: 400 for a wrong number of bytes or elements.
    """
    if datatype == "BYTES":
        return _hold(_split(content, prod(shape)), shape)
    size = prod(shape) * _DTYPES[datatype].itemsize
    if len(content) != size:
        raise _refuse(f"The data has {len(content)} bytes", f"{datatype} of shape {list(shape)} takes {size}.")
    return np.frombuffer(content, _DTYPES[datatype]).reshape(shape)


def encode_json(tensor: Array) -> list[Any]:
    """The elements in row-major order; BYTES become strings, decoded as UTF-8."""
    values: list[Any] = tensor.ravel().tolist()
    return [value.decode() for value in values] if tensor.dtype == object else values


def encode_binary(tensor: Array) -> bytes:
    """The bytes that `decode_binary` reads."""
    if tensor.dtype == object:
        return b"".join(_LENGTH.pack(len(value)) + value for value in tensor.ravel())
    return tensor.astype(tensor.dtype.newbyteorder("<"), copy=False).tobytes()


def encode_contents(contents: Any, datatype: str) -> bytes:
    """The bytes of a tensor from an InferTensorContents of gRPC; none for a datatype that no model takes.

    Raises:
        OverflowError: for a number out of the datatype's range, or too many elements.
    """
    field = "uint_contents" if datatype == "UINT8" else f"{datatype.lower()}_contents"
    values = getattr(contents, field) if datatype in _JSON_TYPES else ()
    if len(values) > 2**20:  # which are read one by one
        raise OverflowError(f"{len(values)} elements are too many; send them in raw contents")
    return encode_binary(np.fromiter(values, _DTYPES.get(datatype, np.dtype(object)), len(values)))


def name_datatype(tensor: Array) -> Datatype:
    """The protocol's name for an array's data type."""
    names: dict[np.dtype[Any], Datatype] = {
        np.dtype(np.bool_): "BOOL",
        np.dtype(np.int64): "INT64",
        np.dtype(np.float32): "FP32",
        np.dtype(object): "BYTES",
    }
    return names[tensor.dtype]


def _flatten(values: list[Any], shape: Sequence[int]) -> list[Any]:
    for length in shape[1:]:
        if not (values and isinstance(values[0], list)):
            break
        if any(not isinstance(row, list) or len(row) != length for row in values):
            hint = "Nest it by the shape, or send a flat list."
            raise _refuse(f"The data is not nested as [{', '.join(map(str, shape))}]", hint)
        values = list(chain.from_iterable(values))
    if len(values) != prod(shape):
        raise _refuse(f"The data has {len(values)} elements", f"Shape {list(shape)} takes {prod(shape)}.")
    return values


def _split(content: memoryview, count: int) -> list[bytes]:
    elements: list[bytes] = []
    position = 0
    while position < len(content):
        if position + _LENGTH.size > len(content):
            hint = "Send each element after its length, 4 bytes, little-endian."
            raise _refuse("The BYTES data ends within a length", hint)
        (length,) = _LENGTH.unpack_from(content, position)
        position += _LENGTH.size
        if position + length > len(content):
            raise _refuse(
                f"Element {len(elements)} of the BYTES data should have {length} bytes, but only "
                f"{len(content) - position} follow",
                "Send each element after its length, 4 bytes, little-endian.",
            )
        if len(elements) == count:
            raise _refuse(f"The BYTES data has more than {count} elements", f"The shape takes {count}.")
        elements.append(bytes(content[position : position + length]))
        position += length
    if len(elements) != count:
        raise _refuse(f"The BYTES data has {len(elements)} elements", f"The shape takes {count}.")
    return elements


def _hold(elements: list[bytes], shape: Sequence[int]) -> Array:
    array = np.empty(len(elements), dtype=object)
    array[:] = elements
    return array.reshape(shape)


def _refuse(message: str, hint: str) -> ServiceError:
    return ServiceError(400, "invalid_tensor", f"{message}.", hint)
