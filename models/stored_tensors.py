"""Tensors in the form that weight files hold."""

from collections.abc import Mapping
from typing import Literal

import numpy as np
import torch
from torch import Tensor

Storage = Literal["float32", "bfloat16", "int8"]
"""How matrices are stored; vectors are always float32. In int8 each row has a scale of its own."""


SHARD_BYTES = 2**27
"""Largest weight file, unless a single tensor is larger. Parsing one stops all threads of a process for 0.5 ms a MB."""

HEADER_BYTES = 2**20, 1024
"""Bytes that weight files may have beside the weights: in all, and for each tensor."""


def encode_tensors(tensors: Mapping[str, Tensor], storage: Storage) -> dict[str, Tensor]:
    """Tensors in their stored form: matrices by `storage`, with `NAME.scale` [rows, 1] beside each int8 one."""
    encoded: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        if tensor.dim() < 2 or not tensor.is_floating_point() or storage == "float32":
            encoded[name] = tensor
        elif storage == "bfloat16":
            encoded[name] = tensor.bfloat16()
        else:
            scale = tensor.abs().amax(dim=1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny) / 127
            encoded[name] = (tensor / scale).round().to(torch.int8)
            encoded[f"{name}.scale"] = scale
    return encoded


def decode_tensors(stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Inverts `encode_tensors`, up to rounding. The result is float32; integers keep their type.

    NumPy computes in the calling thread; PyTorch would start a pool of threads.

    Raises:
        ValueError: if an int8 matrix has no matching scale.
    """
    decoded: dict[str, Tensor] = {}
    for name, tensor in stored.items():
        if tensor.dtype == torch.int8:
            scale = stored.get(f"{name}.scale")
            if tensor.dim() != 2 or scale is None or scale.shape != (len(tensor), 1) or scale.dtype != torch.float32:
                raise ValueError(f"{name} is int8, so it needs {name}.scale with one float32 number per row")
            decoded[name] = torch.from_numpy(tensor.numpy().astype(np.float32) * scale.numpy())
        elif tensor.dtype == torch.bfloat16:  # the upper half of a float32
            wide = np.asarray(tensor.view(torch.uint16).numpy().astype(np.uint32) << 16)
            decoded[name] = torch.from_numpy(wide.view(np.float32))
        elif not name.endswith(".scale"):
            decoded[name] = tensor
    return decoded


def split_shards(tensors: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
    """Tensors in their stored form by weight file, in order."""
    shards: list[dict[str, Tensor]] = [{}]
    room = SHARD_BYTES
    for name, tensor in tensors.items():
        if shards[-1] and tensor.nbytes > room:
            shards.append({})
            room = SHARD_BYTES
        shards[-1][name] = tensor
        room -= tensor.nbytes
    return shards


def bound_bytes(tensors: Mapping[str, Tensor]) -> int:
    """Largest total size of the weight files of some tensors, in any storage."""
    scales = sum(4 * len(tensor) for tensor in tensors.values() if tensor.dim() == 2)
    common, each = HEADER_BYTES
    return sum(tensor.nbytes for tensor in tensors.values()) + scales + common + each * len(tensors)
