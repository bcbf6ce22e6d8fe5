"""What is asked by the Open Inference Protocol."""

from typing import Any

from numpy.typing import NDArray
from tritonclient.http import InferInput
from tritonclient.utils import np_to_triton_dtype

from tests.pictures import draw_image, encode

INFER = "/v2/models/digits/infer"
PICTURES = [encode(draw_image(size=(8, 8))), encode(draw_image("RGB"), "JPEG"), encode(draw_image("RGB"), "WEBP")]


def give(array: NDArray[Any], name: str = "images", *, binary: bool = True) -> InferInput:
    tensor = InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
    tensor.set_data_from_numpy(array, binary_data=binary)
    return tensor
