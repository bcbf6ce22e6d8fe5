"""Tensors of the Open Inference Protocol, as JSON and in its binary extension.

In memory they are NumPy arrays; those of BYTES hold `bytes` objects. Sources: "Tensor Data" in KServe's Open Inference
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

_DTYPES = {"BOOL": np.dtype(np.bool_), "UINT8": np.dtype("u1"), "FP32": np.dtype("<f4"), "FP64": np.dtype("<f8")}
_JSON_TYPES: dict[str, set[type]] = {
    "BOOL": {bool},
    "UINT8": {int},
    "FP32": {int, float},
    "FP64": {int, float},
    "BYTES": {str},
}
_LENGTH = struct.Struct("<I")


def decode_json(values: list[Any], datatype: Datatype, shape: Sequence[int]) -> Array:
    """A tensor of some shape from JSON, in row-major order or nested by its shape.

    Strings become BYTES as UTF-8; FP32 keeps the precision of JSON, so it is float64.

    Raises:
        ServiceError: 400 for another number of elements, or for elements of another kind.
    """
    flat = _flatten(values, shape)
    if wrong := set(map(type, flat)) - _JSON_TYPES[datatype]:
        kinds = " or ".join(kind.__name__ for kind in _JSON_TYPES[datatype])
        raise _refuse(f"{datatype} data has a {wrong.pop().__name__}", f"Its elements are each {kinds}.")
    if datatype == "BYTES":
        return _hold([text.encode() for text in flat], shape)
    dtype = _DTYPES["FP64"] if datatype == "FP32" else _DTYPES[datatype]
    try:
        return np.array(flat, dtype).reshape(shape)
    except OverflowError as error:
        raise _refuse(f"{datatype} data: {error}", "Keep within the datatype's range.") from error


def decode_binary(content: memoryview, datatype: Datatype, shape: Sequence[int]) -> Array:
    """A tensor of some shape from its bytes: little-endian in row-major order; of BYTES, each behind its length as an
    unsigned 32-bit number.

    Raises:
        ServiceError: 400 for another number of bytes or elements.
    """
    if datatype == "BYTES":
        return _hold(_split(content, prod(shape)), shape)
    size = prod(shape) * _DTYPES[datatype].itemsize
    if len(content) != size:
        raise _refuse(f"The data has {len(content)} bytes", f"{datatype} of shape {list(shape)} has {size}.")
    return np.frombuffer(content, _DTYPES[datatype]).reshape(shape)


def encode_json(tensor: Array) -> list[Any]:
    """The elements in row-major order; BYTES, which are UTF-8, as strings."""
    values: list[Any] = tensor.ravel().tolist()
    return [value.decode() for value in values] if tensor.dtype == object else values


def encode_binary(tensor: Array) -> bytes:
    """The bytes that `decode_binary` understands."""
    if tensor.dtype == object:
        return b"".join(_LENGTH.pack(len(value)) + value for value in tensor.ravel())
    return tensor.astype(tensor.dtype.newbyteorder("<"), copy=False).tobytes()


def name_datatype(tensor: Array) -> Datatype:
    """The protocol's name for what an array holds."""
    names: dict[np.dtype[Any], Datatype] = {
        np.dtype(np.bool_): "BOOL",
        np.dtype(np.float32): "FP32",
        np.dtype(object): "BYTES",
    }
    return names[tensor.dtype]


def _flatten(values: list[Any], shape: Sequence[int]) -> list[Any]:
    for length in shape[1:]:
        if not (values and isinstance(values[0], list)):
            break
        if any(not isinstance(row, list) or len(row) != length for row in values):
            raise _refuse(f"The data is not nested as [{', '.join(map(str, shape))}]", "Nest it so, or not at all.")
        values = list(chain.from_iterable(values))
    if len(values) != prod(shape):
        raise _refuse(f"The data has {len(values)} elements", f"Of shape {list(shape)} there are {prod(shape)}.")
    return values


def _split(content: memoryview, count: int) -> list[bytes]:
    elements: list[bytes] = []
    position = 0
    while position < len(content):
        if position + _LENGTH.size > len(content):
            raise _refuse("The BYTES data ends within a length", "Send each element behind its length in 4 bytes.")
        (length,) = _LENGTH.unpack_from(content, position)
        position += _LENGTH.size
        if position + length > len(content):
            raise _refuse(
                f"Element {len(elements)} of the BYTES data should have {length} bytes, of which "
                f"{len(content) - position} are there",
                "Send each element behind its length, 4 bytes, little-endian.",
            )
        if len(elements) == count:
            raise _refuse(f"The BYTES data has more than {count} elements", f"The shape says {count}.")
        elements.append(bytes(content[position : position + length]))
        position += length
    if len(elements) != count:
        raise _refuse(f"The BYTES data has {len(elements)} elements", f"The shape says {count}.")
    return elements


def _hold(elements: list[bytes], shape: Sequence[int]) -> Array:
    array = np.empty(len(elements), dtype=object)
    array[:] = elements
    return array.reshape(shape)


def _refuse(message: str, hint: str) -> ServiceError:
    return ServiceError(400, "invalid_tensor", f"{message}.", hint)
