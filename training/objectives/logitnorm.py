"""LogitNorm: cross-entropy on logits of a fixed norm, so that longer logits alone make no network surer in training.

Wei, Xie, Cheng, Feng, An & Li, "Mitigating Neural Network Overconfidence with Logit Normalization", ICML 2022.

Only the loss sees normalised logits. Networks answer with their own, as in the paper: their norm, which no loss asks
for, is smaller where an input has few of the features of any class. It has no scale of its own, so that networks are
sharpened after the training by what is held out (`training.runs.run.sharpen`), and then the mean of their probabilities
gets its temperature as ever.

Shapes: S sampled networks, B inputs, K classes.
"""

from dataclasses import dataclass

from torch import Tensor

LEAST_NORM = 1e-7


@dataclass(frozen=True)
class LogitNorm:
    """Settings of the loss."""

    temperature: float = 0.04
    """τ. The norm is 1 / τ."""


def normalize_logits(logits: Tensor, settings: LogitNorm) -> Tensor:
    """Logits z / (τ ‖z‖) for logits z, [S, B, K] (equation 5)."""
    norms: Tensor = logits.norm(dim=-1, keepdim=True)
    return logits / (settings.temperature * (norms + LEAST_NORM))
