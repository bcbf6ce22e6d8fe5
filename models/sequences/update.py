"""What every cell does with its gates: normalisation, what the cell keeps and takes in, and what is read of it.

Both ways are written by hand: to differentiate some twenty operations on the small tensors of a step automatically
takes longer than the operations.

Shapes: B sequences, n units of a cell.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.sequences.masks import Masks
from models.sequences.products import GATES
from models.sequences.window import Saved

EPSILON = 1e-3
"""Added to variances by layer normalisation, as in the authors' code. Pre-activations begin with a variance of about
5·10⁻⁶, so this keeps first steps small; PyTorch's 10⁻⁵ would not."""

FORGET_BIAS = 1.0
"""Added to the forget gate, after its normalisation, which would take it away again."""

aten = torch.ops.aten


class GateNorm(nn.Module):
    """Gains and shifts for the layer normalisation of each gate by itself (Ba et al., 2016)."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(len(GATES), size))
        self.shift = nn.Parameter(torch.zeros(len(GATES), size))


class CellUpdate(nn.Module):
    """The parameters of an update. The carried cell is not normalised; what the output reads of it is."""

    def __init__(self, size: int, layer_norm: bool) -> None:
        super().__init__()
        self.norm = GateNorm(size) if layer_norm else nn.Identity()
        self.cell_norm = nn.LayerNorm(size, eps=EPSILON) if layer_norm else nn.Identity()

    def begin(self, masks: Masks | None = None) -> "Update":
        """Prepares the updates of a window, with masks that thin candidates."""
        return Update(tuple(self.parameters()), masks)


class Update:
    """The updates of a window."""

    def __init__(self, weights: tuple[Tensor, ...], masks: Masks | None) -> None:
        """Prepares updates.

        Args:
            weights: gains and shifts of the gates, [4, n] each, and of the cell, [n] each; none without normalisation.
            masks: of recurrent dropout.
        """
        self.weights = weights
        self._masks = masks
        self._gradients: list[tuple[Tensor, ...]] = []
        if weights:
            gain, shift, *cell = (weight.detach() for weight in weights)
            shift = shift.clone()
            shift[GATES.index("forget")] += FORGET_BIAS
            self._norms = [*zip(gain, shift, strict=True), (cell[0], cell[1])]

    def forward(self, gates: Sequence[Tensor], c: Tensor) -> tuple[Tensor, Tensor, Saved]:
        """Output and cell of a step, [B, n] each, and what `backward` needs.

        Args:
            gates: four times contiguous [B, n], which may be changed.
            c: the cell before, [B, n].
        """
        moments: list[Tensor] = []
        if self.weights:
            active = [self._normalize(gate, k, moments) for k, gate in enumerate(gates)]
        else:
            active = list(gates)
            active[GATES.index("forget")].add_(FORGET_BIAS)
        enter, keep, leave = (gate.sigmoid_() for gate in active[:3])
        candidate = active[3].tanh_()
        mask = self._masks.draw(*c.shape) if self._masks else None
        new = torch.addcmul(keep * c, enter, candidate if mask is None else candidate * mask)
        read = (self._normalize(new, 4, moments) if self.weights else new).tanh()
        return leave * read, new, (*gates, *active, c, new, read, mask, *moments)

    def backward(self, saved: Saved, h_gradient: Tensor, c_gradient: Tensor) -> tuple[list[Tensor], Tensor]:
        """Gradients of the four gates, [B, n] each, and of the cell before, from those of the output and the cell."""
        gates, (enter, keep, leave, candidate, c, new, read, mask, *moments) = saved[:4], saved[4:]
        learned: list[Tensor] = []
        of_read = aten.tanh_backward(h_gradient * leave, read)
        if self.weights:
            of_read = self._normalize_back(of_read, new, 4, moments, learned)
        c_gradient = of_read.add_(c_gradient)
        of_taken = c_gradient if mask is None else c_gradient * mask
        found = [
            aten.sigmoid_backward(of_taken * candidate, enter),
            aten.sigmoid_backward(c_gradient * c, keep),
            aten.sigmoid_backward(h_gradient * read, leave),
            aten.tanh_backward(of_taken * enter, candidate),
        ]
        if self.weights:
            found = [self._normalize_back(own, gates[k], k, moments, learned) for k, own in enumerate(found)]
            self._gradients.append(tuple(learned))
        return found, c_gradient * keep

    def gradients(self) -> tuple[Tensor, ...]:
        """Of the weights, summed over the steps that went back."""
        if not self.weights:
            return ()
        cell_gain, cell_shift, *gates = (torch.stack(parts).sum(0) for parts in zip(*self._gradients, strict=True))
        self._gradients.clear()
        return torch.stack(gates[::2]), torch.stack(gates[1::2]), cell_gain, cell_shift

    def _normalize(self, x: Tensor, which: int, moments: list[Tensor]) -> Tensor:
        gain, shift = self._norms[which]
        normalized, mean, rstd = torch.native_layer_norm(x, x.shape[-1:], gain, shift, EPSILON)
        moments += mean, rstd
        return normalized

    def _normalize_back(
        self, gradient: Tensor, x: Tensor, which: int, moments: list[Tensor], learned: list[Tensor]
    ) -> Tensor:
        gain, shift = self._norms[which]
        found: Tensor
        found, *own = aten.native_layer_norm_backward(
            gradient, x, x.shape[-1:], *moments[2 * which : 2 * which + 2], gain, shift, [True, True, True]
        )
        learned += own
        return found


def split_by_gate(rows: Tensor, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Rows [B, 4n] as four times [B, n] in a type."""
    return rows.to(dtype).chunk(len(GATES), 1)


def add_by_gate(gates: Sequence[Tensor], rows: Tensor) -> None:
    """Adds rows [B, 4n] to gates, [B, n] each."""
    for gate, part in zip(gates, rows.chunk(len(GATES), 1), strict=True):
        gate += part
