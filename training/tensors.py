"""Safetensors files of training: reading one, and the names within it."""

from collections.abc import Mapping
from pathlib import Path

from safetensors import safe_open
from torch import Tensor


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All tensors of a file by name, and its metadata."""
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no dict)
        return tensors, file.metadata()


def select_below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those named `prefix.…`, by the rest of their names."""
    return {name.removeprefix(f"{prefix}."): t for name, t in tensors.items() if name.startswith(f"{prefix}.")}
