"""The plain PyTorch module that a user's own file makes."""

import importlib.util
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import torch
from torch import nn


class NetworkError(Exception):
    """A network or a state dict that cannot be imported; the message names it and says why."""


def load_network(source: str) -> nn.Module:
    """Runs a Python file, and returns the network that it makes: on the CPU, in float32 and in evaluation mode.

    The file runs with all rights of this process, so it must be trusted.

    Args:
        source: `FILE.py:NAME`. The name is that of a module, or of a function that returns one without arguments.

    Raises:
        NetworkError: if there is no such file or name, if the file fails, or if the result is not a module.
    """
    file, _, name = source.rpartition(":")
    if not file.endswith(".py") or not name.isidentifier():
        raise NetworkError(f"--target must be FILE.py:NAME, such as net.py:network, not {source!r}")
    path = Path(file)
    if not path.is_file():
        raise NetworkError(f"{path} does not exist")
    with _explain(path, "cannot be run"), _find_neighbours(path):
        file_module = _run(path)
    if not hasattr(file_module, name):
        modules = [key for key, value in vars(file_module).items() if isinstance(value, nn.Module)]
        hint = f"; its modules are {', '.join(modules)}" if modules else ""
        raise NetworkError(f"{path} defines no {name}{hint}")
    network = getattr(file_module, name)
    if not isinstance(network, nn.Module) and callable(network):
        with _explain(path, f"{name}() fails"), _find_neighbours(path):
            network = network()
    if not isinstance(network, nn.Module):
        raise NetworkError(f"{source} gives {type(network).__name__}, not a PyTorch module")
    return network.to("cpu", torch.float32).eval()


def check_distinct(paths: Sequence[Path], digests: Sequence[bytes]) -> None:
    """Checks that the networks of files differ.

    Raises:
        NetworkError: if two have the same digest.
    """
    seen: dict[bytes, Path] = {}
    for path, digest in zip(paths, digests, strict=True):
        if digest in seen:
            raise NetworkError(f"{seen[digest]} and {path} hold the same network")
        seen[digest] = path


def _run(path: Path) -> ModuleType:
    name = f"target_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # as dataclasses look there for the file that defines them
    try:
        spec.loader.exec_module(module)
    finally:
        del sys.modules[name]
    return module


@contextmanager
def _explain(path: Path, what: str) -> Iterator[None]:
    try:
        yield
    except (Exception, SystemExit) as error:  # whatever a user's own code raises
        raise NetworkError(f"{path}: {what}: {type(error).__name__}: {error}") from error


@contextmanager
def _find_neighbours(path: Path) -> Iterator[None]:
    """Lets the file import those beside it, as when it is run by itself."""
    before = sys.path.copy()
    sys.path.insert(0, str(path.resolve().parent))
    try:
        yield
    finally:
        sys.path[:] = before
