"""Masks of recurrent dropout (Semeniuta et al., "Recurrent Dropout without Memory Loss", 2016)."""

import numpy as np
import torch
from torch import Tensor

LEVELS = 2**16
"""Numbers that a draw on the CPU is one of."""


class Masks:
    """Masks for the steps of a window, a new one for each step and each sequence.

    PyTorch draws one number after the other on the CPU, which takes longer than all else that a step does with a
    candidate. There, masks come from another generator, whose seed PyTorch's own draws; so `torch.manual_seed` and a
    state of its generator that was kept give the same masks again.
    """

    def __init__(self, share: float, like: Tensor) -> None:
        """Begins a window.

        Args:
            share: of the numbers that are zeroed, less than 1.
            like: a tensor with the type and the device of the masks.
        """
        self._like = like
        self._keep = 1 - share
        self._bits = np.random.SFC64(int(torch.randint(2**63 - 1, ()))) if like.device.type == "cpu" else None

    def draw(self, *shape: int) -> Tensor:
        """Zeros, and elsewhere what keeps the expectation of a number that is multiplied with it."""
        mask = self._like.new_empty(shape)
        if self._bits is None:
            return mask.bernoulli_(self._keep).div_(self._keep)
        numbers = self._bits.random_raw(-(-mask.numel() * 2 // 8)).view(np.uint16)[: mask.numel()].reshape(shape)
        kept = round(self._keep * LEVELS)
        np.multiply(numbers < kept, LEVELS / kept, out=mask.numpy(), casting="same_kind")
        return mask
