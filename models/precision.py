"""The precision of matrix products: float32, or bfloat16 where the hardware multiplies it."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch

from models.targets.target import TargetNetwork

Precision = Literal["float32", "bfloat16"]

DTYPES: dict[Precision, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def choose_precision(device: torch.device) -> Precision:
    """The precision of products that is fastest on a device: bfloat16 where the hardware multiplies it."""
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    multiplies = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()  # no name is public
    return "bfloat16" if multiplies else "float32"


def limit_precision(precision: Precision, target: TargetNetwork) -> Precision:
    """The precision in which a target network answers: a coarser one only for images.

    Networks of vectors are too small to get faster, and numbers that they predict should change smoothly.
    """
    return precision if len(target.input_shape) == 3 else "float32"


def multiply_in(precision: Precision, device: torch.device) -> AbstractContextManager[Any]:
    """A context in which matrix products have a precision; what else PyTorch computes in it keeps its own."""
    if precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, DTYPES[precision])
