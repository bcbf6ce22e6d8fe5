"""Safetensors files that arrive in pieces."""

import json
from typing import Any

import hyperdraw
import numpy as np
import pytest
from hyperdraw.tensors import TensorFile
from safetensors.numpy import load, save

CONTENT = save(
    {
        "a": np.arange(6, dtype=np.float32).reshape(2, 3),
        "b": np.array([True, False]),
        "c": np.zeros((0, 4), np.float16),
    },
    {"x": "y"},
)


@pytest.mark.parametrize("step", [1, 7, 50, 1000])
def test_tensors_arrive_in_any_pieces(step: int) -> None:
    file = TensorFile()
    file.start(None)
    file.write(CONTENT[: len(CONTENT) // 2])
    file.start(len(CONTENT))
    for offset in range(0, len(CONTENT), step):
        file.write(CONTENT[offset : offset + step])
    file.finish()
    arrays = file.arrays()
    assert file.metadata == {"x": "y"}
    for name, array in load(CONTENT).items():
        np.testing.assert_array_equal(arrays[name], array)


def forge(header: Any, data: bytes = bytes(8)) -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"<html><body>",
        CONTENT[:-1],
        CONTENT + b"x",
        CONTENT[:20],
        bytes(8),
        forge([]),
        forge({"a": 3}),
        forge({"a": {}}),
        forge({"a": {"dtype": "F128", "shape": [1], "data_offsets": [0, 16]}}, bytes(16)),
        forge({"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}}),
        forge({"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}),
        forge({"a": {"dtype": "F32", "shape": [-1, -2], "data_offsets": [0, 8]}}),
        forge({"a": {"dtype": "F32", "shape": [10**15], "data_offsets": [0, 4 * 10**15]}}),
        forge({"a": {"dtype": "F32", "shape": ["x"], "data_offsets": ["x", 8]}}),
    ],
)
def test_what_is_no_file_of_tensors(content: bytes) -> None:
    file = TensorFile()
    file.start(len(content))
    with pytest.raises(hyperdraw.InvalidAnswer):  # noqa: PT012 (either call may find out)
        file.write(content)
        file.finish()
