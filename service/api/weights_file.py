"""Sampled weights as a safetensors file, generated while it is sent.

A safetensors file consists of the length of a JSON header (8 bytes, little-endian), the header, and the tensors' bytes
without gaps. All lengths follow from the shapes, so the exact Content-Length and any byte range are known before a
network is drawn, and memory does not grow with the number of networks.
"""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass
from functools import cached_property

import torch

from models.model import Model
from models.schema import Shape
from service.engine.engine import Engine

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
_SAFETENSORS_DTYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
_BYTES_PER_DRAW = 8 * 2**20
_BYTES_PER_CHUNK = 2**20


@dataclass(frozen=True)
class WeightsFile:
    """A file with one network, or with several stacked on a leading axis."""

    model: Model
    seed: int
    members: range
    stacked: bool
    dtype: str

    @property
    def filename(self) -> str:
        """Suggested name of the file."""
        members = str(self.members[0]) if len(self.members) == 1 else f"{self.members[0]}-{self.members[-1]}"
        return f"{self.model.name}-seed{self.seed}-member{members}.safetensors"

    @property
    def size(self) -> int:
        """Size of the whole file, in bytes."""
        return len(self.header) + self._bytes_per_network * len(self.members)

    @cached_property
    def header(self) -> bytes:
        """The length and the JSON header, padded to a multiple of 8 bytes."""
        entries: dict[str, object] = {"__metadata__": self.metadata}
        position = 0
        for name, shape in self._shapes.items():
            length = self._tensor_bytes(shape) * len(self.members)
            entries[name] = {
                "dtype": _SAFETENSORS_DTYPES[self.dtype],
                "shape": [len(self.members), *shape] if self.stacked else list(shape),
                "data_offsets": [position, position + length],
            }
            position += length
        text = json.dumps(entries, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        return len(text).to_bytes(8, "little") + text

    @property
    def metadata(self) -> dict[str, str]:
        """The networks' origin, their structure, and their input."""
        model = self.model
        return {
            "format": "pt",
            "checkpoint": model.name,
            "version": model.version,
            "seed": str(self.seed),
            "members": f"{self.members[0]}-{self.members[-1]}",
            "target": model.target.source,
            "input": json.dumps(asdict(model.input)),
            "task": json.dumps(asdict(model.task)),
        }

    def etag(self, device: torch.device) -> str:
        """A strong entity tag. It names device and PyTorch, because matrix products round differently with others."""
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else torch.backends.cpu.get_cpu_capability()
        parts = self.header, torch.__version__, device.type, name, torch.get_num_threads()
        return f'"{hashlib.sha256(repr(parts).encode()).hexdigest()[:32]}"'

    async def stream(self, engine: Engine, start: int, stop: int) -> AsyncIterator[memoryview]:
        """Yields the bytes from `start` up to `stop`. Only the networks for these bytes are drawn, and none after the
        client has left: every draw is an `await` at which the task can be cancelled."""
        if start < len(self.header):
            yield memoryview(self.header)[start:stop]
        position = len(self.header)
        for name, shape in self._shapes.items():
            length = self._tensor_bytes(shape)
            members_per_draw = max(1, _BYTES_PER_DRAW // length)
            for first in range(0, len(self.members), members_per_draw):
                members = self.members[first : first + members_per_draw]
                begin, end = position, position + length * len(members)
                position = end
                if end <= start or begin >= stop:
                    continue
                dtype = DTYPES[self.dtype]
                drawn = await asyncio.wrap_future(engine.sample(self.model, self.seed, members, {name}, dtype))
                content = drawn[name].flatten().view(torch.uint8).numpy().data
                content = content[max(0, start - begin) : stop - begin]
                for offset in range(0, len(content), _BYTES_PER_CHUNK):
                    yield content[offset : offset + _BYTES_PER_CHUNK]

    @property
    def _shapes(self) -> dict[str, Shape]:
        return self.model.target.parameter_shapes

    @property
    def _bytes_per_network(self) -> int:
        return sum(map(self._tensor_bytes, self._shapes.values()))

    def _tensor_bytes(self, shape: Shape) -> int:
        return torch.Size(shape).numel() * DTYPES[self.dtype].itemsize


def is_named(etag: str, header: str | None) -> bool:
    """Whether an If-None-Match header names a strong entity tag. Tags are compared weakly (RFC 9110, 13.1.2)."""
    tags = [tag.strip() for tag in (header or "").split(",")]
    return "*" in tags or etag in [tag.removeprefix("W/") for tag in tags]


def parse_range(header: str | None, size: int) -> tuple[int, int] | None:
    """Reads a Range header with one byte range, as (start, stop), within a file of `size` bytes.

    Returns:
        None if there is no header, or one that a server may ignore (RFC 9110, section 14.2): another unit, several
        ranges, or malformed.

    Raises:
        ValueError: if the range is outside the file.
    """
    unit, _, ranges = (header or "").partition("=")
    first, dash, last = ranges.strip().partition("-")
    well_formed = (
        unit.strip() == "bytes" and dash and (first or last) and all(p.isdecimal() or not p for p in (first, last))
    )
    if not well_formed:
        return None
    if not first:
        start, stop = max(0, size - int(last)), size
    else:
        start, stop = int(first), min(size, int(last) + 1) if last else size
        if last and int(last) < int(first):
            return None
    if start >= stop:
        raise ValueError(f"The range is outside the file of {size} bytes")
    return start, stop
