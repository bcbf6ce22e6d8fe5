"""Sampled weights as a safetensors file, generated while it is sent.

A safetensors file consists of the length of a JSON header (8 bytes, little-endian), the header, and the tensors' bytes
without gaps. All lengths follow from the shapes, so the exact Content-Length and any byte range are known before a
network is drawn, and memory does not grow with the number of networks.
"""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from models.model import Model
from models.schema import Shape
from models.sequences.frozen import find_frozen_target
from models.sequences.network import SequenceTarget
from models.targets.target import TargetNetwork
from service.api.sequence_requests import SequenceRequest
from service.engine.engine import Engine, ServedModel

SUFFIX = ".safetensors"
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
_STORED_DTYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
_BYTES_PER_DRAW = 8 * 2**20
_BYTES_PER_CHUNK = 2**20


@dataclass(frozen=True)
class WeightsFile:
    """A file with one network, or with several stacked on a leading axis."""

    model: ServedModel
    seed: int
    members: range
    stacked: bool
    dtype: str

    @property
    def filename(self) -> str:
        """Suggested name of the file."""
        members = str(self.members[0]) if len(self.members) == 1 else f"{self.members[0]}-{self.members[-1]}"
        return f"{self.model.name}-seed{self.seed}-member{members}{SUFFIX}"

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
                "dtype": _STORED_DTYPES[self.dtype],
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
        task = {"task": json.dumps(asdict(model.task))} if isinstance(model, Model) else {}
        return {
            "format": "pt",
            "checkpoint": model.name,
            "version": model.version,
            "seed": str(self.seed),
            "members": f"{self.members[0]}-{self.members[-1]}",
            "target": self._target.source,
            "input": json.dumps(asdict(model.input)),
            **task,
        }

    def etag(self, device: torch.device) -> str:
        """A strong entity tag. It names device and PyTorch, because matrix products round differently with others."""
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else torch.backends.cpu.get_cpu_capability()
        parts = self.header, torch.__version__, device.type, name, torch.get_num_threads()
        return f'"{hashlib.sha256(repr(parts).encode()).hexdigest()[:32]}"'

    async def stream(self, engine: Engine, start: int, stop: int) -> AsyncIterator[bytes]:
        """Yields the bytes from `start` up to `stop`. Only the networks for these bytes are drawn, and none after the
        client has left: every draw is an `await` at which the task can be cancelled."""
        if start < len(self.header):
            yield self.header[start:stop]
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
                drawn = await self._draw(engine, members, name)
                content = drawn.flatten().view(torch.uint8).numpy().data
                content = content[max(0, start - begin) : stop - begin]
                for offset in range(0, len(content), _BYTES_PER_CHUNK):
                    yield bytes(content[offset : offset + _BYTES_PER_CHUNK])  # the type of an ASGI body

    async def _draw(self, engine: Engine, members: range, name: str) -> Tensor:
        """A parameter of some members, contiguous on the CPU."""
        drawn = await asyncio.wrap_future(engine.sample(self.model, self.seed, members, {name}, DTYPES[self.dtype]))
        return drawn[name]

    @property
    def _target(self) -> TargetNetwork | SequenceTarget:
        """The target whose parameters it holds."""
        return self.model.target

    @cached_property
    def _shapes(self) -> dict[str, Shape]:
        return self._target.parameter_shapes

    @property
    def _bytes_per_network(self) -> int:
        return sum(map(self._tensor_bytes, self._shapes.values()))

    def _tensor_bytes(self, shape: Shape) -> int:
        return torch.Size(shape).numel() * DTYPES[self.dtype].itemsize


@dataclass(frozen=True)
class StepFile(WeightsFile):
    """A file with the LSTM that a network is at one step of a sequence."""

    asking: SequenceRequest
    prompt: str
    """What the client sent."""
    given: Sequence[Any]
    """The elements of it that the network reads."""
    weights: dict[str, Tensor] = field(default_factory=dict)
    """The parameters, from `compute`."""

    @property
    def filename(self) -> str:
        return f"{super().filename.removesuffix(SUFFIX)}-step{len(self.given)}{SUFFIX}"

    @property
    def metadata(self) -> dict[str, str]:
        return {**super().metadata, "prompt": self.prompt, "step": str(len(self.given))}

    async def compute(self) -> None:
        """Finds the parameters. Raises as `SequenceRequest.look_ahead`."""
        model, given = self.asking.model, self.given
        sequence = model.open(self.seed, self.members, given, first=len(given), keeps=True)
        (outlook,) = await self.asking.look_ahead([sequence])
        self.weights.update(outlook.weights or {})

    async def _draw(self, engine: Engine, members: range, name: str) -> Tensor:  # noqa: ARG002  # they were computed
        return self.weights[name].to("cpu", DTYPES[self.dtype]).contiguous()

    @property
    def _target(self) -> SequenceTarget:
        return find_frozen_target(self.asking.model.target)


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
