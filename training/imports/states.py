"""State dicts of networks that were trained elsewhere, as safetensors files."""

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import nn

from models.schema import Shape
from training.imports.network import NetworkError

FLOATS = ("F64", "F32", "F16", "BF16")
"""Types of numbers that parameters may be stored in."""

PICKLES = (".bin", ".ckpt", ".pickle", ".pkl", ".pt", ".pth")
"""Suffixes of files that PyTorch writes, which are pickles."""

LISTED = 5


def load_state(path: Path, network: nn.Module) -> None:
    """Loads a state dict into the network that it belongs to.

    Raises:
        NetworkError: if the file is not a safetensors file, or does not fit the network.
    """
    if path.suffix.lower() in PICKLES:
        raise NetworkError(_explain_pickle(path))
    current = network.state_dict()
    expected = {name: tuple(tensor.shape) for name, tensor in current.items() if tensor.is_floating_point()}
    counters = current.keys() - expected.keys()  # of batches that a normalisation has seen, which change no output
    try:
        with safe_open(path, "pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys() if name not in counters}  # noqa: SIM118
            _check_shapes(path, {name: tuple(part.get_shape()) for name, part in slices.items()}, expected)
            for name, part in slices.items():
                if (kind := part.get_dtype()) not in FLOATS:
                    raise NetworkError(f"{path}: {name} has the type {kind}, which is not one of {', '.join(FLOATS)}")
            state = {name: file.get_tensor(name) for name in slices}
    except (OSError, SafetensorError) as error:
        raise NetworkError(f"{path} cannot be read as a safetensors file: {error}") from error
    for name, tensor in state.items():
        if not tensor.isfinite().all():
            raise NetworkError(f"{path}: {name} holds numbers that are not finite")
    network.load_state_dict(current | state)


def _check_shapes(path: Path, shapes: Mapping[str, Shape], expected: Mapping[str, Shape]) -> None:
    for name, shape in expected.items():
        if name not in shapes:
            held = ", ".join(list(shapes)[:LISTED])
            raise NetworkError(f"{path} lacks the tensor {name} of shape {shape}; it holds {held}, …")
        if shapes[name] != shape:
            raise NetworkError(f"{path}: {name} has shape {shapes[name]}, but the network's has shape {shape}")
    for name, shape in shapes.items():
        if name not in expected:
            raise NetworkError(f"{path} holds the tensor {name} of shape {shape}, which the network lacks")


def _explain_pickle(path: Path) -> str:
    return (
        f"{path} is a pickle, which can run code when it is read. Only safetensors files are read. To convert it:\n"
        "  from safetensors.torch import save_file; from torch import load\n"
        f"  save_file(load({str(path)!r}, 'cpu', weights_only=True), {str(path.with_suffix('.safetensors'))!r})"
    )
