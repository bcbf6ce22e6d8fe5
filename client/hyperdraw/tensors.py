"""Safetensors files that are read while they arrive, so that their numbers are copied only once.

Such a file holds the length of a JSON header (8 bytes, little-endian), the header, and the tensors' bytes. The
safetensors library reads only complete files.
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

_DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype("?"),
    "BF16": np.dtype("<u2"),
    **{f"F{8 * size}": np.dtype(f"<f{size}") for size in (2, 4, 8)},
    **{f"I{8 * size}": np.dtype(f"<i{size}") for size in (1, 2, 4, 8)},
    **{f"U{8 * size}": np.dtype(f"<u{size}") for size in (1, 2, 4, 8)},
}
"""All types of numpy, because a later service may add tensors of any. bfloat16, which it lacks, is kept as bits."""
_HEADER_LIMIT = 100_000_000
"""Most bytes of a header, as in the safetensors library."""


@dataclass(frozen=True)
class _Entry:
    """Type, shape and place of a tensor in the data."""

    dtype: str
    shape: tuple[int, ...]
    place: slice


class TensorFile:
    """A file, as far as it has arrived."""

    metadata: dict[str, str]

    def start(self, size: int | None) -> None:
        """Begins, or begins again, with a file of `size` bytes, if that is known."""
        self._size = size
        self._head = bytearray()
        self._entries: dict[str, _Entry] | None = None
        self._filled = 0

    def write(self, content: bytes) -> None:
        """Takes the next bytes.

        Raises:
            InvalidAnswer: if they do not belong to a safetensors file.
        """
        if self._entries is None:
            self._head += content
            if (header := self._take_header()) is None:
                return
            content = bytes(self._head[8 + len(header) :])
            self._read_header(header)
        end = self._filled + len(content)
        if end > len(self._data):
            raise _invalid("it is longer than its header says")
        self._data[self._filled : end] = np.frombuffer(content, np.uint8)
        self._filled = end

    def finish(self) -> None:
        """Checks that the file is complete.

        Raises:
            InvalidAnswer: if it is not.
        """
        if self._entries is None or self._filled < len(self._data):
            raise _invalid("it ends too early")

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Views of the data, by name. bfloat16, which numpy lacks, is copied to float32 without rounding."""
        assert self._entries is not None
        return {
            name: _widen(self._view(entry)) if entry.dtype == "BF16" else self._view(entry)
            for name, entry in self._entries.items()
        }

    def tensors(self) -> "dict[str, torch.Tensor]":
        """Views of the data, by name."""
        import torch

        assert self._entries is not None
        tensors = {name: torch.from_numpy(self._view(entry)) for name, entry in self._entries.items()}
        return {
            name: t.view(torch.bfloat16) if self._entries[name].dtype == "BF16" else t for name, t in tensors.items()
        }

    def _view(self, entry: _Entry) -> NDArray[Any]:
        """The part of the data that belongs to a tensor, in its shape."""
        return self._data[entry.place].view(_DTYPES[entry.dtype]).reshape(entry.shape)

    def _take_header(self) -> bytes | None:
        """The header, once it is complete."""
        if len(self._head) < 8:
            return None
        length = int.from_bytes(self._head[:8], "little")
        if length > _HEADER_LIMIT:
            raise _invalid("its header is too long")
        return bytes(self._head[8 : 8 + length]) if len(self._head) >= 8 + length else None

    def _read_header(self, header: bytes) -> None:
        try:
            content = json.loads(header)
            metadata = content.pop("__metadata__", {})
            entries = {
                name: _Entry(entry["dtype"], tuple(entry["shape"]), slice(*entry["data_offsets"]))
                for name, entry in content.items()
            }
            sizes = {name: _DTYPES[entry.dtype].itemsize * math.prod(entry.shape) for name, entry in entries.items()}
            position = 0
            for name, entry in sorted(entries.items(), key=lambda item: (item[1].place.start, item[1].place.stop)):
                if min(entry.shape, default=0) < 0 or entry.place != slice(position, position + sizes[name]):
                    raise _invalid(f"the place of {name} is wrong")
                position = entry.place.stop
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise _invalid("its header is malformed") from error
        if self._size not in (None, 8 + len(header) + position):
            raise _invalid("its length differs from what its header says")
        self.metadata, self._entries, self._data = metadata, entries, np.empty(position, np.uint8)


def _widen(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    """Converts bfloat16 to float32, of which it is the upper half."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def _invalid(reason: str) -> InvalidAnswer:
    return InvalidAnswer(
        f"The answer is not a safetensors file of a hyperdraw service: {reason}.", "Check the address."
    )
