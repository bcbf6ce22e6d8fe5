"""Safetensors files, taken apart while they arrive: their numbers go straight to where they stay.

Such a file is the length of a JSON header (8 bytes, little-endian), the header, and the tensors' bytes. The library
reads only files that are there already, and without their metadata.
"""

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from hyperdraw.errors import InvalidAnswer

if TYPE_CHECKING:
    import torch

DType = Literal["float32", "float16", "bfloat16"]

_SIZES = {"BOOL": 1, "F16": 2, "BF16": 2, "F32": 4}
_NUMPY_DTYPES = {"BOOL": np.bool_, "F16": np.float16, "F32": np.float32}
_HEADER_LIMIT = 100_000_000
"""Bytes, as in the safetensors library."""


@dataclass(frozen=True)
class _Entry:
    """A tensor's place in the data."""

    dtype: str
    shape: tuple[int, ...]
    place: slice


class TensorFile:
    """The file, as far as it has arrived."""

    metadata: dict[str, str]

    def start(self, size: int | None) -> None:
        """Begins, or begins again; `size` is the whole file's in bytes, if it is known."""
        self._size = size
        self._head = bytearray()
        self._entries: dict[str, _Entry] | None = None
        self._filled = 0

    def write(self, content: bytes) -> None:
        """Takes the next bytes.

        Raises:
            InvalidAnswer: if they are no safetensors file's.
        """
        if self._entries is None:
            self._head += content
            if (header := self._take_header()) is None:
                return
            content = bytes(self._head[8 + len(header) :])
            self._read_header(header)
        end = self._filled + len(content)
        if end > len(self._data):
            raise _invalid("there is more of it than its header says")
        self._data[self._filled : end] = np.frombuffer(content, np.uint8)
        self._filled = end

    def finish(self) -> None:
        """Checks that nothing is missing.

        Raises:
            InvalidAnswer: if something is.
        """
        if self._entries is None or self._filled < len(self._data):
            raise _invalid("it ends too early")

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Views of the data, by name. bfloat16, which numpy lacks, is copied to float32, without any rounding."""
        assert self._entries is not None
        return {name: _view_array(self._data[e.place], e).reshape(e.shape) for name, e in self._entries.items()}

    def tensors(self) -> "dict[str, torch.Tensor]":
        """Views of the data, by name."""
        import torch

        dtypes = {"BOOL": torch.bool, "F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32}
        assert self._entries is not None
        data = torch.from_numpy(self._data)
        return {name: data[e.place].view(dtypes[e.dtype]).view(e.shape) for name, e in self._entries.items()}

    def _take_header(self) -> bytes | None:
        """The JSON, once it is there."""
        if len(self._head) < 8:
            return None
        length = int.from_bytes(self._head[:8], "little")
        if length > _HEADER_LIMIT:
            raise _invalid("its header would be too long")
        return bytes(self._head[8 : 8 + length]) if len(self._head) >= 8 + length else None

    def _read_header(self, header: bytes) -> None:
        try:
            content = json.loads(header)
            metadata = content.pop("__metadata__", {})
            entries = {
                name: _Entry(entry["dtype"], tuple(entry["shape"]), slice(*entry["data_offsets"]))
                for name, entry in content.items()
            }
            sizes = {name: _SIZES[entry.dtype] * math.prod(entry.shape) for name, entry in entries.items()}
            position = 0
            for name, entry in sorted(entries.items(), key=lambda item: (item[1].place.start, item[1].place.stop)):
                if min(entry.shape, default=0) < 0 or entry.place != slice(position, position + sizes[name]):
                    raise _invalid(f"{name} is not where it should be")
                position = entry.place.stop
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise _invalid("its header is not understood") from error
        if self._size not in (None, 8 + len(header) + position):
            raise _invalid("its length is not what its header says")
        self.metadata, self._entries, self._data = metadata, entries, np.empty(position, np.uint8)


def _view_array(data: NDArray[np.uint8], entry: _Entry) -> NDArray[Any]:
    if entry.dtype == "BF16":  # the upper half of a float32
        return (data.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    return data.view(_NUMPY_DTYPES[entry.dtype])


def _invalid(reason: str) -> InvalidAnswer:
    return InvalidAnswer(f"The answer is no safetensors file of this service: {reason}.", "Is the address right?")
