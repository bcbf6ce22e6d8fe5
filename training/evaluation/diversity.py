"""Measures of how much sampled networks differ.

Shapes: S sampled networks, B inputs, K classes.
"""

import torch
from torch import Tensor

from models.targets.target import TargetNetwork, Weights
from training.evaluation.summaries import Spread, average, summarize


def measure_disagreement(member_probabilities: Tensor) -> float:
    """Share of images on which two random distinct members choose different classes; 0 for a single member.

    Args:
        member_probabilities: [S, B, K].
    """
    size, _, classes = member_probabilities.shape
    if size == 1:
        return 0.0
    counts = torch.nn.functional.one_hot(member_probabilities.argmax(-1), classes).sum(0).double()
    agreeing = (counts * (counts - 1)).sum(-1) / (size * (size - 1))
    return float(1 - agreeing.mean())


def measure_weight_spread(weights: Weights) -> float:
    """Standard deviation of weights over networks divided by the weights' root mean square, averaged over layers."""
    matrices = [tensor for name, tensor in weights.items() if name.endswith(".weight")]
    return average([(m.var(0).mean() / m.square().mean()).sqrt() for m in matrices])


def measure_layer_norms(target: TargetNetwork, weights: Weights) -> dict[str, Spread]:
    """2-norm of each layer's weights and biases together, over S networks."""
    return {layer: summarize(vectors.norm(dim=1)) for layer, vectors in target.layer_vectors(weights).items()}
