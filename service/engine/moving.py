"""Moving modules to the device."""

import time
from collections.abc import Generator

import torch
from torch import nn

from service.engine.scheduler import STEP_SECONDS

NUMBERS_PER_COPY = 2**23
"""Number of weights that are copied to a device at a time."""


def move(module: nn.Module, device: torch.device) -> Generator[None, None, None]:
    """Puts a module on a device, and yields before a step would be too long."""
    start = time.monotonic()
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.device.type == device.type == "cpu":
            continue
        moved = torch.empty_like(tensor, device=device)
        for source, target in zip(*(t.data.view(-1).split(NUMBERS_PER_COPY) for t in (tensor, moved)), strict=True):
            if time.monotonic() - start > STEP_SECONDS / 2:
                yield
                start = time.monotonic()
            target.copy_(source)
        tensor.data = moved
