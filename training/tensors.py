"""Safetensors files of training: reading them, and selecting tensors by name."""

from collections.abc import Mapping
from pathlib import Path

from safetensors import safe_open
from torch import Tensor


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Reads all tensors of a file by name, and its metadata."""
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is not a dict)
        return tensors, file.metadata()


def select_below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Selects the tensors named `prefix.…`, by the rest of their names."""
    return {name.removeprefix(f"{prefix}."): t for name, t in tensors.items() if name.startswith(f"{prefix}.")}
