"""The state of an unfinished training on disk: modules, optimizers, what identifies the run, and how far it is."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialize_tensors
from torch import Tensor, nn

from models.checkpoint_files import write_file
from training.tensors import read_tensors, select_below


class TrainingError(Exception):
    """The run cannot continue; the message says why."""


def save_state(
    path: Path,
    modules: Mapping[str, nn.Module],
    optimizers: Mapping[str, torch.optim.Optimizer],
    identity: Mapping[str, Any],
    counters: Mapping[str, str],
    more: Mapping[str, Tensor] | None = None,
) -> None:
    """Writes everything that `load_state` needs, atomically.

    Args:
        path: path of the file.
        modules: modules by name.
        optimizers: optimizers by name.
        identity: what the run depends on, as plain data.
        counters: how far the run is, and what it has measured.
        more: more tensors by name.
    """
    tensors = {
        f"{prefix}.{name}": tensor for prefix, module in modules.items() for name, tensor in module.state_dict().items()
    }
    for prefix, optimizer in optimizers.items():
        for index, state in optimizer.state_dict()["state"].items():
            tensors |= {f"{prefix}.{index}.{name}": tensor for name, tensor in state.items()}
    tensors |= {f"more.{name}": tensor for name, tensor in (more or {}).items()}
    tensors = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    write_file(path, serialize_tensors(tensors, {"run": json.dumps(identity), **counters}))


def load_state(
    path: Path,
    modules: Mapping[str, nn.Module],
    optimizers: Mapping[str, torch.optim.Optimizer],
    identity: Mapping[str, Any],
) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Restores modules and optimizers, and returns the counters and the other tensors.

    Raises:
        TrainingError: if the file cannot be read or belongs to another run.
    """
    saved = read_identity(path)
    if differing := [f"{key} {saved.get(key)}" for key in identity if saved.get(key) != identity[key]]:
        raise TrainingError(
            f"{path} holds the state of another run, with {', '.join(differing)}. Repeat its command, or choose "
            "another --out."
        )
    tensors, counters = read_tensors(path)
    for prefix, module in modules.items():
        module.load_state_dict(select_below(prefix, tensors))
    for prefix, optimizer in optimizers.items():
        states: dict[int, dict[str, Tensor]] = {}
        for name, tensor in select_below(prefix, tensors).items():
            index, key = name.split(".")
            states.setdefault(int(index), {})[key] = tensor
        optimizer.load_state_dict({**optimizer.state_dict(), "state": states})
    return counters, select_below("more", tensors)


def read_identity(path: Path) -> dict[str, Any]:
    """Reads what identifies a saved run: its recipe, seed and planned steps.

    Raises:
        TrainingError: if the file is not a saved run.
    """
    try:
        with safe_open(path, "pt") as file:
            identity: dict[str, Any] = json.loads(file.metadata()["run"])
            return identity
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise TrainingError(f"{path} is not a saved training run: {error}") from error
