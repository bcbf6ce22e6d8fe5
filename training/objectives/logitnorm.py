"""LogitNorm: losses of logits with a fixed norm, so that longer logits alone make no network surer in training.

Wei, Xie, Cheng, Feng, An & Li, "Mitigating Neural Network Overconfidence with Logit Normalization", ICML 2022.

Only losses see normalised logits. Networks answer with their own, as in the paper. These have no scale, so networks are
sharpened after the training by what is held out (`training.runs.run.sharpen`), and the mean of their probabilities then
gets its temperature as usual.

Shapes: S sampled networks, B inputs, K classes.
"""

from dataclasses import dataclass

from torch import Tensor

LEAST_NORM = 1e-7


@dataclass(frozen=True)
class LogitNorm:
    """Settings of the normalisation."""

    temperature: float = 0.04
    """τ. The norm is 1 / τ."""


def normalize_logits(logits: Tensor, settings: LogitNorm) -> Tensor:
    """Logits z / (τ ‖z‖) for logits z, [S, B, K]."""
    norms: Tensor = logits.norm(dim=-1, keepdim=True)
    return logits / (settings.temperature * (norms + LEAST_NORM))
