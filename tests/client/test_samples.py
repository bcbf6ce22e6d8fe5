"""Networks that the client downloads, also over connections that break."""

import errno
from pathlib import Path
from typing import Any

import httpx
import hyperdraw
import numpy as np
import pytest
import torch
from safetensors.numpy import save
from safetensors.torch import load_file

from models.checkpoint import Checkpoint
from tests.client.gateway import Ask, refuse, respond, stand_before


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("count", [None, 3])
def test_sample(ask: Ask, address: str, checkpoint: Checkpoint, tmp_path: Path, dtype: Any, count: int | None) -> None:
    arrays = ask(address, "sample", "digits", seed=7, member=2, count=count, dtype=dtype)
    tensors = ask(address, "sample_tensors", seed=7, member=2, count=count, dtype=dtype, version=checkpoint.version)
    expected = checkpoint.sampler.sample(7, range(2, 2 + (count or 1)))
    assert list(arrays.weights) == list(tensors.weights) == list(expected)
    for name, tensor in expected.items():
        tensor = (tensor if count else tensor[0]).to(getattr(torch, dtype))
        assert tensors.weights[name].dtype == tensor.dtype
        torch.testing.assert_close(tensors.weights[name], tensor, rtol=1e-2, atol=1e-5)
        assert arrays.weights[name].dtype == (np.float16 if dtype == "float16" else np.float32)
        np.testing.assert_array_equal(arrays.weights[name], tensors.weights[name].float())
    path = tmp_path / "net.safetensors"
    ask(address, "download", path, seed=7, member=2, count=count, dtype=dtype)
    for name, tensor in load_file(path).items():
        assert tensor.dtype == tensors.weights[name].dtype
        assert torch.equal(tensor, tensors.weights[name])
    for sample in (arrays, tensors):
        assert (sample.model, sample.version, sample.seed) == ("digits", checkpoint.version, 7)
        assert sample.members == range(2, 2 + (count or 1))
        assert sample.metadata["target"] == checkpoint.config.target.source


def test_fresh_samples_differ_and_can_be_had_again(address: str) -> None:
    with hyperdraw.Client(address) as client:
        first, second = client.sample(), client.sample()
        again = client.sample(seed=first.seed)
    assert first.seed != second.seed
    for name, array in first.weights.items():
        np.testing.assert_array_equal(array, again.weights[name])


@pytest.mark.parametrize("cut", [0, 3, 700, 5000, 30_000])
def test_downloads_that_break_are_resumed(ask: Ask, client: httpx.Client, tmp_path: Path, cut: int) -> None:
    whole = client.get("/v1/models/digits/weights", params={"seed": 7, "count": 50})
    later = [cut * 2, 1] if cut else []
    with stand_before(client, cut, refuse(429, "overloaded", "Retry-After: 0"), *later) as gateway:
        seen: list[tuple[int, int | None]] = []
        path = tmp_path / "net.safetensors"
        path.write_bytes(b"old")
        file = ask(
            gateway.address, "download", path, "digits", seed=7, count=50, progress=lambda *state: seen.append(state)
        )
    assert path.read_bytes() == whole.content
    assert list(tmp_path.iterdir()) == [path]
    assert seen[-1] == (len(whole.content), len(whole.content))
    assert file == hyperdraw.Download(
        path, len(whole.content), "digits", whole.headers["X-Hyperdraw-Version"], 7, range(50)
    )
    asked = [None, cut, cut, cut * 3, cut * 3 + 1] if cut else [None, None, None]
    ranges = [None if start is None else f"bytes={start}-" for start in asked]
    assert gateway.header("Range") == ranges
    assert gateway.header("If-Range") == [text and whole.headers["ETag"] for text in ranges]
    load_file(path)


def test_samples_that_break_are_resumed(ask: Ask, client: httpx.Client, address: str) -> None:
    whole = ask(address, "sample", seed=7, count=50)
    with stand_before(client, 5, 4000, 4000) as gateway:
        resumed = ask(gateway.address, "sample", "digits", seed=7, count=50, options={"retries": 1})
    assert gateway.header("Range") == [None, "bytes=5-", "bytes=4005-", "bytes=8005-"]
    for name, array in whole.weights.items():
        np.testing.assert_array_equal(resumed.weights[name], array)


def test_a_download_begins_again_where_the_networks_are_others_now(
    ask: Ask, client: httpx.Client, tmp_path: Path
) -> None:
    other = save({"a": np.arange(9, dtype=np.float32)})
    identity = ("X-Hyperdraw-Seed: 7", "X-Hyperdraw-Version: other", 'ETag: "other"')
    with stand_before(client, 5000, respond(200, *identity, body=other)) as gateway:
        file = ask(gateway.address, "download", tmp_path / "net", "digits", seed=7, count=50)
    assert (tmp_path / "net").read_bytes() == other
    assert (file.version, file.size) == ("other", len(other))


def test_another_part_than_was_asked_for_is_not_taken(ask: Ask, client: httpx.Client, tmp_path: Path) -> None:
    etag = client.head("/v1/models/digits/weights", params={"seed": 7, "count": 50}).headers["ETag"]
    wrong = respond(206, f"ETag: {etag}", "Content-Range: bytes 0-9/20000", body=b"0123456789")
    with stand_before(client, 5000, wrong) as gateway, pytest.raises(hyperdraw.InvalidAnswer):
        ask(gateway.address, "download", tmp_path / "net", "digits", seed=7, count=50)


def test_a_download_that_fails_leaves_what_was_there(ask: Ask, client: httpx.Client, tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    path.write_bytes(b"old")
    with stand_before(client, 5000, refuse(500)) as gateway, pytest.raises(hyperdraw.ServiceError):
        ask(gateway.address, "download", path, "digits", seed=7, count=50)
    with stand_before(client, 5000, 0, 0, 0) as gateway, pytest.raises(hyperdraw.ConnectionFailed):
        ask(gateway.address, "download", path, "digits", seed=7, count=50, options={"retries": 2})
    assert len(gateway.requests) == 3
    assert (path.read_bytes(), list(tmp_path.iterdir())) == (b"old", [path])
    with (
        stand_before(client, respond(200, "Content-Type: text/html", body=b"<html>")) as gateway,
        pytest.raises(hyperdraw.InvalidAnswer, match="Check the address"),
    ):
        ask(gateway.address, "download", path, "digits")
    assert (path.read_bytes(), list(tmp_path.iterdir())) == (b"old", [path])
    with pytest.raises(FileNotFoundError):
        ask(gateway.address, "download", tmp_path / "nowhere" / "net")


def test_a_failure_to_write_names_the_file(ask: Ask, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(file: object, content: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("hyperdraw.calls._File.write", write)
    with pytest.raises(OSError, match="No space left on device: '/dev/null'"):
        ask(address, "download", "/dev/null", "digits")
