"""Small networks."""

from collections.abc import Callable

import torch

from models.sequences.hyper_lstm import HyperLSTM
from models.sequences.lstm import LSTM
from models.sequences.recurrent import Recurrent

X, H, N, Z, T, B = 5, 7, 6, 3, 9, 4

MAKERS: dict[str, Callable[..., Recurrent]] = {
    "lstm": lambda **more: LSTM(X, H, layer_norm=False, **more),
    "ln-lstm": lambda **more: LSTM(X, H, layer_norm=True, **more),
    "hyper": lambda **more: HyperLSTM(X, H, hyper_size=N, embedding_size=Z, layer_norm=False, **more),
    "ln-hyper": lambda **more: HyperLSTM(X, H, hyper_size=N, embedding_size=Z, layer_norm=True, **more),
}


def make(name: str, **more: object) -> Recurrent:
    """A network whose parameters are all random, so that none can be left out unnoticed."""
    torch.manual_seed(0)
    found = MAKERS[name](**more).double()
    with torch.no_grad():
        for parameter in found.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return found
