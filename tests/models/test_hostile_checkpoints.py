"""Checkpoints that were made to hold up, fill or stop whoever loads them."""

import hashlib
import os
import shutil
import socket
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from models.checkpoint import load_checkpoint
from models.checkpoint_files import CheckpointError
from models.foreign_files import may_pass, read_file
from models.stored_tensors import decode_tensors, encode_tensors
from tests.checkpoints import convert, edit, rewrite_weights, set_layers
from tests.costs import bound_time


@pytest.fixture
def saved(checkpoints: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(checkpoints / "digits", tmp_path / "store" / "odd"))


def replace_with(kind: str, path: Path, stack: ExitStack) -> None:
    """Puts something else in the place of a file."""
    content = path.read_bytes()
    path.unlink()
    match kind:
        case "pipe":
            os.mkfifo(path)
        case "directory":
            path.mkdir()
        case "device":
            path.symlink_to("/dev/zero")
        case "terminal":
            path.symlink_to("/dev/ptmx")
        case "socket":
            server = stack.enter_context(socket.socket(socket.AF_UNIX))
            here = Path.cwd()
            os.chdir(path.parent)  # as paths of sockets are short
            server.bind(path.name)
            os.chdir(here)
        case "link to a pipe":
            os.mkfifo(path.with_suffix(".pipe"))
            path.symlink_to(path.with_suffix(".pipe"))
        case "link to itself":
            path.symlink_to(path)
        case "sparse":
            path.write_bytes(content)
            os.truncate(path, 2**40)
        case "endless":
            path.symlink_to("/proc/self/mem")
        case "changing":
            path.symlink_to("/proc/self/stat")


