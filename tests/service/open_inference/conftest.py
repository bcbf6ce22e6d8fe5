from collections.abc import Iterator

import httpx
import numpy as np
import pytest
import torch
from fastapi import FastAPI
from numpy.typing import NDArray
from tritonclient.http import InferenceServerClient

from models.checkpoint import Checkpoint
from models.inputs.image import ImageSpec
from models.inputs.pixels import decode_image
from tests.tensors import PICTURES


@pytest.fixture
def triton(client: httpx.Client) -> Iterator[InferenceServerClient]:
    with InferenceServerClient(f"{client.base_url.host}:{client.base_url.port}") as triton:
        yield triton


@pytest.fixture
def pixels(checkpoint: Checkpoint) -> NDArray[np.uint8]:
    """PICTURES as the model takes them."""
    spec = checkpoint.config.input
    assert isinstance(spec, ImageSpec)
    images = torch.stack([decode_image(picture, spec, 10**6, "") for picture in PICTURES])
    array: NDArray[np.uint8] = images.numpy()
    return array


@pytest.fixture(scope="module")
def addresses(rpc_app: FastAPI) -> Iterator[tuple[str, str]]:
    """The addresses for HTTP and for gRPC of a module's app."""
    from tests.rpcs import serve  # skips where gRPC is not installed

    with serve(rpc_app) as (_, http, address):
        yield http, address


@pytest.fixture
def address(addresses: tuple[str, str]) -> str:
    """The address for gRPC of a module's app."""
    return addresses[1]
