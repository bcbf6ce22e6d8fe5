"""What the machine itself can do, which the rest is measured against."""

import torch

SIDE = 2048


class MatrixProduct:
    """A product of square matrices, in float32 as PyTorch is set to compute it."""

    operations = 2 * SIDE**3

    def __init__(self, device: torch.device) -> None:
        self._factors = torch.randn(2, SIDE, SIDE, device=device)
        self._product = torch.empty(SIDE, SIDE, device=device)

    def __call__(self) -> None:
        torch.mm(self._factors[0], self._factors[1], out=self._product)


class Copy:
    """A copy of a tensor that no cache holds."""

    def __init__(self, device: torch.device) -> None:
        self._source = torch.randn(2**25, device=device)
        self._target = torch.empty_like(self._source)
        self.bytes = 2 * 4 * self._source.numel()
        """Read and written."""

    def __call__(self) -> None:
        self._target.copy_(self._source)