FILES = ["config.json", "model.safetensors", "calibration.json", "metrics.json"]
KINDS = {
    "pipe": "not a regular file",
    "directory": "not a regular file",
    "device": "not a regular file",
    "terminal": "not a regular file",
    "socket": "not a regular file",
    "link to a pipe": "not a regular file",
    "link to itself": "Too many levels of symbolic links",
    "sparse": "larger than",
    "endless": "Input/output error|changed while it was read",
    "changing": "changed while it was read",
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_file_of_a_fair_size_is_refused_at_once(saved: Path, kind: str, name: str) -> None:
    with ExitStack() as stack:
        replace_with(kind, saved / name, stack)
        with bound_time(), pytest.raises(CheckpointError, match=rf"{name}: ({KINDS[kind]})"):
            load_checkpoint(saved)


def test_links_to_files_are_followed(saved: Path, tmp_path: Path) -> None:
    version = load_checkpoint(saved).version
    for name in FILES:
        (saved / name).rename(tmp_path / name)
        (saved / name).symlink_to(tmp_path / name)
    assert load_checkpoint(saved).version == version


def test_what_is_opened_is_checked_though_it_was_another_file_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, regular = tmp_path / "file", Path(__file__).stat()
    os.mkfifo(path)
    monkeypatch.setattr(Path, "stat", lambda _: regular)
    with pytest.raises(OSError, match="not a regular file") as caught:
        read_file(path, 2**20)
    assert not may_pass(caught.value)


@pytest.mark.parametrize("number", [24, 23, 5, 11, 12, 116])  # EMFILE, ENFILE, EIO, EAGAIN, ENOMEM, ESTALE
def test_what_lies_in_the_system_may_pass(number: int) -> None:
    assert may_pass(OSError(number, os.strerror(number)))
    assert may_pass(MemoryError())


def nest(depth: int) -> dict[str, Any]:
    inner = {"kind": "conv", "channels": 1, "kernel_size": 1}
    return {"kind": "residual", "layers": [nest(depth - 1) if depth else inner]}


SMALL = {"kind": "conv", "channels": 1, "kernel_size": 1}
MANY = [SMALL] * 240
CONFIGS: dict[str, Callable[[dict[str, Any]], object]] = {
    "10¹² weights of a layer": set_layers({"kind": "conv", "channels": 65536, "kernel_size": 8}, SMALL),
    "10¹⁹ weights of a layer": set_layers(
        {"kind": "conv", "channels": 65536, "kernel_size": 1},
        {"kind": "conv", "channels": 65536, "kernel_size": 65535, "padding": 65536},
    ),
    "10²⁰ activations": set_layers({"kind": "conv", "channels": 65536, "kernel_size": 1, "padding": 65536}),
    "many layers": set_layers(*[SMALL] * 1000),
    "many layers in blocks": set_layers(*[{"kind": "residual", "layers": [SMALL] * 100}] * 100),
    "deep blocks": set_layers(nest(60)),
    "many modes": set_layers(*MANY, method="hyperdraw", modes=10_000),
    "many networks": set_layers(*MANY, method="deep_ensemble", networks=10_000),
    "many static modes": set_layers(*MANY, method="static_hypernetwork", modes=10_000, basic_channels=1),
    "many tiles": set_layers(
        *[{"kind": "conv", "channels": 65536, "kernel_size": 1}] * 3, method="static_hypernetwork", basic_channels=1
    ),
    "many flows": set_layers(*MANY, method="mnf", flows=65536),
    "many hidden layers": set_layers(method="mlp", hidden_sizes=[1] * 100_000),
    "many wrong classes": lambda config: config["task"].update(classes=[1] * 1_000_000),
    "many wrong layers": lambda config: config["target"].update(layers=[1] * 1_000_000),
    "many wrong means": lambda config: config["input"].update(mean=[""] * 1_000_000),
    "many files": lambda config: config.update(files={f"{i}.safetensors": "" for i in range(150_000)}),
    "many wrong files": lambda config: config.update(files={str(i): 1 for i in range(300_000)}),
}


@pytest.mark.parametrize("config", CONFIGS)
def test_a_config_that_describes_too_much_is_refused_soon(saved: Path, config: str) -> None:
    load_checkpoint(saved)  # as PyTorch loads parts of itself at first
    edit(saved / "config.json", CONFIGS[config])
    with bound_time(), pytest.raises(CheckpointError):
        load_checkpoint(saved, most_bytes=2**32)


@pytest.mark.parametrize("content", ["[" * 4_000_000, '{"a":' * 800_000, "9" * 4_000_000, '"' + "\\ud800" * 600_000])
@pytest.mark.parametrize("name", ["config.json", "calibration.json", "metrics.json"])
def test_deep_or_long_json_is_refused_soon(saved: Path, name: str, content: str) -> None:
    (saved / name).write_text(content)
    with bound_time(), pytest.raises(CheckpointError, match=name):
        load_checkpoint(saved)


def test_calibrations_with_many_errors_are_refused_soon(saved: Path) -> None:
    edit(saved / "calibration.json", lambda calibration: calibration.update(sizes=[1] * 1_000_000))
    with bound_time(), pytest.raises(CheckpointError, match=r"sizes\.0"):
        load_checkpoint(saved)


def test_weights_take_what_the_config_says_and_no_more(saved: Path) -> None:
    path = saved / "model.safetensors"
    with path.open("ab") as file:
        file.truncate(path.stat().st_size + 2 * 2**20)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    edit(saved / "config.json", lambda config: config["files"].update({"model.safetensors": digest}))
    with pytest.raises(CheckpointError, match=r"model\.safetensors: larger than"):
        load_checkpoint(saved)


def test_no_file_is_read_of_weights_that_are_too_many(saved: Path) -> None:
    (saved / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"describes weights of . MiB, more than the 0 MiB allowed"):
        load_checkpoint(saved, most_bytes=1000)


TYPES = [
    torch.int8,
    torch.uint8,
    torch.int16,
    torch.int32,
    torch.int64,
    torch.uint16,
    torch.uint32,
    torch.uint64,
    torch.bool,
    torch.float16,
    torch.float64,
    torch.complex64,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
]


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_weights_of_another_type_are_refused(saved: Path, dtype: torch.dtype) -> None:
    name = next(name for name, t in load_file(saved / "model.safetensors").items() if t.dim() == 1)
    for names in ([name], []):
        rewrite_weights(saved, lambda tensors, names=names: convert(tensors, names, dtype))  # type: ignore[misc]
        with pytest.raises(CheckpointError, match=r"is .*, not (float32|int64)|is int8, so it needs"):
            load_checkpoint(saved)


@pytest.mark.parametrize("name", ["F4", "F8_E8M0", "F6_E2M3", "C64", "X"])
def test_types_that_pytorch_lacks_are_refused(saved: Path, name: str) -> None:
    def rename(path: Path) -> str:
        content = path.read_bytes()
        length = int.from_bytes(content[:8], "little")
        header = content[8 : 8 + length].replace(b'"F32"', f'"{name}"'.encode())
        path.write_bytes(len(header).to_bytes(8, "little") + header + content[8 + length :])
        return hashlib.sha256(path.read_bytes()).hexdigest()

    digest = rename(saved / "model.safetensors")
    edit(saved / "config.json", lambda config: config["files"].update({"model.safetensors": digest}))
    with pytest.raises(CheckpointError, match="not a valid safetensors file"):
        load_checkpoint(saved)


def test_scales_of_another_type_are_refused(saved: Path) -> None:
    def quantize(tensors: dict[str, torch.Tensor]) -> None:
        name = next(name for name, tensor in tensors.items() if tensor.dim() == 2)
        tensors[f"{name}.scale"] = torch.ones(len(tensors[name]), 1, dtype=torch.float64)
        tensors[name] = torch.ones_like(tensors[name], dtype=torch.int8)

    rewrite_weights(saved, quantize)
    with pytest.raises(CheckpointError, match="one float32 number per row"):
        load_checkpoint(saved)


def test_numpy_decodes_as_pytorch_does() -> None:
    generator = torch.Generator().manual_seed(0)
    matrix = torch.cat([torch.randn(30, 50, generator=generator), torch.tensor([[0.0, -0.0, 1e-40, 3e38, -1e-6] * 10])])
    assert torch.equal(decode_tensors(encode_tensors({"w": matrix}, "bfloat16"))["w"], matrix.bfloat16().float())
    stored = encode_tensors({"w": matrix}, "int8")
    assert torch.equal(decode_tensors(stored)["w"], stored["w"].float() * stored["w.scale"])
