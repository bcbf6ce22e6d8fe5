"""LSTM and HyperLSTM step by step, as the equations of their papers are written and everybody would write them.

Shapes: T steps, B sequences, X numbers of an input, H units.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.sequences.hyper_lstm import HyperLSTMCell
from models.sequences.lstm import LSTMCell
from models.sequences.recurrent import Recurrent
from models.sequences.update import EPSILON, FORGET_BIAS, CellUpdate, GateNorm


def run_plainly(network: Recurrent, inputs: Tensor) -> Tensor:
    """Outputs [T, B, H] of inputs [T, B, X], from a state of zeros."""
    for cell in network.layers:
        assert isinstance(cell, LSTMCell | HyperLSTMCell)
        state = [inputs.new_zeros(inputs.shape[1], size) for size in cell.state_sizes]
        outputs = []
        for x in inputs:
            state = step_plainly(cell, x, state)
            outputs.append(state[0])
        inputs = torch.stack(outputs)
    return inputs


def step_plainly(cell: LSTMCell | HyperLSTMCell, x: Tensor, state: list[Tensor]) -> list[Tensor]:
    """The state after a step, from inputs [B, X] and the state before, [B, …] each."""
    h, c, *small = state
    dropout = cell.recurrent_dropout if cell.training else 0.0
    by_h, by_x = (h @ cell.weight_h.T).chunk(4, -1), (x @ cell.weight_x.T).chunk(4, -1)
    if isinstance(cell, LSTMCell):
        biases = cell.bias.chunk(4)
        return _update(cell.update, [by_h[k] + by_x[k] + biases[k] for k in range(4)], c, dropout)
    hyper_h, hyper_c = small
    gates = h @ cell.hyper_weight_h.T + x @ cell.hyper_weight_x.T + hyper_h @ cell.hyper_weight.T + cell.hyper_bias
    small = _update(cell.hyper_update, list(gates.chunk(4, -1)), hyper_c)
    pre = []
    for k in range(4):
        z_h, z_x, z_b = (small[0] @ cell.embedding_weight[kind, k].T for kind in range(3))
        z_h, z_x = z_h + cell.embedding_bias[0, k], z_x + cell.embedding_bias[1, k]
        d_h, d_x, d_b = (z @ cell.scale_weight[kind, k].T for kind, z in enumerate((z_h, z_x, z_b)))
        pre.append(d_h * by_h[k] + d_x * by_x[k] + d_b + cell.bias[k])
    return [*_update(cell.update, pre, c, dropout), *small]


def _update(update: CellUpdate, pre: list[Tensor], c: Tensor, dropout: float = 0.0) -> list[Tensor]:
    """Output and cell, from what the gates are before they are normalised."""
    norm, cell_norm = update.norm, update.cell_norm
    if isinstance(norm, GateNorm):
        pre = [F.layer_norm(own, own.shape[-1:], norm.gain[k], norm.shift[k], EPSILON) for k, own in enumerate(pre)]
    enter, keep, leave, candidate = pre
    c = (keep + FORGET_BIAS).sigmoid() * c + enter.sigmoid() * F.dropout(candidate.tanh(), dropout)
    read = cell_norm(c) if isinstance(cell_norm, nn.LayerNorm) else c
    return [leave.sigmoid() * read.tanh(), c]
